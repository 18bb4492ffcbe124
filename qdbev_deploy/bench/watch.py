"""Reads all sensors now and then between frames, into an array that exists before the first reading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qdbev_deploy.bench.clock import Clock
from qdbev_deploy.bench.facts import measured_gpu
from qdbev_deploy.bench.recording import Recording
from qdbev_deploy.bench.sensors.base import Sensor
from qdbev_deploy.bench.sensors.jetson import Ina3221, JetsonGpuClock, JetsonMemory, Tegrastats
from qdbev_deploy.bench.sensors.linux import CpuClock, Rapl, Thermal
from qdbev_deploy.bench.sensors.nvml import Nvml
from qdbev_deploy.bench.sensors.process import Contention, ProcessMemory

PERIOD_NS = 100_000_000
_ROWS = 8192
_ROOM_NS = 20_000_000  # a stream's next frame must be at least so far away


@dataclass
class Sensors:
    """Those that say something on this machine, and why the others do not."""

    present: list[Sensor]
    missing: dict[str, str] = field(default_factory=dict)

    def named(self, name: str) -> Sensor | None:
        return next((sensor for sensor in self.present if sensor.name == name), None)

    def close(self) -> None:
        for sensor in self.present:
            sensor.close()


def find_sensors() -> Sensors:
    """All that this machine has; tegrastats is started only where a Jetson's sysfs shows no power."""
    gpu = measured_gpu()
    candidates: list[Sensor] = [
        ProcessMemory(), Contention(), CpuClock(), Thermal(), Rapl(), Nvml(gpu.pci_bus_id if gpu else ""), Ina3221(),
        JetsonGpuClock(), JetsonMemory(),
    ]  # fmt: skip
    if any(isinstance(sensor, Ina3221) and sensor.missing() for sensor in candidates):
        # Its temperatures and clocks come last, and win: they are of the same moment as its power.
        candidates.append(Tegrastats())
    sensors = Sensors([])
    for sensor in candidates:
        why = sensor.missing()
        if why is None:
            sensors.present.append(sensor)
        else:
            sensors.missing[sensor.name] = why
            sensor.close()
    return sensors


@dataclass(frozen=True)
class Readings:
    """Columns of equal length, in the order of time."""

    columns: dict[str, npt.NDArray[np.float64]]

    def get(self, name: str) -> npt.NDArray[np.float64] | None:
        """The column, where at least one reading of it is a number."""
        column = self.columns.get(name)
        return None if column is None or not np.isfinite(column).any() else column


class Watch:
    """Call `between` after each frame: it reads at most once a period, and not when a frame is about to arrive."""

    def __init__(
        self, sensors: Sequence[Sensor], recording: Recording, clock: Clock, period_ns: int = PERIOD_NS
    ) -> None:
        self._sensors = tuple(sensors)
        self._recording = recording
        self._clock = clock
        self._period_ns = period_ns
        self._next_ns = 0
        names = [name for sensor in self._sensors for name in sensor.read()]
        self._names = ["moment_ns", "frame", "repeat", *dict.fromkeys(names)]
        self._place = {name: index for index, name in enumerate(self._names)}
        self._rows = np.full((_ROWS, len(self._names)), math.nan)
        self._count = 0

    def between(self, next_arrival_ns: int | None) -> None:
        now = self._clock.now_ns()
        if now < self._next_ns or (next_arrival_ns is not None and next_arrival_ns - now < _ROOM_NS
                                   and now < self._next_ns + 8 * self._period_ns):  # fmt: skip
            return
        self.read()

    def read(self) -> None:
        """One row, now."""
        if self._count == len(self._rows):  # hours: every other reading goes, and the rest are as far apart
            self._rows[: self._count // 2] = self._rows[: self._count : 2].copy()
            self._count //= 2
            self._rows[self._count :] = math.nan
            self._period_ns *= 2
        now = self._clock.now_ns()
        self._next_ns = now + self._period_ns
        row = self._rows[self._count]
        row[0], row[1], row[2] = now, self._recording.count, self._recording.repeat
        for sensor in self._sensors:
            for name, value in sensor.read().items():
                row[self._place[name]] = value
        self._count += 1

    def readings(self) -> Readings:
        rows = self._rows[: self._count]
        return Readings({name: rows[:, index].copy() for index, name in enumerate(self._names)})
