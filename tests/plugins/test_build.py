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
    with pytest.raises(QdbevError, match="--arch 90 together with --cpu-only"):
        plan_build(architectures=["90"], cpu_only=True)


def test_an_architecture_that_nvcc_does_not_know_is_refused(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "nvcc"
    compiler.write_text("#!/bin/sh\nprintf 'sm_87\\nsm_90\\nsm_90a\\nsm_120\\n'\n")
    compiler.chmod(0o755)
    machine.setattr(plugin_build, "nvcc", lambda: (compiler, "13.0"))
    assert plan_build(architectures=["90a", "120"]).architectures == ("90a", "120")
    with pytest.raises(QdbevError, match=r"--arch 99, which nvcc 13\.0 does not compile for") as error:
        plan_build(architectures=["99"])
    assert error.value.needed == "one of 87, 90, 90a, 120"
    assert error.value.exit_code == ExitCode.BAD_INPUT


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
    for without_cuda in ({"cpu_only": True}, {}):
        if not without_cuda:
            machine.setattr(plugin_build, "nvcc", lambda: None)
        with pytest.raises(QdbevError, match="for a build without CUDA"):
            plan_build(tensorrt_root=tmp_path, **without_cuda)


def test_relative_paths_are_those_of_the_caller(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "board.cmake").touch()
    (tmp_path / "NvInferVersion.h").touch()
    machine.chdir(tmp_path)
    plan = plan_build(architectures=["87"], toolchain=Path("board.cmake"), tensorrt_root=Path())
    command = plan.configure_command()
    assert f"-DCMAKE_TOOLCHAIN_FILE={tmp_path / 'board.cmake'}" in command
    assert f"-DTENSORRT_ROOT={tmp_path}" in command
    assert plan.binary_folder != plan_build(architectures=["87"]).binary_folder  # another compiler
    with pytest.raises(QdbevError, match="is not a file"):
        plan_build(architectures=["87"], toolchain=Path("absent.cmake"))


def headers(folder: Path, version: str) -> Path:
    (folder / "include").mkdir(parents=True)
    lines = zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=True)
    text = "".join(f"#define NV_TENSORRT_{part} {number}\n" for part, number in lines)
    (folder / "include" / "NvInferVersion.h").write_text(text)
    return folder


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake on this machine")
def test_a_second_build_takes_the_tensorrt_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plugins.source_folder()
    assert source is not None
    monkeypatch.delenv("TENSORRT_ROOT", raising=False)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(headers NONE)\nset(QDBEV_TENSORRT ON)\nset(QDBEV_HAVE_CUDA ON)\n"
        f"include({source / 'cmake' / 'QdbevTensorRT.cmake'})\n"
    )

    def configure(root: Path | str) -> subprocess.CompletedProcess[str]:
        command = ["cmake", "-S", str(tmp_path / "project"), "-B", str(tmp_path / "build"), f"-DTENSORRT_ROOT={root}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    first, second = headers(tmp_path / "a", "8.6.1"), headers(tmp_path / "b", "10.3.0")
    assert "TensorRT adapter for 8.6.1" in configure(first).stdout
    assert "TensorRT adapter for 8.6.1" in configure(first).stdout
    assert "TensorRT adapter for 10.3.0" in configure(second).stdout
    monkeypatch.setenv("TENSORRT_ROOT", str(first))
    assert "TensorRT adapter for 8.6.1" in configure("").stdout
    (tmp_path / "empty").mkdir()
    failed = configure(tmp_path / "empty")  # although the environment names headers
    assert failed.returncode != 0
    assert f"{tmp_path / 'empty'}, which holds no NvInferVersion.h" in " ".join(failed.stderr.split())


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

    toolchain = tmp_path / "broken.cmake"
    toolchain.write_text('message(FATAL_ERROR "the board is on fire")\n')
    broken = plan_build(out=tmp_path / "broken", cpu_only=True, toolchain=toolchain)
    with pytest.raises(QdbevError, match="cmake -S failed: the board is on fire") as error:
        build_library(broken, jobs=2)
    assert error.value.exit_code == ExitCode.GUARD
    assert not (tmp_path / "broken" / plugins.LIBRARY_NAME).exists()


@pytest.mark.parametrize(
    ("output", "telling"),
    [
        ("-- ok\nCMake Error at CMakeLists.txt:7 (project):\n\n  No compiler.\n\nCall Stack", "No compiler."),
        ("[1/2] cc\nFAILED: a.o\na.cpp:3:1: error: no such thing\n1 error", "a.cpp:3:1: error: no such thing"),
        ("CMake Error: The source is gone\n", "CMake Error: The source is gone"),
        ("killed\n", "killed"),
        ("", "it said nothing"),
    ],
)
def test_the_line_that_says_why(output: str, telling: str) -> None:
    assert plugin_build.telling_line(output) == telling


def test_an_output_folder_that_cannot_be_written_is_refused(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(QdbevError, match="--out") as error:
            build_library(plan_build(out=out, cpu_only=True))
        assert error.value.exit_code == ExitCode.BAD_INPUT


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
