"""The backend as a whole: what it needs of the machine, what it leaves in a bundle, what it refuses to open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qdbev_deploy.engine.backends import backend_named, choose
from qdbev_deploy.engine.interface import BuildOptions
from qdbev_deploy.engine.tensorrt import cuda as seam
from qdbev_deploy.engine.tensorrt import plugin_library, releases
from qdbev_deploy.engine.tensorrt.backend import PLAN_FILE, TensorRTBackend
from qdbev_deploy.engine.tensorrt.log import log_of
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.machine import Driver, Gpu
from qdbev_deploy.plugins import LIBRARY_NAME
from tests.engine.tensorrt.conftest import Bench
from tests.engine.tensorrt.toy import INPUTS, OUTPUTS, lowered_for


def quiet(phase: str, done: int | None, total: int | None) -> None:
    pass


def build(bench: Bench, **options: Any) -> Any:
    backend = TensorRTBackend()
    folder = bench.folder / "NAME.qdbev"
    folder.mkdir(exist_ok=True)
    return folder, backend.build(lowered_for(backend.target()), folder, BuildOptions(**options), quiet)


def reopen(folder: Path, **options: Any) -> Any:
    return TensorRTBackend().open(folder / PLAN_FILE, INPUTS, OUTPUTS, {"extra_files": [LIBRARY_NAME], **options})


def test_nothing_is_missing_on_the_bench(bench: Bench) -> None:
    assert backend_named("tensorrt").missing() is None
    assert choose("auto").backend.name == "tensorrt"


def missing(bench: Bench, found: str) -> str:
    error = TensorRTBackend().missing()
    assert error is not None
    assert error.exit_code == ExitCode.MISSING
    assert found in error.found
    with pytest.raises(QdbevError):
        choose("tensorrt")
    return error.next_step


def test_the_missing_piece_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.abi = 2
    missing(bench, "its ABI is 2")
    bench.abi, bench.architectures = 1, ("90",)
    assert missing(bench, "no kernels for Orin (sm_87)").startswith("qdbev-deploy plugins build --arch 87")
    bench.architectures, bench.built_for = ("87",), "9.9.9"
    missing(bench, f"TensorRT {bench.version.split('.')[0]} is installed, which cannot load these plugins")

    def no_library(path: Path | None = None) -> Any:
        raise QdbevError("no plugin library at A, B", "", "qdbev-deploy plugins build", exit_code=ExitCode.MISSING)

    monkeypatch.setattr(plugin_library, "library_info", no_library)
    assert missing(bench, "no plugin library") == "qdbev-deploy plugins build"
    monkeypatch.setattr(seam, "package", lambda: None)
    assert "pip install cuda-python" in missing(bench, "neither PyCUDA nor cuda-python")
    bench.version = "10.1.0"
    missing(bench, "TensorRT 10.1.0 is installed")
    monkeypatch.setattr(releases, "installed_version", lambda: None)
    assert "pip install 'qdbev-deploy[trt]'" in missing(bench, "tensorrt is not installed")
    bench.driver = Driver((12, 6), ())
    missing(bench, "the driver finds no GPU")
    bench.driver = None
    missing(bench, "libcuda.so.1 is not there")


def test_this_machine_has_no_gpu_and_says_so() -> None:
    from qdbev_deploy import machine

    driver = machine.cuda_driver()
    if driver is not None and driver.gpus:
        pytest.skip("this machine has a GPU")
    error = TensorRTBackend().missing()
    assert error is not None
    assert error.exit_code == ExitCode.MISSING
    assert "TensorRT cannot be used" in choose("auto").says


@pytest.mark.parametrize(
    ("version", "target"),
    [("8.6.0", "trt8.6"), ("8.6.1.6", "trt8.6"), ("10.3.0", "trt10.3"), ("10.16.1.11", "trt10.3"), ("11.1.0", "trt11")],
)
def test_targets(version: str, target: str) -> None:
    assert releases.release_of(version).target == target


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("8.6.1.post1", (8, 6, 1)), ("10.13.2.6", (10, 13, 2)), ("10.3", (10, 3, 0)), ("11", (11, 0, 0)),
     ("none", (0, 0, 0)), ("", (0, 0, 0))],
)  # fmt: skip
def test_numbers_of_a_version(version: str, numbers: tuple[int, ...]) -> None:
    assert releases.numbers_of(version) == numbers


@pytest.mark.parametrize("version", ["8.5.3", "9.2.0", "10.0.1", "10.2.0", "12.0.0", "nonsense"])
def test_unknown_releases_are_refused(version: str) -> None:
    with pytest.raises(QdbevError, match=f"TensorRT {version} is installed") as caught:
        releases.release_of(version)
    assert caught.value.exit_code == ExitCode.MISSING
    assert ("upgrade" in caught.value.next_step) == (version == "12.0.0")


def test_a_package_that_does_not_load_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "tensorrt", raising=False)
    with pytest.raises(QdbevError, match="does not load: libnvinfer"):
        releases.load()


def test_what_a_bundle_gets(bench: Bench) -> None:
    folder, result = build(bench, precision="int8")
    assert result.engine_file == "engine.plan"
    assert {path.name for path in folder.iterdir()} == {"engine.plan", LIBRARY_NAME}
    assert (folder / LIBRARY_NAME).read_bytes() == bench.library.read_bytes()
    assert result.extra_files == (LIBRARY_NAME,)
    assert result.versions["tensorrt"] == bench.version
    assert (result.versions["cuda_driver"], result.versions["plugins_abi"]) == ("12.6", "1")
    assert all(isinstance(value, str) for value in result.versions.values())
    assert result.gpu == {"name": "Orin", "compute_capability": [8, 7]}
    json.dumps([result.versions, result.gpu, result.notes])
    assert "toy/features" in {node for layer in result.layers for node in layer.nodes}


def test_a_plan_of_another_release_is_refused_with_tensorrts_words(bench: Bench) -> None:
    folder, _ = build(bench)
    plan = (folder / PLAN_FILE).read_bytes()
    (folder / PLAN_FILE).write_bytes(plan.replace(bench.version.encode(), b"10.9.0", 1))
    with pytest.raises(QdbevError, match=f"take the plan .*: the plan is of version 10.9.0, not {bench.version}"):
        reopen(folder)
    (folder / PLAN_FILE).write_bytes(plan[:10])
    with pytest.raises(QdbevError, match="did not take the plan"):
        reopen(folder)


@pytest.mark.parametrize("version", ["10.1.0", "9.3.0", "12.0.0"])
def test_a_release_that_is_not_known_opens_nothing(bench_of: Any, version: str) -> None:
    """The package was exchanged after the build: said by its name, before a plan is handed to it."""
    bench = bench_of("10.3.0")
    folder, _ = build(bench)
    bench.trt.opened = None
    bench.trt.__version__ = version
    with pytest.raises(QdbevError, match=f"TensorRT {version} is installed") as caught:
        reopen(folder)
    assert caught.value.exit_code == ExitCode.MISSING
    assert bench.trt.opened is None


@pytest.mark.parametrize("verbosity", ["none", "names"])
def test_a_quantised_engine_that_tells_nothing_is_not_built(bench: Bench, verbosity: str) -> None:
    with pytest.raises(QdbevError, match=f"--profile-verbosity {verbosity} for a quantised file") as caught:
        build(bench, profile_verbosity=verbosity)
    assert caught.value.exit_code == ExitCode.USAGE
    assert not bench.trt.built
    backend = TensorRTBackend()
    model = lowered_for(backend.target(), quantised=False)  # asks for nothing
    backend.build(model, bench.folder, BuildOptions(precision="fp32", profile_verbosity=verbosity), quiet)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["8.6.0", "10.3.0"])
def test_a_version_compatible_plan_may_bring_its_runtime(bench_of: Any, version: str) -> None:
    bench = bench_of(version)
    folder, _ = build(bench, version_compatible=True, dla_core=1)
    assert bench.trt.opened.engine_host_code_allowed is True
    assert bench.trt.opened.DLA_core == 1
    reopen(folder)
    assert not hasattr(bench.trt.opened, "engine_host_code_allowed")
    reopen(folder, version_compatible=True, dla_core=0)
    assert bench.trt.opened.engine_host_code_allowed is True
    assert bench.trt.opened.DLA_core == 0


def test_the_same_plugins_are_registered_once(bench: Bench) -> None:
    folder, _ = build(bench)
    reopen(folder)
    build(bench)
    assert bench.trt.libraries == [str(bench.library)]


def test_two_plugin_libraries_in_one_process_are_refused(bench: Bench) -> None:
    folder, _ = build(bench)
    (folder / LIBRARY_NAME).write_bytes(b"another library")
    with pytest.raises(QdbevError, match="another plugin library than"):
        reopen(folder)


def test_a_library_that_tensorrt_does_not_take(bench: Bench) -> None:
    bench.trt.behaviour.refuses_library = True
    with pytest.raises(QdbevError, match=r"did not take the plugins of .*MSDeformAttn") as caught:
        build(bench)
    assert caught.value.exit_code == ExitCode.MISSING


def test_a_bundles_library_for_another_gpu_is_refused(bench: Bench) -> None:
    folder, _ = build(bench)
    bench.driver = Driver((12, 6), (Gpu("H200", (9, 0), 1 << 37),))
    bench.architectures = ("87-real",)
    with pytest.raises(QdbevError, match=r"no kernels for H200 \(sm_90\)") as caught:
        reopen(folder)
    assert caught.value.next_step.startswith("build the bundle again")


def test_the_log_keeps_errors_once_and_few(bench: Bench) -> None:
    log = log_of(bench.trt)
    severity = bench.trt.ILogger.Severity
    for index in range(200):
        log.logger.log(severity.WARNING, f"warning {index}")
        log.logger.log(severity.ERROR, "the same")
        log.logger.log(severity.INTERNAL_ERROR, f"error {index}")
    taken = log.take()
    assert taken[:2] == ["the same", "error 0"]
    assert len(taken) == 50
    assert log.take() == []
    for index in range(5):
        log.logger.log(severity.WARNING, f"warning {index}")
    assert log.take() == ["warning 2", "warning 3", "warning 4"]  # where no error says why
    assert log.take() == []
    assert log_of(bench.trt) is log
