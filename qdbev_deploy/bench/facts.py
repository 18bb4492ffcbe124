"""What a result is worth nothing without: the machine, its versions, its power mode, who else may use its GPU."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from qdbev_deploy.bench.sensors.base import number_in, text_in
from qdbev_deploy.bench.sensors.jetson import power_mode
from qdbev_deploy.bench.sensors.nvml import Nvml, mps
from qdbev_deploy.machine import Gpu, cuda_driver, package_version

_PACKAGES = (
    "qdbev-deploy", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "pycuda", "cuda-python",
    "mlcommons-loadgen",
)  # fmt: skip


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo"), device_tree: Path = Path("/proc/device-tree/model")) -> str:
    """The processor; on a board that names itself, the board."""
    board = text_in(device_tree)
    if board:
        return board
    match = re.search(r"^model name\s*:\s*(.+)$", text_in(cpuinfo) or "", re.MULTILINE)
    return match.group(1) if match else platform.processor() or platform.machine()


def measured_gpu() -> Gpu | None:
    """The GPU that engines use: the first that the CUDA driver shows this process."""
    driver = cuda_driver()
    return driver.gpus[0] if driver is not None and driver.gpus else None


def system_facts(nvml: Nvml | None = None) -> dict[str, Any]:
    """The section `system` of a result; `nvml`: of the measured GPU, None where there is none."""
    gpu = _gpu(nvml)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    versions = {"python": platform.python_version()}
    versions.update({name: found for name in _PACKAGES if (found := package_version(name))})
    release = platform.freedesktop_os_release().get("PRETTY_NAME", "") if Path("/etc/os-release").exists() else ""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
        "cores_allowed": len(os.sched_getaffinity(0)),
        "memory_bytes": pages,
        "os": " ".join(filter(None, (platform.system(), platform.release(), platform.machine(), release))),
        "gpu": gpu,
        "driver": gpu.get("driver") if gpu else None,
        "versions": versions,
        "power_mode": power_mode(),
        "clocks": {
            "cpu_max_mhz": _mhz(Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")),
            "gpu_max_mhz": gpu.get("max_clock_mhz") if gpu else None,
        },
        "sharing": _sharing(gpu),
    }


def _mhz(path: Path) -> float | None:
    kilohertz = number_in(path)
    return None if kilohertz is None else kilohertz / 1e3


def _gpu(nvml: Nvml | None) -> dict[str, Any] | None:
    """By the CUDA driver, which Jetsons have too; NVML only adds what CUDA does not say."""
    driver = cuda_driver()
    if driver is None or not driver.gpus:
        return None
    first = driver.gpus[0]
    facts: dict[str, Any] = {
        "name": first.name,
        "compute_capability": ".".join(map(str, first.compute_capability)),
        "memory_bytes": first.memory_bytes,
        "driver": f"CUDA {driver.cuda_version[0]}.{driver.cuda_version[1]}",
        "pci_bus_id": first.pci_bus_id,
        "count": len(driver.gpus),
    }
    added = {name: value for name, value in (nvml.facts() if nvml else {}).items() if value is not None}
    return {**added, **facts, "driver": added.get("driver", facts["driver"])}


def _sharing(gpu: dict[str, Any] | None) -> str:
    if gpu is None:
        return "no GPU"
    mig = {None: "MIG not known to this GPU", True: "MIG on: a part of the GPU is measured", False: "MIG off"}
    return f"{mig[gpu.get('mig')]}; {mps() or 'no MPS'}"
