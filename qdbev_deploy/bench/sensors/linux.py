"""What Linux says of the processor: clocks, throttling, temperatures, and RAPL's energy."""

from __future__ import annotations

import math
from pathlib import Path

from qdbev_deploy.bench.sensors.base import number_in, text_in


class CpuClock:
    """Mean clock of the cores, and how often one was throttled."""

    name = "CPU clocks"

    def __init__(self, root: Path = Path("/sys/devices/system/cpu")) -> None:
        self._clocks = sorted(root.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._throttles = sorted(root.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
        self._root = root

    def missing(self) -> str | None:
        if any(number_in(path) is not None for path in self._clocks):
            return None
        return f"no readable cpufreq in {self._root} (a virtual machine or container has none)"

    def read(self) -> dict[str, float]:
        clocks = [value for value in map(number_in, self._clocks) if value is not None]
        readings = {"cpu_clock_mhz": sum(clocks) / len(clocks) / 1e3 if clocks else math.nan}
        if self._throttles:
            readings["cpu_throttle_count"] = sum(number_in(path) or 0.0 for path in self._throttles)
        return readings

    def close(self) -> None:
        return


class Thermal:
    """The hottest thermal zone."""

    name = "temperature"

    def __init__(self, root: Path = Path("/sys/class/thermal")) -> None:
        self._zones = sorted(root.glob("thermal_zone*/temp"))
        self._root = root

    def missing(self) -> str | None:
        if any(number_in(path) is not None for path in self._zones):
            return None
        return f"no readable thermal zone in {self._root}"

    def read(self) -> dict[str, float]:
        values = [value for value in map(number_in, self._zones) if value is not None]
        return {"board_temperature_c": max(values) / 1e3 if values else math.nan}

    def close(self) -> None:
        return


class Rapl:
    """Energy of the processor packages since any moment, joules; the counters' wrap-around is undone."""

    name = "RAPL"

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        # intel-rapl:N is a package; intel-rapl:N:M a part of it, which it counts already.
        self._packages = [
            path for path in sorted(root.glob("intel-rapl:*"))
            if path.name.count(":") == 1 and (text_in(path / "name") or "").startswith("package")
        ]  # fmt: skip
        self._root = root
        self._last = [number_in(path / "energy_uj") for path in self._packages]
        self._total_uj = 0.0

    def missing(self) -> str | None:
        if not self._packages:
            return f"no intel-rapl package in {self._root} (a virtual machine or container has none)"
        if any(value is None for value in self._last):
            return f"{self._packages[0]}/energy_uj is for root only"
        return None

    def read(self) -> dict[str, float]:
        for index, path in enumerate(self._packages):
            now, before = number_in(path / "energy_uj"), self._last[index]
            if now is None or before is None:
                return {"cpu_energy_j": math.nan}
            wrap = (number_in(path / "max_energy_range_uj") or 0.0) if now < before else 0.0
            self._total_uj += now - before + wrap
            self._last[index] = now
        return {"cpu_energy_j": self._total_uj / 1e6}

    def close(self) -> None:
        return
