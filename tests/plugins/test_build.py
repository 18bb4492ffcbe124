"""What `qdbev-deploy plugins build` decides to build, and that it builds it."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qdbev_deploy import plugin_build, plugins
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.machine import Driver, Gpu
from qdbev_deploy.plugin_build import build_library, plan_build


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with cmake, nvcc and two GPUs."""
    gpus = (Gpu("a", (8, 7), 1), Gpu("b", (12, 0), 1), Gpu("c", (8, 7), 1))
    monkeypatch.setattr(plugin_build, "nvcc", lambda: (Path("/cuda/bin/nvcc"), "13.0"))
    monkeypatch.setattr(plugin_build, "cuda_driver", lambda: Driver((13, 0), gpus))
    monkeypatch.setattr(plugin_build.shutil, "which", lambda name: f"/bin/{name}")
    return monkeypatch


def test_default_is_what_the_machine_has(machine: pytest.MonkeyPatch) -> None:
    plan = plan_build()
    assert plan.architectures == ("120", "87")
    assert plan.out == plugins.build_folder()
    assert "-DQDBEV_CUDA_ARCHS=120;87" in plan.configure_command()


def test_asked_architectures_win(machine: pytest.MonkeyPatch) -> None:
    assert plan_build(architectures=["90"]).architectures == ("90",)
    assert plan_build(architectures=["90"], cpu_only=True).architectures == ()


def test_nvcc_without_gpu_asks_for_the_target(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(plugin_build, "cuda_driver", lambda: None)
    with pytest.raises(QdbevError, match="no GPU on this machine to build for") as error:
        plan_build()
    assert "--arch 87" in error.value.next_step


def test_no_nvcc_means_cpu_only_unless_cuda_was_asked_for(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(plugin_build, "nvcc", lambda: None)
    plan = plan_build()
    assert plan.architectures == ()
    assert "-DQDBEV_CUDA=OFF" in plan.configure_command()
    with pytest.raises(QdbevError, match="no nvcc") as error:
        plan_build(architectures=["87"])
    assert error.value.exit_code == ExitCode.MISSING


@pytest.mark.parametrize("arch", ["8.7", "sm_87", "", "8", "native"])
def test_bad_architectures_are_refused(machine: pytest.MonkeyPatch, arch: str) -> None:
    with pytest.raises(QdbevError, match="--arch"):
        plan_build(architectures=[arch])


def test_a_tensorrt_root_without_headers_is_refused(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match=r"holds no NvInferVersion\.h"):
        plan_build(tensorrt_root=tmp_path)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "NvInferVersion.h").touch()
    assert f"-DTENSORRT_ROOT={tmp_path}" in plan_build(tensorrt_root=tmp_path).configure_command()


def test_no_cmake_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_build.shutil, "which", lambda name: None)
    with pytest.raises(QdbevError, match="no cmake") as error:
        plan_build()
    assert error.value.exit_code == ExitCode.MISSING


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake on this machine")
def test_builds_a_library_that_loads_and_reports_failures(tmp_path: Path) -> None:
    log = io.StringIO()
    plan = plan_build(out=tmp_path / "lib", cpu_only=True)
    library = build_library(plan, jobs=2, log=log)
    assert library == tmp_path / "lib" / plugins.LIBRARY_NAME
    assert plugins.library_info(library).cuda_architectures == ()
    assert "CPU ops only" in log.getvalue()

    broken = plan_build(out=tmp_path / "broken", cpu_only=True, toolchain=tmp_path / "absent.cmake")
    with pytest.raises(QdbevError, match="cmake -S failed") as error:
        build_library(broken, jobs=2)
    assert error.value.exit_code == ExitCode.GUARD
    assert not (tmp_path / "broken" / plugins.LIBRARY_NAME).exists()


def test_resource_report_reads_ptxas_and_fails_on_spills(tmp_path: Path) -> None:
    """The report's own eyes: a fake nvcc prints what ptxas prints, once clean and once with a spill."""
    source = plugins.source_folder()
    assert source is not None
    if shutil.which("c++filt") is None:
        pytest.skip("no c++filt on this machine")
    name = "_ZN5qdbev11body_kernelINS_12TemporalBodyINS_4HalfEfEEEEvNT_6ParamsE"
    for spilled, expected in ((0, 0), (8, 1)):
        nvcc = tmp_path / f"nvcc{spilled}"
        nvcc.write_text(
            "#!/bin/sh\ncat >&2 <<EOF\n"
            f"ptxas info    : Compiling entry function '{name}' for 'sm_87'\n"
            f"    16 bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads\n"
            "ptxas info    : Used 85 registers, used 0 barriers\nEOF\n"
        )
        nvcc.chmod(0o755)
        report = [sys.executable, str(source / "tools" / "resource_report.py"), "--arch", "87", "--nvcc", str(nvcc)]
        done = subprocess.run(report, capture_output=True, text=True, check=False)
        assert done.returncode == expected
        assert f"sm_87   Temporal          fp16   fp32          85     16{2 * spilled:>9}" in done.stdout
