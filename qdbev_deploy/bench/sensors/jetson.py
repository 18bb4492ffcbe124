"""What a Jetson says of itself: power by its INA3221 monitors or by tegrastats, the GPU's clock, the power mode."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import threading
from pathlib import Path

from qdbev_deploy.bench.sensors.base import number_in, text_in

# Rails that hold all others: the module's input. Where none is there, what is there is added up.
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
# Rails that are fed from another one that is monitored, too: AGX Orin's memory hangs on the 5 V of its system.
_FED_FROM = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}


def total_watts(rails: dict[str, float]) -> float:
    """Of the whole module: its input rail, or the sum of the rails, none counted twice."""
    for name in _TOTAL_RAILS:
        if name in rails:
            return rails[name]
    return sum(watts for name, watts in rails.items() if _FED_FROM.get(name) not in rails)


class Ina3221:
    """The power monitors on the board's I2C bus, by the kernel's hwmon interface."""

    name = "INA3221"

    def __init__(self, root: Path = Path("/sys/bus/i2c/drivers/ina3221")) -> None:
        self._root = root
        # rail -> the files of its voltage (mV) and its current (mA)
        self._rails: dict[str, tuple[Path, Path]] = {}
        for label in sorted(root.glob("*/hwmon/hwmon*/in*_label")):
            channel = label.name.removeprefix("in").removesuffix("_label")
            rail = text_in(label) or ""
            volts, amperes = label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input")
            if rail and rail != "NC" and volts.exists() and amperes.exists():
                self._rails[rail] = (volts, amperes)

    def missing(self) -> str | None:
        return None if self._rails else f"no power monitor in {self._root} (no Jetson, or no access)"

    def rails(self) -> dict[str, float]:
        """Watts of each rail that can be read."""
        watts = {}
        for rail, (volts, amperes) in self._rails.items():
            millivolts, milliamperes = number_in(volts), number_in(amperes)
            if millivolts is not None and milliamperes is not None:
                watts[rail] = millivolts * milliamperes / 1e6
        return watts

    def read(self) -> dict[str, float]:
        rails = self.rails()
        return {"board_power_w": total_watts(rails) if len(rails) == len(self._rails) else math.nan}

    def close(self) -> None:
        return


_RAIL = re.compile(r"\b((?:VDD|VIN|POM|CV|SOC|GPU|CPU|SYS)\w*) (\d+)(?:mW)?/(\d+)(?:mW)?")


def parse_tegrastats(line: str) -> dict[str, float]:
    """The readings of one line: rails in mW (now/average), RAM, the GPU's load and clock, temperatures."""
    readings = {}
    rails = {match.group(1): int(match.group(2)) / 1e3 for match in _RAIL.finditer(line)}
    if rails:
        readings["board_power_w"] = total_watts(rails)
    if match := re.search(r"RAM (\d+)/(\d+)MB", line):
        readings["board_memory_used_bytes"] = float(match.group(1)) * 2**20
    if match := re.search(r"GR3D_FREQ (\d+)%(?:@\[?(\d+)(?:,\d+)*\]?)?", line):
        readings["gpu_load_percent"] = float(match.group(1))
        if match.group(2):
            readings["gpu_clock_mhz"] = float(match.group(2))
    temperatures = [float(value) for value in re.findall(r"\w+@(-?\d+(?:\.\d+)?)C", line)]
    if temperatures:
        readings["board_temperature_c"] = max(temperatures)
    return readings


class Tegrastats:
    """NVIDIA's own reporter, for boards whose sysfs shows no power; one line is read behind its back."""

    name = "tegrastats"

    def __init__(self, interval_ms: int = 200, program: str | None = None) -> None:
        self._program = program or shutil.which("tegrastats")
        self._latest: dict[str, float] = {}
        self._names: set[str] = set()
        self._process: subprocess.Popen[str] | None = None
        if self._program is None:
            return
        command = [self._program, "--interval", str(interval_ms)]
        try:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )  # fmt: skip
        except OSError:
            return
        assert self._process.stdout is not None
        self._latest = parse_tegrastats(self._process.stdout.readline())
        self._names = set(self._latest)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._latest = parse_tegrastats(line)

    def missing(self) -> str | None:
        if self._program is None:
            return "tegrastats is not on PATH (no Jetson)"
        return None if self._names else f"{self._program} said nothing that could be read"

    def read(self) -> dict[str, float]:
        alive = self._process is not None and self._process.poll() is None
        return {name: self._latest.get(name, math.nan) if alive else math.nan for name in sorted(self._names)}

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


class JetsonGpuClock:
    """The integrated GPU's clock and load."""

    name = "Jetson GPU clock"

    def __init__(self, root: Path = Path("/sys/class/devfreq")) -> None:
        pattern = re.compile(r"(gv11b|ga10b|gp10b|gpu)")
        self._files = [path / "cur_freq" for path in sorted(root.glob("*")) if pattern.search(path.name)]
        self._root = root

    def missing(self) -> str | None:
        if any(number_in(path) is not None for path in self._files):
            return None
        return f"no integrated GPU in {self._root}"

    def read(self) -> dict[str, float]:
        hertz = number_in(self._files[0])
        per_mille = number_in(self._files[0].parent / "device" / "load")
        return {
            "gpu_clock_mhz": math.nan if hertz is None else hertz / 1e6,
            "gpu_load_percent": math.nan if per_mille is None else per_mille / 10,
        }

    def close(self) -> None:
        return


class JetsonMemory:
    """The board's memory in use, which its GPU shares with the host: total less available, of /proc/meminfo."""

    name = "Jetson memory"

    def __init__(
        self, meminfo: Path = Path("/proc/meminfo"), release: Path = Path("/etc/nv_tegra_release"),
        model: Path = Path("/proc/device-tree/model"),
    ) -> None:  # fmt: skip
        self._meminfo = meminfo
        self._is_jetson = release.exists() or "jetson" in (text_in(model) or "").lower()

    def missing(self) -> str | None:
        if not self._is_jetson:
            return "no Jetson, whose GPU shares the host's memory"
        return None if math.isfinite(self._used()) else f"{self._meminfo} cannot be read"

    def _used(self) -> float:
        found = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", text_in(self._meminfo) or "", re.MULTILINE))
        return (int(found["MemTotal"]) - int(found["MemAvailable"])) * 1024.0 if len(found) == 2 else math.nan

    def read(self) -> dict[str, float]:
        return {"board_memory_used_bytes": self._used()}

    def close(self) -> None:
        return


def power_mode(status: Path = Path("/var/lib/nvpmodel/status"), cpu: Path = Path("/sys/devices/system/cpu")) -> str:
    """nvpmodel's mode on a Jetson, else the processor's frequency governor, else that it is not known."""
    mode = text_in(status)
    if mode:
        return f"nvpmodel {mode}"
    governor = text_in(cpu / "cpu0" / "cpufreq" / "scaling_governor")
    return f"CPU governor {governor}" if governor else "not known: neither nvpmodel nor a cpufreq governor is readable"
