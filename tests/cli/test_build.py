"""`build` as a user meets it: what it prints, its JSON, its exit codes."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path

import onnx
import pytest

from qdbev_deploy.cli import _command_parser, main
from qdbev_deploy.errors import ExitCode
from qdbev_deploy.graph.float_baseline import float_copy
from tests.engine.students import Students


def test_a_bundle_with_its_proof(
    students: Students, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "student.qdbev"
    arguments = ["build", "--onnx", str(students.onnx), "--int8", "-o", str(out), "--dataroot", str(synthetic_dataroot)]
    assert main([*arguments, "--frames", "4", "--backend", "onnxruntime"]) == ExitCode.DONE
    said = capsys.readouterr()
    assert "student.qdbev: short, int8, onnxruntime" in said.out
    assert "onnxruntime-emulates-int8: int8 values computed in float32" in said.out
    assert "ran in int8: 0" in said.out
    (row,) = (line.split() for line in said.out.splitlines() if line.strip().startswith("backbone  Conv"))
    nodes = json.loads((out / "guard.json").read_text(encoding="utf-8"))["nodes"]
    asked = sum(node["op"] == "Conv" and node["node"].startswith("img_backbone") for node in nodes)
    assert row[:6] == ["backbone", "Conv", str(asked), "0", str(asked), "0"]
    assert 0 < float(row[6].rstrip("%")) < 100
    assert 0 < float(row[7].rstrip("%")) < 100
    assert "says nothing of int8 arithmetic on a target" in said.out
    assert "parity over 4 frames (two scenes of data), 2 of them the first of a scene" in said.out
    assert "backend onnxruntime, as asked for" in said.err


def test_json_is_the_manifest(students: Students, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "student.qdbev"
    arguments = ["build", "--onnx", str(students.onnx), "--int8", "-o", str(out), "--no-verify", "--json"]
    assert main([*arguments, "--threads", "1", "--backend", "onnxruntime"]) == ExitCode.DONE
    said = json.loads(capsys.readouterr().out)
    assert said["bundle"] == str(out)
    assert said["manifest"] == json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert said["manifest"]["build"]["options"]["threads"] == 1
    assert said["manifest"]["parity"]["passed"] is None


def test_auto_says_in_one_line_what_it_took(
    students: Students, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qdbev_deploy.machine.cuda_driver", lambda: None)
    out = str(tmp_path / "a.qdbev")
    assert main(["build", "--onnx", str(students.onnx), "--int8", "-o", out, "--no-verify"]) == ExitCode.DONE
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "backend onnxruntime, as TensorRT cannot be used: libcuda.so.1 is not there"
    assert "not proved, as --no-verify asked:" in said.out


def test_tensorrt_without_a_gpu_is_missing(
    students: Students, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qdbev_deploy.machine.cuda_driver", lambda: None)
    code = main(
        ["build", "--onnx", str(students.onnx), "--int8", "--backend", "tensorrt", "-o", str(tmp_path / "a.qdbev")]
    )
    assert code == ExitCode.MISSING
    assert "libcuda.so.1 is not there" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_float_file_for_int8(students: Students, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my file.onnx"
    onnx.save(float_copy(onnx.load(students.onnx)), path)
    arguments = ["build", "--onnx", str(path), "--int8", "--backend", "onnxruntime", "-o", str(tmp_path / "a.qdbev")]
    assert main(arguments) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    commands = said.split("next:")[1].strip().removesuffix(".").split(" && ")
    assert len(commands) == 2
    for command, name in zip(commands, ("calibrate", "build"), strict=True):
        program, found, *words = shlex.split(command)
        assert (program, found) == ("qdbev-deploy", name)
        module = importlib.import_module(f"qdbev_deploy.cli.{name}")
        parsed = _command_parser(name, module).parse_args(words)
        assert Path(parsed.onnx) == (path if name == "calibrate" else tmp_path / "my file-int8.onnx")


def test_a_guard_that_fails(students: Students, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["build", "--onnx", str(students.onnx), "--int8", "--fused", "--backend", "onnxruntime", "--json"]
    assert main([*arguments, "-o", str(tmp_path / "a.qdbev")]) == ExitCode.GUARD
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["exit_code"] == 5
    assert "did not run in it" in error["found"]
    assert "a.guard.json" in error["next_step"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.guard.json"]


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--int8", "--fp16"], ["--int8", "--backend", "openvino"], ["--int8", "--allow", "no reason"],
        ["--int8", "--no-verify", "--debug-parity"], ["--int8", "--frames", "2"], ["--fp16"], ["--int8", "--dla", "0"],
        ["--int8", "--timing-cache", "a.cache"], ["--int8", "--tactic-sources", "CUBLAS"], ["--int8", "--threads", "0"],
        ["--int8", "-o", "plain"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_usage(
    students: Students, tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = ["build", "--onnx", str(students.onnx), *arguments]
    if "--backend" not in arguments:
        given += ["--backend", "onnxruntime"]
    assert main(given) == ExitCode.USAGE
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err
