"""What GPUs can do at most: nominal dense peaks, as the roofline takes them. None was measured by this project."""

from __future__ import annotations

from dataclasses import dataclass

from qdbev_deploy.errors import QdbevError


@dataclass(frozen=True)
class Device:
    """Peaks in 1e12 operations a second (a multiply-accumulate is two) and bytes a second; no sparsity."""

    name: str
    sm: int
    int8_tops: float
    fp16_tflops: float
    memory_gb_s: float


_DEVICES = (
    Device("Jetson AGX Orin 64 GB", 87, 85.0, 42.5, 204.8),
    Device("Jetson AGX Thor T5000", 110, 517.0, 258.5, 273.0),
    Device("GeForce RTX 3090", 86, 284.0, 142.0, 936.0),
    Device("H200 SXM", 90, 1979.0, 989.5, 4800.0),
    Device("T4", 75, 130.0, 65.0, 320.0),
    Device("A100 40 GB", 80, 624.0, 312.0, 1555.0),
    Device("GeForce RTX 4090", 89, 660.6, 330.3, 1008.0),
    Device("B200", 100, 4500.0, 2250.0, 8000.0),
    Device("GeForce RTX 5090", 120, 838.0, 419.0, 1792.0),
)
_ARCHITECTURES = {f"sm_{device.sm}": device for device in _DEVICES}
_NAMES = {"orin": "sm_87", "thor": "sm_110", "rtx3090": "sm_86", "h200": "sm_90"}
GPU_CHOICES = (*_NAMES, *_ARCHITECTURES)


def device_named(name: str) -> Device:
    """A GPU by its name, or the one that stands for an architecture: sm_86 is an RTX 3090 here."""
    device = _ARCHITECTURES.get(_NAMES.get(name, name))
    if device is None:
        raise QdbevError(f"unknown GPU '{name}'", "one of " + ", ".join(GPU_CHOICES), "pass --gpu orin")
    return device
