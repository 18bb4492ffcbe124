"""NVIDIA's management library by ctypes: memory, power, energy, clocks, temperature, throttling, MIG and MPS."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path
from typing import Any

_SUCCESS = 0
_TEMPERATURE_GPU = 0
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_NOT_AVAILABLE = (1 << 64) - 1  # a process' memory that the driver does not tell

# Why clocks are below what was asked for. Idling, and clocks that somebody chose, are no fault.
THROTTLE_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("instance", ctypes.c_uint), ("compute", ctypes.c_uint),
    )  # fmt: skip


def throttle_names(mask: int) -> list[str]:
    return [name for bit, name in THROTTLE_REASONS.items() if mask & bit]


class Nvml:
    """One GPU as NVML sees it: that at `pci_bus_id`, for NVML counts others than CUDA does. `library` is for tests."""

    name = "NVML"

    def __init__(self, pci_bus_id: str, library: Any = None) -> None:
        self._why: str | None = None
        self._device = ctypes.c_void_p()
        try:
            self._nvml = library if library is not None else ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            self._why = "libnvidia-ml.so.1 is not there: no NVIDIA driver, or a Jetson, which has no NVML"
            return
        if self._nvml.nvmlInit_v2() != _SUCCESS:
            self._why = "NVML does not initialise: the driver is not running"
        elif not pci_bus_id:
            self._why = "CUDA shows this process no GPU"
        elif self._nvml.nvmlDeviceGetHandleByPciBusId_v2(pci_bus_id.encode(), ctypes.byref(self._device)) != _SUCCESS:
            self._why = f"NVML knows no GPU at {pci_bus_id}"

    def missing(self) -> str | None:
        return self._why

    def _ask(self, function: str, kind: Any, *arguments: Any) -> Any:
        """What a getter writes into its last argument; None where this GPU or driver has no such thing."""
        value = kind()
        getter = getattr(self._nvml, function, None)
        if getter is None or getter(self._device, *arguments, ctypes.byref(value)) != _SUCCESS:
            return None
        return value

    def read(self) -> dict[str, float]:
        def number(function: str, kind: Any, factor: float, *arguments: Any) -> float:
            value = self._ask(function, kind, *arguments)
            return math.nan if value is None else value.value * factor

        memory = self._ask("nvmlDeviceGetMemoryInfo", _Memory)
        uint, ulong = ctypes.c_uint, ctypes.c_ulonglong
        return {
            "gpu_energy_j": number("nvmlDeviceGetTotalEnergyConsumption", ulong, 1e-3),
            "gpu_power_w": number("nvmlDeviceGetPowerUsage", uint, 1e-3),
            "gpu_clock_mhz": number("nvmlDeviceGetClockInfo", uint, 1.0, _CLOCK_SM),
            "gpu_memory_clock_mhz": number("nvmlDeviceGetClockInfo", uint, 1.0, _CLOCK_MEMORY),
            "gpu_temperature_c": number("nvmlDeviceGetTemperature", uint, 1.0, _TEMPERATURE_GPU),
            "gpu_throttle_mask": number("nvmlDeviceGetCurrentClocksThrottleReasons", ulong, 1.0),
            "gpu_memory_used_bytes": math.nan if memory is None else float(memory.used),
            "gpu_process_bytes": self._process_bytes(),
        }

    def _process_bytes(self) -> float:
        """Device memory of this process, as the driver counts it; NaN where it does not tell (containers, MIG)."""
        count = ctypes.c_uint(64)
        processes = (_Process * 64)()
        getter = getattr(self._nvml, "nvmlDeviceGetComputeRunningProcesses_v3", None)
        if getter is None or getter(self._device, ctypes.byref(count), processes) != _SUCCESS:
            return math.nan
        for process in processes[: count.value]:
            if process.pid == os.getpid() and process.used != _NOT_AVAILABLE:
                return float(process.used)
        return math.nan

    def facts(self) -> dict[str, Any]:
        """What stays as it is: name, driver, memory, power limit, the highest clock, MIG."""
        if self._why is not None:
            return {}
        buffer = ctypes.create_string_buffer(96)
        name = driver = None
        if self._nvml.nvmlDeviceGetName(self._device, buffer, len(buffer)) == _SUCCESS:
            name = buffer.value.decode(errors="replace")
        if self._nvml.nvmlSystemGetDriverVersion(buffer, len(buffer)) == _SUCCESS:
            driver = buffer.value.decode(errors="replace")
        memory = self._ask("nvmlDeviceGetMemoryInfo", _Memory)
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit", ctypes.c_uint)
        clock = self._ask("nvmlDeviceGetMaxClockInfo", ctypes.c_uint, _CLOCK_SM)
        return {
            "name": name,
            "driver": driver,
            "memory_bytes": None if memory is None else int(memory.total),
            "power_limit_w": None if limit is None else limit.value / 1e3,
            "max_clock_mhz": None if clock is None else int(clock.value),
            "mig": self.mig(),
        }

    def mig(self) -> bool | None:
        """Whether the GPU is partitioned; None where it cannot be."""
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        getter = getattr(self._nvml, "nvmlDeviceGetMigMode", None)
        if getter is None or getter(self._device, ctypes.byref(current), ctypes.byref(pending)) != _SUCCESS:
            return None
        return bool(current.value)

    def close(self) -> None:
        if self._why is None:
            self._nvml.nvmlShutdown()


def mps(proc: Path = Path("/proc"), environment: Any = os.environ) -> str | None:
    """How MPS, which lets processes share a GPU, shows itself here; None where it does not. It is never changed."""
    named = environment.get("CUDA_MPS_PIPE_DIRECTORY")
    for comm in proc.glob("[0-9]*/comm"):
        try:
            program = comm.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        if program.startswith("nvidia-cuda-mps"):
            return f"{program} is running"
    return f"CUDA_MPS_PIPE_DIRECTORY={named}, no MPS daemon seen from here" if named else None
