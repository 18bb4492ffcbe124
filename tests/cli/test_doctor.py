"""`qdbev-deploy doctor` on machines that have little and on machines that have much."""

from __future__ import annotations

import json
import sys

import pytest

from qdbev_deploy import machine
from qdbev_deploy.cli import main
from qdbev_deploy.errors import ExitCode
from qdbev_deploy.machine import Driver, Gpu

ORIN = Driver((12, 6), (Gpu("Orin", (8, 7), 32 << 30),))


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["doctor", "--json", *arguments])
    document = json.loads(capsys.readouterr().out)
    assert document["complete"] is (code == ExitCode.DONE)
    return code, {finding["item"]: finding for finding in document["findings"]}


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda_driver", lambda: None)
    monkeypatch.delenv("NUSCENES", raising=False)


@pytest.fixture
def on_an_orin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda_driver", lambda: ORIN)


@pytest.mark.usefixtures("without_gpu")
def test_a_laptop_needs_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = doctor(capsys)
    assert code == ExitCode.DONE
    assert findings["ONNX Runtime"]["status"] == "ok"
    assert "CPU" in findings["ONNX Runtime"]["detail"]
    assert findings["GPU"]["status"] == "not needed"
    assert findings["TensorRT for Python"]["status"] in ("ok", "not needed")


@pytest.mark.usefixtures("without_gpu")
def test_asked_for_tensorrt_it_names_what_lacks_and_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = doctor(capsys, "--for", "tensorrt")
    assert code == ExitCode.MISSING
    assert findings["GPU"]["status"] == "missing"
    assert all(finding["get_it"] for finding in findings.values() if finding["status"] != "ok")


@pytest.mark.usefixtures("on_an_orin")
def test_with_a_gpu_tensorrt_is_needed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "tensorrt_library", lambda: None)
    code, findings = doctor(capsys)
    assert code == ExitCode.MISSING
    assert findings["GPU"]["detail"] == "Orin, compute capability 8.7, 32.0 GiB"
    assert findings["TensorRT library"]["status"] == "missing"


@pytest.mark.usefixtures("without_gpu")
def test_without_onnxruntime_the_base_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "package_version", lambda name: None)
    code, findings = doctor(capsys)
    assert code == ExitCode.MISSING
    assert findings["ONNX Runtime"] == {
        "item": "ONNX Runtime", "status": "missing", "detail": "not installed", "get_it": "pip install onnxruntime",
    }  # fmt: skip


@pytest.mark.usefixtures("without_gpu")
def test_an_onnxruntime_that_does_not_load_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> None:
            raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "onnxruntime", Broken())
    code, findings = doctor(capsys)
    assert code == ExitCode.MISSING
    assert findings["ONNX Runtime"]["status"] == "missing"
    assert "libgomp.so.1" in findings["ONNX Runtime"]["detail"]


@pytest.mark.usefixtures("without_gpu")
def test_training_needs_all_its_packages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    known = machine.package_version
    monkeypatch.setattr(machine, "package_version", lambda name: None if name == "scipy" else known(name))
    code, findings = doctor(capsys, "--for", "train", "--for", "train")
    assert code == ExitCode.MISSING
    assert findings["training packages"]["detail"] == "without scipy"


@pytest.mark.usefixtures("without_gpu")
def test_a_root_that_is_no_folder_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORRT_ROOT", "/nonexistent")
    monkeypatch.setattr(machine, "tensorrt_library", lambda: None)
    _, findings = doctor(capsys, "--for", "tensorrt")
    assert "TENSORRT_ROOT=/nonexistent is no folder" in findings["TensorRT library"]["detail"]


@pytest.mark.usefixtures("without_gpu")
def test_the_table_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == ExitCode.DONE
    text = capsys.readouterr().out
    for item in ("Python", "ONNX Runtime", "GPU", "CUDA toolkit", "TensorRT headers", "nuScenes data"):
        assert item in text
