"""`qdbev-deploy export`: file, report, tables, exit codes, and sentences for what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import qdbev_deploy.export.exporter as exporter
from qdbev_deploy.cli import main
from qdbev_deploy.export.parity import BOX_TOLERANCES
from qdbev_deploy.graph.files import sha256_of
from qdbev_deploy.model import save_checkpoint
from qdbev_deploy.quant import save_student
from tests.drive import frames
from tests.export.students import SHORT, float_model, student


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "plain.pt"
    save_checkpoint(path, float_model(SHORT))
    return path


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of this variant's size instead of a synthetic nuScenes, whose pictures are large and slow to draw."""

    class Frames:
        def __init__(self, spec: object, options: object, dataroot: object, count: int) -> None:
            self.count, self.options = count, options

        def __enter__(self) -> tuple[str, object]:
            return "noise", frames(SHORT, count=self.count)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(exporter, "parity_frames", Frames)


@pytest.mark.usefixtures("noise")
def test_a_student_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, recipe = student(SHORT)
    save_student(tmp_path / "student.pt", model, recipe)
    output = tmp_path / "student.onnx"
    assert main(["export", "--checkpoint", str(tmp_path / "student.pt"), "-o", str(output), "--frames", "4"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "parity holds over 4 frames; 20 are asked for",
        "detections without a partner",
        "weights' integers",
        "torch against itself",
        "int8",
        "backbone",
    ):
        assert words in printed
    metadata = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert metadata["qdbev.checkpoint_sha256"] == sha256_of(tmp_path / "student.pt")
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.usefixtures("noise")
def test_a_failing_parity_exits_5_and_keeps_the_report(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BOX_TOLERANCES, "center_m", 0.0)
    output = tmp_path / "m.onnx"
    assert main(["export", "--checkpoint", str(checkpoint), "-o", str(output), "--frames", "4", "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert document["parity"]["passed"] is False
    assert json.loads((tmp_path / "m.export.json").read_text()) == document
    assert output.is_file()


def test_no_verify_says_what_was_not_proved(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--checkpoint", str(checkpoint), "-o", str(tmp_path / "m.onnx"), "--no-verify"]) == 0
    printed = capsys.readouterr().out
    assert "not proved, as --no-verify asked" in printed
    assert "that the state carries over frames" in printed
    for option in ("--frames", "--dataroot"):
        arguments = ["-o", str(tmp_path / "n.onnx"), "--no-verify", option, "7"]
        assert main(["export", "--checkpoint", str(checkpoint), *arguments]) == 2
        assert f"{option} with --no-verify" in capsys.readouterr().err
    assert not (tmp_path / "n.onnx").exists()


def test_square_brackets_in_a_name_are_a_name(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "y[" / "v2]"
    folder.mkdir(parents=True)
    assert main(["export", "--checkpoint", str(checkpoint), "-o", str(folder / "m.onnx"), "--no-verify"]) == 0
    assert "y[/v2]/m.onnx" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--carrier", "int4"], "--carrier int4 with a float checkpoint"),
        (["--clip", "relaxed"], "--clip relaxed with a float checkpoint"),
        (["--dynamic-shapes"], "dynamic shapes are asked for"),
        (["--opset", "9"], "opset 9"),
        (["--frames", "2"], "2 frames"),
        (["--variant", "tiny"], "does not fit variant 'tiny'"),
        (["--dataroot", "nowhere"], "nowhere"),
    ],
)
def test_sentences(
    arguments: list[str], sentence: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m.onnx"
    assert main(["export", "--checkpoint", str(checkpoint), "-o", str(output), *arguments]) in (3, 4)
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_is_never_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "student.onnx"  # a name that an output may have, too
    save_checkpoint(checkpoint, float_model(SHORT))
    before = checkpoint.read_bytes()
    (tmp_path / "link.onnx").symlink_to(checkpoint)
    (tmp_path / "m.export.json").symlink_to(checkpoint)
    for output in ("student.onnx", "link.onnx", "m.onnx"):
        assert main(["export", "--checkpoint", str(checkpoint), "-o", str(tmp_path / output)]) == 3
        assert f"is the checkpoint {checkpoint} itself" in capsys.readouterr().err
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("output", "arguments", "sentence"),
    [
        ("m.pt", [], "does not end in .onnx"),
        ("m", [], "does not end in .onnx"),
        ("no/m.onnx", [], "does not exist"),
        ("folder.onnx", [], "is a folder"),
        ("m.onnx", ["--dataroot", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_written_or_proved_is_told_before_tracing(
    output: str, arguments: list[str], sentence: str, checkpoint: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delattr(exporter, "assemble")
    (tmp_path / "folder.onnx").mkdir()
    assert main(["export", "--checkpoint", str(checkpoint), "-o", str(tmp_path / output), *arguments]) in (3, 4)
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.onnx"]
