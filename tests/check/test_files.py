"""What is no sound ONNX file is refused with a sentence, before anything of it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.graph import files
from tests.check.test_lowering import int8_conv


def refusal(path: Path) -> str:
    with pytest.raises(QdbevError) as caught:
        files.read_onnx(path)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return str(caught.value)


def test_a_round_trip(tmp_path: Path) -> None:
    files.write_onnx(int8_conv(), tmp_path / "m.onnx")
    assert files.read_onnx(tmp_path / "m.onnx") == int8_conv_from(tmp_path / "m.onnx")


def int8_conv_from(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


@pytest.mark.parametrize("keep", [0, 1, 40, 200, -1])
def test_a_truncated_file(keep: int, tmp_path: Path) -> None:
    content = int8_conv().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content[:keep])
    assert "whole ONNX file" in (said := refusal(tmp_path / "m.onnx")) or "no ONNX graph" in said


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    assert "m.onnx" in refusal(tmp_path / "m.onnx")
    assert "there is no file" in refusal(tmp_path / "other.onnx")


def test_more_than_protobuf_holds(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as stream:
        stream.truncate(3 << 30)  # sparse: takes no room
    assert "3,221,225,472 bytes" in refusal(path)
    assert "save_as_external_data" in refusal(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "C:\\secret.bin", ""])
def test_external_data_that_leaves_the_folder(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    onnx.save(int8_conv(), folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    assert "outside the model's folder" in refusal(folder / "m.onnx")


def test_external_data_behind_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(int8_conv(), folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").rename(tmp_path / "secret.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    assert "outside the model's folder" in refusal(folder / "m.onnx")


def test_external_data_that_is_cut_or_gone(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(int8_conv(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    whole = (tmp_path / "weights.bin").read_bytes()
    assert len(files.read_onnx(path).graph.initializer) == 5
    (tmp_path / "weights.bin").write_bytes(whole[:50])
    assert "ends at byte" in refusal(path)
    (tmp_path / "weights.bin").unlink()
    assert "which is not there" in refusal(path)
