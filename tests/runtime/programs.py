"""The C++ runtime's programs, as `make ctest` builds them, and the Python session that they are held against."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdbev_deploy.bench.samples import Samples, save
from qdbev_deploy.boxes import Boxes, decode
from qdbev_deploy.data.stream_frames import StreamFrame
from qdbev_deploy.engine import Bundle
from qdbev_deploy.machine import libraries_in_packages

ROOT = Path(__file__).parents[2]
VARIABLE = "QDBEV_RUNTIME_TESTS"  # the folder that `cmake --build` filled from runtime/


def program(name: str) -> Path:
    """A program of runtime/; a test that needs it is skipped where it was not built."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} names no build of runtime/: `make ctest` makes one, `make test` sets it")
    for path in (Path(folder) / name, Path(folder) / "tests" / name):
        if path.is_file():
            return path
    pytest.skip(f"{folder} has no {name}: its backend's headers were not found when it was built")


def onnxruntime_library() -> Path:
    """The shared library inside the Python package, which is the same that an archive for C++ holds."""
    return Path(libraries_in_packages()["QDBEV_ONNXRUNTIME_LIBRARY"])


def run(name: str, *words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A program's run with the libraries of both backends at hand."""
    surroundings = {**libraries_in_packages(), **os.environ}
    surroundings = {name: value for name, value in surroundings.items() if name != "ORT_DISABLE_TELEMETRY"}
    surroundings |= env or {}
    return subprocess.run(
        [str(program(name)), *map(str, words)], capture_output=True, text=True, env=surroundings, timeout=300
    )


def streamed(bundle: Path, samples: Path, *words: object) -> dict[str, Any]:
    """The document of qdbev-stream."""
    done = run("qdbev-stream", bundle, "--samples", samples, "--json", "-", *words)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["schema"] == "qdbev-stream/1"
    return document


def saved(folder: Path, frames: Sequence[StreamFrame], *, native: bool = False) -> Path:
    folder.mkdir()
    save(Samples("sequence", "a drive of noise", tuple(frames), native), folder)
    return folder


def in_python(bundle: Bundle, frames: Sequence[StreamFrame]) -> list[tuple[str, Boxes]]:
    """(why the state was dropped, boxes) of every frame."""
    found = []
    with bundle.session() as session:
        for frame in frames:
            output = session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
            found.append((output.reset_reason, decode(output.classes, output.coords, bundle.spec)))
    return found


def assert_same(document: dict[str, Any], expected: list[tuple[str, Boxes]]) -> None:
    assert len(document["frames"]) == len(expected)
    for frame, (reason, boxes) in zip(document["frames"], expected, strict=True):
        assert frame["reset_reason"] == reason
        assert len(frame["boxes"]) == len(boxes) > 0
        assert [box["label"] for box in frame["boxes"]] == boxes.label.tolist()
        for name in ("center", "velocity"):  # taken from the outputs as they are
            np.testing.assert_array_equal(np.float32([box[name] for box in frame["boxes"]]), getattr(boxes, name))
        for name in ("size", "score", "yaw"):  # computed: the last bits of exp and atan2 are a library's own
            found = np.float32([box[name] for box in frame["boxes"]])
            np.testing.assert_allclose(found, getattr(boxes, name), rtol=2e-6, atol=2e-6)
