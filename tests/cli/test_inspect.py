"""`qdbev-deploy inspect` on checkpoints and bundles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qdbev_deploy.cli import main
from qdbev_deploy.data.stream_frames import StreamFrame
from qdbev_deploy.engine import Bundle, build
from qdbev_deploy.errors import ExitCode
from qdbev_deploy.export import export_onnx
from qdbev_deploy.model import build_model, save_checkpoint
from qdbev_deploy.quant import load_recipe, quantise, save_student
from tests.drive import frames
from tests.export.students import SHORT, float_model
from tests.package.bundles import hand_made
from tests.report.engines import ATTENTION


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "micro.pt", build_model("micro", seed=0), {"epoch": 7})
    return tmp_path / "micro.pt"


def test_for_machines(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint), "--json"]) == ExitCode.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["variant"] == "micro"
    assert document["meta"]["epoch"] == 7
    assert document["activations_without_scale"] == []
    assert document["parts"]["backbone"]["parameters"] == 2_798_880


def test_for_people(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint)]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert "micro: six images of 192x320" in text
    assert "epoch: 7" in text


def test_an_unfinished_student_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, path = load_recipe("w4a6"), tmp_path / "student.pt"
    save_student(path, quantise(build_model("micro", seed=0), recipe), recipe)
    assert main(["inspect", str(path), "--json"]) == ExitCode.DONE
    unset = json.loads(capsys.readouterr().out)["activations_without_scale"]
    assert "img_backbone.stem_tap" in unset
    assert main(["inspect", str(path)]) == ExitCode.DONE
    text = " ".join(capsys.readouterr().out.split())
    assert f"unfinished: {len(unset)} activations have no scale yet and pass in float, '{unset[0]}' first" in text


def test_bad_input(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint), "--variant", "huge"]) == ExitCode.BAD_INPUT
    assert main(["inspect", str(checkpoint), "--variant", "base"]) == ExitCode.BAD_INPUT
    assert main(["inspect", str(checkpoint.with_name("absent"))]) == ExitCode.BAD_INPUT
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 3
    assert "Traceback" not in captured.err


def test_options_that_belong_to_the_other_kind(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = hand_made(checkpoint.with_name("student.qdbev")).path
    for arguments in (
        [str(checkpoint), "--profile"], [str(checkpoint), "--graph", "a.svg"], [str(checkpoint), "--top", "0"],
        [str(bundle), "--variant", "tiny"], [str(bundle), "--frames", "5"], [str(bundle), "--top", "-1"],
        [str(bundle), "--profile", "--frames", "1"], [str(bundle), "--graph", "graph.png"],
    ):  # fmt: skip
        assert main(["inspect", *arguments]) == ExitCode.USAGE, arguments
    assert "Traceback" not in capsys.readouterr().err
    onnx = checkpoint.with_name("student.onnx")
    onnx.write_bytes(b"")
    assert main(["inspect", str(onnx)]) == ExitCode.BAD_INPUT
    assert f"qdbev-deploy check {onnx}" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------------
# Bundles


def test_a_bundle_of_another_machine_is_read_without_its_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_made(tmp_path / "student.qdbev")
    assert main(["inspect", str(tmp_path / "student.qdbev")]) == ExitCode.DONE
    text = capsys.readouterr().out
    for said in (
        "student.qdbev: tiny for tensorrt, int8, image float32, state fp32", "verified: 5 files",
        "does not run on this machine", "with tensorrt 10.3.0.30, cuda 12.6 for Orin", "from student.onnx",
        "quantised by w4a6", "asked in int8: 4 nodes; ran in int8: 3", "1 nodes (runs in FP16 by design)",
        "what the plugins ran in", "sm80_xmma_fprop_implicit_gemm_<&>", "not proved",
    ):  # fmt: skip
        assert said in text, said
    plugin = next(line for line in text.splitlines() if line.strip().startswith("SpatialCrossAttn"))
    assert plugin.split()[:4] == ["SpatialCrossAttn", "int8", "float16", "1.50"]
    # By time, as the build measured it: the slowest first.
    rows = text[text.index("9 layers by time") :].splitlines()
    assert "SpatialCrossAttn" in rows[2]
    assert main(["inspect", str(tmp_path / "student.qdbev"), "--profile"]) == ExitCode.MISSING
    assert "Traceback" not in capsys.readouterr().err


def test_emulated_int8_is_not_called_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(hand_made(tmp_path / "student.qdbev", "onnxruntime").path)
    assert main(["inspect", folder]) == ExitCode.DONE
    assert "tiny for onnxruntime, int8, emulated in floating point, image" in capsys.readouterr().out
    assert main(["inspect", folder, "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["precision_said"] == "int8, emulated in floating point"
    fused = str(hand_made(tmp_path / "fused.qdbev", "onnxruntime", options={"fused": True}).path)
    assert main(["inspect", fused]) == ExitCode.DONE
    assert "tiny for onnxruntime, int8, image" in capsys.readouterr().out


def test_a_bundle_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = hand_made(tmp_path / "student.qdbev")
    graph = tmp_path / "graph.html"
    assert main(["inspect", str(bundle.path), "--json", "--graph", str(graph)]) == ExitCode.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "qdbev-inspect/1"
    assert document["manifest_sha256"] == bundle.manifest_sha256
    assert set(document["verified"]["files"]) == {
        "engine.plan", "libqdbev_plugins.so", "layers.json", "contract.json", "guard.json",
    }  # fmt: skip
    assert (document["runs_here"], document["why_not"]["exit_code"]) == (False, ExitCode.MISSING)
    assert document["precisions"]["int8"]["layers"] == 4
    assert document["parts"]["backbone"]["layers"] == 4
    assert [entry["layer"] for entry in document["plugins"]] == [ATTENTION]
    assert [layer["name"] for layer in document["layers"]] == [layer.name for layer in bundle.layers]
    assert document["layers"][0]["part"] == "backbone"
    assert document["profile"] is None
    assert "student.qdbev" in graph.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["engine.plan", "layers.json", "contract.json", "libqdbev_plugins.so", "manifest.json"]
)
def test_a_bundle_that_was_changed(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = hand_made(tmp_path / "student.qdbev").path / name
    path.write_bytes(path.read_bytes()[:-2] + b"  ")
    assert main(["inspect", str(path.parent)]) == ExitCode.BAD_INPUT
    assert name in capsys.readouterr().err


def test_orders_and_counts_of_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(hand_made(tmp_path / "student.qdbev").path)

    def listed(*arguments: str) -> list[str]:
        assert main(["inspect", folder, *arguments]) == ExitCode.DONE
        text = capsys.readouterr().out
        first = [line.split()[0] for line in text[text.index(" layers by ") :].splitlines()[2:] if line.strip()]
        return [word for word in first if word.isdigit()]

    assert listed("--sort", "order", "--top", "0") == [str(index) for index in range(9)]
    assert listed("--top", "2") == ["6", "3"]
    assert listed("--sort", "macs", "--top", "1") == ["0"]
    assert listed("--sort", "bytes", "--top", "3") == ["4", "5", "6"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that runs: a small float model on ONNX Runtime."""
    folder = tmp_path_factory.mktemp("bundle")
    export_onnx(float_model(SHORT), folder / "small.onnx", verify=False)
    return build(folder / "small.onnx", folder / "small.qdbev", backend="onnxruntime", precision="fp32", verify=False)


def test_a_profile_measures_here(
    small: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    @contextmanager
    def noise(spec: object, image: str, dataroot: object, count: int) -> Iterator[tuple[str, Iterator[StreamFrame]]]:
        asked.append((image, dataroot, count))
        yield "noise", frames(SHORT, count=count)

    monkeypatch.setattr("qdbev_deploy.data.stream_frames.parity_frames", noise)
    assert main(["inspect", str(small.path), "--profile", "--frames", "4", "--json"]) == ExitCode.DONE
    document = json.loads(capsys.readouterr().out)
    assert asked == [("float32", None, 4)]
    assert document["profile"] == {"frames": 4, "source": "noise", "statistic": "median"}
    timed = [layer for layer in document["layers"] if layer["time_ms"] is not None]
    assert len(timed) > 0.9 * len(document["layers"])
    assert sum(layer["time_ms"] for layer in timed) > 0
    assert main(["inspect", str(small.path), "--profile", "--frames", "4", "--top", "3"]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert "runs on this machine" in text
    assert "median of 4 frames, noise" in text
    assert "no plugins in this engine. ONNX Runtime" in text


def test_a_bundle_without_times(small: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(small.path), "--sort", "time"]) == ExitCode.USAGE
    assert main(["inspect", str(small.path)]) == ExitCode.DONE
    assert "layers by macs" in capsys.readouterr().out
