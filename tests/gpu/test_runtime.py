"""The C++ runtime on TensorRT: the boxes of the Python session, graphs both ways, nothing allocated between frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.drive import frames
from tests.gpu.engines import FRAMES, SPEC, Engines
from tests.runtime.programs import assert_same, in_python, saved, streamed


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("drive") / "frames", list(frames(SPEC, count=FRAMES)))


def on_tensorrt(engines: Engines, drive: Path, precision: str, *words: object) -> dict[str, Any]:
    document = streamed(engines.bundle(precision).path, drive, *words)
    assert document["backend"] == "tensorrt"
    return document


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("words", [(), ("--cuda-graph", "--spin"), ("--timed",)])
def test_boxes_are_those_of_the_python_session(
    engines: Engines, drive: Path, precision: str, words: tuple[str, ...]
) -> None:
    document = on_tensorrt(engines, drive, precision, *words)
    assert_same(document, in_python(engines.bundle(precision), list(frames(SPEC, count=FRAMES))))
    if "--timed" in words:
        for stage in ("upload", "compute", "download"):
            assert min(document["milliseconds"][stage]) > 0


@pytest.mark.parametrize("words", [(), ("--cuda-graph",)])
def test_no_frame_allocates(engines: Engines, drive: Path, words: tuple[str, ...]) -> None:
    document = on_tensorrt(engines, drive, "int8", "--repeats", 20, *words)
    assert document["allocations"]["thread"] == 0


def test_native_frames_are_prepared(engines: Engines, tmp_path: Path) -> None:
    native = list(frames(SPEC, "uint8", count=2))
    document = on_tensorrt(engines, saved(tmp_path / "drive", native, native=True), "int8")
    assert_same(document, in_python(engines.bundle("int8"), list(frames(SPEC, count=2))))
