"""Build the plugin library with CMake for this machine or another one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.files import atomic_output
from qdbev_deploy.machine import cuda_driver, nvcc
from qdbev_deploy.plugins import LIBRARY_NAME, build_folder, source_folder

_ARCH = re.compile(r"\d{2,3}[af]?")
_ERROR_LINE = re.compile(r"\b(fatal|error)\s*:", re.IGNORECASE)
_CMAKE_ERROR = re.compile(r"^CMake Error\b.*:$")  # "CMake Error at FILE:LINE (message):", then what is wrong


@dataclass(frozen=True)
class BuildPlan:
    """What is built from what; `architectures` empty means no CUDA."""

    source: Path
    out: Path
    architectures: tuple[str, ...]
    why_architectures: str
    tensorrt_root: Path | None
    toolchain: Path | None
    fetch_headers: bool

    @property
    def binary_folder(self) -> Path:
        """One for each toolchain: CMake would keep the first compiler and never say so."""
        return self.out / (f"cmake-{self.toolchain.stem}" if self.toolchain else "cmake")

    def configure_command(self) -> list[str]:
        command = ["cmake", "-S", str(self.source), "-B", str(self.binary_folder), "-DCMAKE_BUILD_TYPE=Release"]
        command += ["-DBUILD_TESTING=OFF", f"-DQDBEV_CUDA={'ON' if self.architectures else 'OFF'}"]
        command.append(f"-DQDBEV_CUDA_ARCHS={';'.join(self.architectures)}")
        command.append(f"-DTENSORRT_ROOT={self.tensorrt_root or ''}")
        command.append(f"-DQDBEV_FETCH_TENSORRT_HEADERS={'ON' if self.fetch_headers else 'OFF'}")
        if self.toolchain:
            command.append(f"-DCMAKE_TOOLCHAIN_FILE={self.toolchain}")
        return command


def _codes_of(compiler: Path) -> set[str]:
    """The architectures that this nvcc compiles for, without `sm_`; empty where it does not say."""
    try:
        done = subprocess.run([compiler, "--list-gpu-code"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return set()
    return set(re.findall(r"\bsm_(\w+)", done.stdout))


def _architectures(asked: Sequence[str], cpu_only: bool) -> tuple[tuple[str, ...], str]:
    if cpu_only:
        if asked:
            raise QdbevError(
                f"--arch {' '.join(asked)} together with --cpu-only",
                "one of the two: kernels for a GPU, or none",
                "qdbev-deploy plugins build --help",
            )
        return (), "CPU ops only, as asked"
    for arch in asked:
        if not _ARCH.fullmatch(arch):
            raise QdbevError(
                f"--arch {arch}",
                "a compute capability without its dot, such as 87",
                "qdbev-deploy plugins build --help",
            )
    compiler = nvcc()
    if compiler is None:
        if asked:
            raise QdbevError(
                f"--arch {' '.join(asked)}, but no nvcc on this machine",
                "the CUDA toolkit",
                "install it or set CUDA_HOME to it, or pass --cpu-only",
                exit_code=ExitCode.MISSING,
            )
        return (), "no nvcc on this machine, so CPU ops only and no TensorRT plugins"
    if asked:
        codes = _codes_of(compiler[0])
        for arch in asked:
            if codes and arch not in codes:
                raise QdbevError(
                    f"--arch {arch}, which nvcc {compiler[1]} does not compile for",
                    "one of " + ", ".join(sorted(codes, key=lambda code: (int(code.rstrip("af")), code))),
                    "choose another, or set CUDA_HOME to a toolkit that knows it",
                )
        return tuple(asked), "as asked"
    driver = cuda_driver()
    if driver and driver.gpus:
        found = sorted({"".join(map(str, gpu.compute_capability)) for gpu in driver.gpus})
        return tuple(found), "what this machine's GPU is"
    raise QdbevError(
        "nvcc, but no GPU on this machine to build for",
        "the compute capability of the target: 87 for Orin, 110 for Thor, 89 for an RTX 40",
        "qdbev-deploy plugins build --arch 87, or --cpu-only",
    )


def plan_build(
    *,
    out: Path | None = None,
    architectures: Sequence[str] = (),
    cpu_only: bool = False,
    tensorrt_root: Path | None = None,
    toolchain: Path | None = None,
    fetch_headers: bool = False,
) -> BuildPlan:
    """Settle what to build. No architectures means those of this machine's GPUs; no `out`, where it will be found."""
    source = source_folder()
    if source is None:
        raise QdbevError(
            "this installation carries no plugin sources",
            "a checkout of qdbev-deploy",
            "clone the repository and run the command there",
            exit_code=ExitCode.MISSING,
        )
    if shutil.which("cmake") is None:
        raise QdbevError(
            "no cmake on PATH", "cmake 3.25 or newer", "pip install 'cmake>=3.25'", exit_code=ExitCode.MISSING
        )
    if tensorrt_root is not None:
        tensorrt_root = tensorrt_root.expanduser().resolve()
    if toolchain is not None:
        # Absolute: CMake would look for it from the binary folder and the sources.
        toolchain = toolchain.expanduser().resolve()
        if not toolchain.is_file():
            raise QdbevError(
                f"--toolchain {toolchain} is not a file",
                "a CMake toolchain file",
                f"--toolchain {source / 'cmake' / 'jetson-aarch64.cmake'} is the one for Jetson",
            )
    if tensorrt_root is not None and not any(
        (folder / "NvInferVersion.h").is_file() for folder in (tensorrt_root, tensorrt_root / "include")
    ):
        raise QdbevError(
            f"--tensorrt-root {tensorrt_root} holds no NvInferVersion.h",
            "the folder that TensorRT was unpacked to, or its include folder",
            "leave the option out to search the system, or pass --fetch-headers",
        )
    archs, why = _architectures(architectures, cpu_only)
    if tensorrt_root is not None and not archs:
        raise QdbevError(
            f"--tensorrt-root {tensorrt_root} for a build without CUDA ({why})",
            "nvcc and a GPU architecture: the TensorRT plugins are made of the kernels",
            "leave --tensorrt-root out, or pass --arch instead of --cpu-only on a machine with nvcc",
        )
    where = (out or build_folder()).expanduser().absolute()
    return BuildPlan(source, where, archs, why, tensorrt_root, toolchain, fetch_headers)


def telling_line(output: str) -> str:
    """The line of a failed build that says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line, following in zip(lines, [*lines[1:], ""]):
        if _CMAKE_ERROR.search(line):
            return following or line
        if _ERROR_LINE.search(line):
            return line
    return lines[0] if lines else "it said nothing"


def build_library(plan: BuildPlan, *, jobs: int | None = None, log: IO[str] | None = None) -> Path:
    """Configure, build, and put the library at `plan.out`. What the tools print goes to `log`, else it is kept back."""
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=plan.out):
            pass
    except OSError as error:
        raise QdbevError(
            f"--out {plan.out}: {error.strerror}", "a folder that can be written", "choose another with --out"
        ) from error
    environment = dict(os.environ)
    compiler = nvcc()
    if plan.architectures and compiler and "CUDACXX" not in environment:
        environment["CUDACXX"] = str(compiler[0])
    build = ["cmake", "--build", str(plan.binary_folder), "--target", "qdbev_plugins"]
    build += ["-j", str(jobs or len(os.sched_getaffinity(0)))]
    for command in (plan.configure_command(), build):
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if log is not None:
            log.write(done.stdout)
        if done.returncode != 0:
            raise QdbevError(
                f"{' '.join(command[:2])} failed: {telling_line(done.stdout)}",
                "a build that works",
                "qdbev-deploy plugins build -v shows all of it",
                exit_code=ExitCode.GUARD,
            )
    library = plan.out / LIBRARY_NAME
    with atomic_output(library) as partial:
        shutil.copyfile((plan.binary_folder / LIBRARY_NAME).resolve(), partial)
        partial.chmod(0o755)
    return library


def describe(plan: BuildPlan) -> str:
    """One line: what will be built and why."""
    archs = ", ".join(plan.architectures) if plan.architectures else "none"
    return f"{plan.out / LIBRARY_NAME}: CUDA architectures {archs} ({plan.why_architectures})"
