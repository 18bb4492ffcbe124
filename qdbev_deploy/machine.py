"""What this machine has: GPU, CUDA, TensorRT, plugins, packages, data. Looked up without importing any of it."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qdbev_deploy.errors import QdbevError

if TYPE_CHECKING:
    from qdbev_deploy.plugins import LibraryInfo

Status = Literal["ok", "missing", "not needed"]
Purpose = Literal["cpu", "data", "train", "tensorrt"]

# What each purpose is for, in the words of `doctor --help`.
PURPOSES: dict[Purpose, str] = {
    "cpu": "run ONNX files on ONNX Runtime",
    "data": "read nuScenes, make synthetic data, evaluate, draw",
    "train": "train, quantise, export",
    "tensorrt": "build and run TensorRT engines",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked for, what was found, and what to type where it is missing."""

    item: str
    status: Status
    detail: str
    get_it: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Gpu:
    """A CUDA device, as the driver names it."""

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    pci_bus_id: str = ""  # by which other libraries know the same GPU: each counts in an order of its own


@dataclass(frozen=True)
class Driver:
    """The CUDA driver: the newest CUDA version it can run, and its devices."""

    cuda_version: tuple[int, int]
    gpus: tuple[Gpu, ...]


def cuda_driver() -> Driver | None:
    """The driver and its devices by libcuda itself, which Jetsons have too; None where there is no driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    known = (version.value // 1000, version.value % 1000 // 10)
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return Driver(known, ())
    return Driver(known, tuple(_gpu(cuda, index) for index in range(count.value)))


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    compute_capability_major, compute_capability_minor = 75, 76  # CU_DEVICE_ATTRIBUTE_...
    name, memory, value = ctypes.create_string_buffer(256), ctypes.c_size_t(), ctypes.c_int()
    bus_id = ctypes.create_string_buffer(32)
    cuda.cuDeviceGetName(name, len(name), index)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), index)

    def attribute(number: int) -> int:
        cuda.cuDeviceGetAttribute(ctypes.byref(value), number, index)
        return value.value

    capability = attribute(compute_capability_major), attribute(compute_capability_minor)
    known = cuda.cuDeviceGetPCIBusId(bus_id, len(bus_id), index) == 0
    return Gpu(
        name.value.decode(errors="replace"), capability, memory.value, bus_id.value.decode("ascii") if known else ""
    )


def package_version(name: str) -> str | None:
    """Version of an installed Python distribution, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def nvcc() -> tuple[Path, str] | None:
    """The CUDA compiler and its version."""
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [
        *(Path(path) for path in [os.environ.get("CUDACXX")] if path),  # as CMake, which it is for, does
        *(Path(root) / "bin" / "nvcc" for root in roots if root),
        Path(shutil.which("nvcc") or "/nonexistent"),
    ]
    for path in candidates:
        if not path.is_file():
            continue
        try:
            output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        match = re.search(r"release (\d+\.\d+)", output)
        if match:
            return path, match.group(1)
    return None


def _library_dirs() -> list[Path]:
    dirs = [Path(os.environ["TENSORRT_ROOT"]) / "lib"] if os.environ.get("TENSORRT_ROOT") else []
    for package in ("tensorrt_libs", "tensorrt"):
        found = importlib.util.find_spec(package)
        if found and found.submodule_search_locations:
            dirs += [Path(location) for location in found.submodule_search_locations]
    machine = platform.machine()
    return [
        *dirs,
        Path(f"/usr/lib/{machine}-linux-gnu"),
        Path("/usr/local/tensorrt/lib"),
        Path("/usr/local/cuda/lib64"),
    ]


def tensorrt_library() -> Path | None:
    """libnvinfer, where TensorRT's packages put it."""
    for folder in _library_dirs():
        found = sorted(folder.glob("libnvinfer.so*")) if folder.is_dir() else []
        if found:
            return found[0]
    name = ctypes.util.find_library("nvinfer")
    return Path(name) if name else None


def tensorrt_headers() -> tuple[Path, str] | None:
    """The folder with NvInfer.h and the version it says."""
    machine = platform.machine()
    roots = [Path(os.environ["TENSORRT_ROOT"])] if os.environ.get("TENSORRT_ROOT") else []
    folders = [*(root / "include" for root in roots), *roots, Path(f"/usr/include/{machine}-linux-gnu"),
               Path("/usr/include"), Path("/usr/local/tensorrt/include")]  # fmt: skip
    for folder in folders:
        header = folder / "NvInferVersion.h"
        if (folder / "NvInfer.h").is_file() and header.is_file():
            text = header.read_text(encoding="utf-8", errors="replace")
            # TensorRT 10.8 and later define the numbers through a second macro, TRT_MAJOR_ENTERPRISE.
            parts = [
                re.search(rf"#define (?:NV_TENSORRT|TRT)_{part}(?:_ENTERPRISE)? (\d+)", text)
                for part in ("MAJOR", "MINOR", "PATCH")
            ]
            return folder, ".".join(part.group(1) for part in parts if part) or "of unknown version"
    return None


def _package(item: str, distribution: str, get_it: str) -> Callable[[bool], Finding]:
    def check(needed: bool) -> Finding:
        version = package_version(distribution)
        if version:
            return Finding(item, "ok", version)
        return _absent(item, needed, "not installed", get_it)

    return check


def _absent(item: str, needed: bool, detail: str, get_it: str) -> Finding:
    return Finding(item, "missing" if needed else "not needed", detail, get_it)


def _check_python(needed: bool) -> Finding:
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Finding("Python", "ok", version)
    return _absent("Python", needed, f"{version}; 3.10 to 3.12 are supported", "python3.11 -m venv .venv")


def _check_onnxruntime(needed: bool) -> Finding:
    version = package_version("onnxruntime") or package_version("onnxruntime-gpu")
    if not version:
        return _absent("ONNX Runtime", needed, "not installed", "pip install onnxruntime")
    try:
        import onnxruntime

        providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    except Exception as error:  # a package that is there and broken: a library it needs, a wrong architecture
        get_it = "pip install --force-reinstall onnxruntime; apt-get install libgomp1"
        return _absent("ONNX Runtime", needed, f"{version} is installed and does not load ({error})", get_it)
    return Finding("ONNX Runtime", "ok", f"{version}; providers {', '.join(providers)}")


def _check_gpu(needed: bool) -> Finding:
    driver = cuda_driver()
    if driver and driver.gpus:
        return Finding("GPU", "ok", "; ".join(
            f"{gpu.name}, compute capability {gpu.compute_capability[0]}.{gpu.compute_capability[1]}, "
            f"{gpu.memory_bytes / 2**30:.1f} GiB" for gpu in driver.gpus))  # fmt: skip
    detail = "the driver finds no GPU" if driver else "no NVIDIA GPU that a driver knows"
    return _absent("GPU", needed, detail, "use a machine with an NVIDIA GPU; everything else works on ONNX Runtime")


def _check_driver(needed: bool) -> Finding:
    driver = cuda_driver()
    if not driver:
        return _absent("GPU driver", needed, "libcuda.so.1 is not there", "install NVIDIA's driver (JetPack has it)")
    detail = f"runs CUDA up to {driver.cuda_version[0]}.{driver.cuda_version[1]}"
    version_file = Path("/proc/driver/nvidia/version")
    if version_file.is_file():
        match = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", version_file.read_text(encoding="utf-8", errors="replace"))
        detail = f"{match.group(1)}, {detail}" if match else detail
    return Finding("GPU driver", "ok", detail)


def _check_nvcc(needed: bool) -> Finding:
    found = nvcc()
    if found:
        return Finding("CUDA toolkit", "ok", f"nvcc {found[1]} ({found[0]})")
    return _absent("CUDA toolkit", needed, "no nvcc on PATH, in CUDA_HOME or /usr/local/cuda" + _root_note("CUDA_HOME"),
                   "install the CUDA toolkit, or set CUDA_HOME to it")  # fmt: skip


def _check_tensorrt_library(needed: bool) -> Finding:
    path = tensorrt_library()
    if path:
        return Finding("TensorRT library", "ok", str(path))
    where = "no libnvinfer in TENSORRT_ROOT, Python packages or system paths" + _root_note("TENSORRT_ROOT")
    return _absent("TensorRT library", needed, where, "pip install 'qdbev-deploy[trt]', or set TENSORRT_ROOT")


def _check_tensorrt_headers(needed: bool) -> Finding:
    found = tensorrt_headers()
    if found:
        return Finding("TensorRT headers", "ok", f"{found[1]} ({found[0]})")
    where = "no NvInfer.h in TENSORRT_ROOT or system paths; pip brings none" + _root_note("TENSORRT_ROOT")
    get_it = "apt-get install libnvinfer-headers-dev, or set TENSORRT_ROOT, or plugins build --fetch-headers"
    return _absent("TensorRT headers", needed, where, get_it)


def _check_training_packages(needed: bool) -> Finding:
    wanted = ("torch", "onnxscript", "scipy", "pyyaml", "tensorboard")
    missing = [name for name in wanted if not package_version(name)]
    if not missing:
        return Finding("training packages", "ok", ", ".join(f"{name} {package_version(name)}" for name in wanted))
    return _absent("training packages", needed, f"without {', '.join(missing)}", "pip install 'qdbev-deploy[train]'")


def _root_note(variable: str) -> str:
    """A variable that names no folder is worth a word: the user believes it is used."""
    value = os.environ.get(variable)
    return f"; {variable}={value} is no folder" if value and not Path(value).is_dir() else ""


def _check_gpu_memory_binding(needed: bool) -> Finding:
    for distribution in ("pycuda", "cuda-python"):
        version = package_version(distribution)
        if version:
            return Finding("CUDA from Python", "ok", f"{distribution} {version}")
    return _absent("CUDA from Python", needed, "neither PyCUDA nor cuda-python", "pip install 'qdbev-deploy[trt]'")


def _check_nuscenes_data(needed: bool) -> Finding:
    root = os.environ.get("NUSCENES")
    get_it = "qdbev-deploy data synth --out DIR makes a synthetic one; or export NUSCENES=/path/to/nuscenes"
    if not root:
        return Finding("nuScenes data", "not needed", "the variable NUSCENES names no data root", get_it)
    versions = sorted(path.name for path in Path(root).glob("v1.0-*") if (path / "scene.json").is_file())
    if versions:
        return Finding("nuScenes data", "ok", f"{root}: {', '.join(versions)}")
    return _absent("nuScenes data", needed, f"{root} has no v1.0-*/scene.json", get_it)


def _check_plugins(needed: bool) -> Finding:
    from qdbev_deploy.plugins import library_info

    try:
        info = library_info()
    except QdbevError as error:
        return _absent("plugin library", needed, error.found, error.next_step)
    architectures = ", ".join(f"sm_{arch}" for arch in info.cuda_architectures)
    built = f"kernels for {architectures}" if architectures else "no CUDA kernels, CPU ops only"
    tensorrt = f"plugins for TensorRT {info.tensorrt}" if info.tensorrt else "no TensorRT plugins"
    detail = f"{info.version}, ABI {info.abi}; {built}; {tensorrt} ({info.path})"
    problems, command = plugin_problems(info)
    if needed and problems:
        return Finding("plugin library", "missing", "; ".join([detail, *problems]), command)
    return Finding("plugin library", "ok", detail)


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether kernels built for `architecture` (87, 90a, 87-real; as CMake writes them) run on a GPU of `capability`.

    Machine code runs on its own major version from its minor version on. A build without a suffix also carries PTX,
    which the driver compiles for any later GPU. `a` is for one GPU only, `f` for those of its family.
    """
    match = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", architecture)
    if not match:
        return False
    built = (int(match.group(1)), int(match.group(2)))
    if match.group(3) == "a":
        return built == capability
    if match.group(3) == "f" or match.group(4) == "-real":
        return built[0] == capability[0] and built <= capability
    return built <= capability


def _tensorrt_major() -> int | None:
    """The major version of the TensorRT that would load the plugins, from its package or the library's name."""
    version = package_version("tensorrt")
    library = tensorrt_library()
    match = re.match(r"(\d+)", version or "") or re.search(r"\.so\.(\d+)", library.resolve().name if library else "")
    return int(match.group(1)) if match else None


FETCHED_MAJOR = 10  # of the headers that plugins/cmake/QdbevTensorRTHeaders.cmake downloads


def plugin_problems(info: LibraryInfo) -> tuple[list[str], str]:
    """Why the library cannot serve TensorRT on this machine's GPUs, and the command that builds one that can."""
    problems = []
    driver = cuda_driver()
    gpus = driver.gpus if driver else ()
    wanted = sorted({"".join(map(str, gpu.compute_capability)) for gpu in gpus})
    if info.cuda_architectures:
        for gpu in gpus:
            if not any(_runs_on(architecture, gpu.compute_capability) for architecture in info.cuda_architectures):
                problems.append(f"no kernels for {gpu.name} (sm_{''.join(map(str, gpu.compute_capability))})")
    else:
        problems.append("TensorRT needs the CUDA kernels")
    command = " ".join(["qdbev-deploy plugins build", *(f"--arch {arch}" for arch in wanted)])
    major, headers = _tensorrt_major(), tensorrt_headers()
    if not info.tensorrt:
        problems.append("TensorRT cannot load it")
    elif major is not None and info.tensorrt.split(".")[0] != str(major):
        problems.append(f"TensorRT {major} is installed, which cannot load these plugins")
    if headers is None or (major is not None and headers[1].split(".")[0] != str(major)):
        command += (
            f" --tensorrt-root DIR, the folder of TensorRT {major}" if major is not None else " --tensorrt-root DIR"
        )
        if major in (None, FETCHED_MAJOR):
            command += f" (or --fetch-headers, which downloads those of TensorRT {FETCHED_MAJOR})"
    if os.environ.get("QDBEV_PLUGIN_LIBRARY"):
        command += "; then unset QDBEV_PLUGIN_LIBRARY"
    return problems, command


# What is looked for, and the purposes that need it, in the order of the report.
_CHECKS: tuple[tuple[Callable[[bool], Finding], tuple[Purpose, ...]], ...] = (
    (_check_python, ("cpu", "data", "train", "tensorrt")),
    (_package("numpy", "numpy", "pip install qdbev-deploy"), ("cpu", "data", "train", "tensorrt")),
    (_package("ONNX", "onnx", "pip install qdbev-deploy"), ("cpu", "train", "tensorrt")),
    (_check_onnxruntime, ("cpu", "train", "tensorrt")),
    (_package("Polygraphy", "polygraphy", "pip install qdbev-deploy"), ("tensorrt",)),
    (_check_gpu, ("tensorrt",)),
    (_check_driver, ("tensorrt",)),
    (_check_nvcc, ("tensorrt",)),
    (_package("TensorRT for Python", "tensorrt", "pip install 'qdbev-deploy[trt]'"), ("tensorrt",)),
    (_check_tensorrt_library, ("tensorrt",)),
    (_check_tensorrt_headers, ("tensorrt",)),
    (_check_gpu_memory_binding, ("tensorrt",)),
    (_check_plugins, ("tensorrt",)),
    (_check_training_packages, ("train",)),
    (_package("nuscenes-devkit", "nuscenes-devkit", "pip install 'qdbev-deploy[data]'"), ("data",)),
    (_check_nuscenes_data, ("data",)),
)


def default_purposes() -> tuple[Purpose, ...]:
    """What this machine is plainly for: ONNX Runtime always, TensorRT where there is a GPU."""
    driver = cuda_driver()
    return ("cpu", "tensorrt") if driver and driver.gpus else ("cpu",)


def examine(purposes: tuple[Purpose, ...]) -> list[Finding]:
    """Every finding; what none of the purposes needs and is not there counts as not needed."""
    unknown = sorted(set(purposes) - set(PURPOSES))
    if unknown:
        raise QdbevError(
            f"unknown purpose {unknown[0]!r}", "one of " + ", ".join(PURPOSES), "qdbev-deploy doctor --help"
        )
    return [check(bool(set(purposes) & set(needed_for))) for check, needed_for in _CHECKS]


def libraries_in_packages() -> dict[str, str]:
    """Where Python packages hold the libraries that the C++ runtime loads, by the variables that tell it so."""
    places = {
        "QDBEV_ONNXRUNTIME_LIBRARY": (("onnxruntime",), "capi/libonnxruntime.so*"),
        "QDBEV_TENSORRT_LIBRARY": (("tensorrt_libs", "tensorrt"), "libnvinfer.so.*"),  # 10 and later; 8.6
    }
    found = {}
    for variable, (packages, pattern) in places.items():
        specs = filter(None, map(importlib.util.find_spec, packages))
        folders = [Path(folder) for spec in specs for folder in spec.submodule_search_locations or []]
        if libraries := sorted(path for folder in folders for path in folder.glob(pattern)):
            found[variable] = str(libraries[0])
    return found
