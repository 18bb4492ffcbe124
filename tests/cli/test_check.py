"""`qdbev-deploy check`: table, JSON, exit codes, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qdbev_deploy.cli import main
from qdbev_deploy.graph.files import write_onnx
from tests.check.test_lowering import int8_conv
from tests.check.test_rules import _int8_clip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    proto = int8_conv()
    import onnx

    write_onnx(onnx.shape_inference.infer_shapes(proto), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_good_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(model), "--target", "trt10.3", "--gpu", "orin"]) == 0
    printed = capsys.readouterr().out
    assert "no rule is broken" in printed
    assert "100.0%" in printed
    assert "roofline on Jetson AGX Orin 64 GB" in printed
    assert "not a forecast" in " ".join(printed.split())


def test_json_is_one_document(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(model), "--target", "trt8.6", "--gpu", "sm_86", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["errors"] == []
    assert document["coverage"]["all"]["int8_share"] == 1.0
    assert document["roofline"]["device"]["name"] == "GeForce RTX 3090"
    assert len(document["lowered"]) == 3


def test_a_broken_rule_exits_5(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    proto = onnx.load(model)
    _int8_clip(proto)
    write_onnx(proto, model)
    assert main(["check", str(model), "--target", "trt10.3"]) == 5
    assert "[int8-clip]" in capsys.readouterr().out


def test_sentences_for_what_is_wrong(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(model), "--target", "trt7"]) == 3
    assert main(["check", str(model), "--target", "ort", "--gpu", "abacus"]) == 3
    assert main(["check", str(model), "--target", "ort", "--gpu", "sm_²"]) == 3
    model.write_bytes(model.read_bytes()[:100])
    assert main(["check", str(model), "--target", "ort"]) == 3
    assert capsys.readouterr().err.count("error:") == 4


@pytest.mark.parametrize("name", ["m[v2].onnx", "m[red].onnx", "m:gear:.onnx", "m[].onnx"])
def test_names_are_printed_as_they_are(name: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    proto = onnx.load(model)
    _int8_clip(proto)
    for node in proto.graph.node:
        node.name = f"[bold]{node.name}:bomb:[/x]"
    path = model.with_name(name)
    write_onnx(proto, path)
    assert main(["check", str(path), "--target", "trt10.3"]) == 5
    printed = capsys.readouterr().out
    assert f"{path.name} for trt10.3\n" in printed
    assert "    [bold]clip:bomb:[/x]\n" in printed


def test_it_works_without_torch(model: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from qdbev_deploy.cli import main; sys.exit(main(['check', {str(model)!r}, '--target', 'trt11']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
