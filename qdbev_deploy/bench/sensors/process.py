"""This process: its resident memory, its peak, and how much of the cores others took."""

from __future__ import annotations

import math
import os
import re
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CLOCK_TICKS_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessMemory:
    """Resident set size, from /proc/self/statm; its peak, from VmHWM of /proc/self/status."""

    name = "process memory"

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc

    def missing(self) -> str | None:
        return None if (self._proc / "statm").is_file() else f"{self._proc} is not there: no Linux /proc"

    def read(self) -> dict[str, float]:
        try:
            resident = int((self._proc / "statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
        except (OSError, ValueError, IndexError):
            return {"rss_bytes": math.nan}
        return {"rss_bytes": float(resident)}

    def peak_bytes(self) -> int | None:
        try:
            status = (self._proc / "status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        match = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(match.group(1)) * 1024 if match else None

    def restart_peak(self) -> bool:
        """Let the peak count from now on; False where the kernel does not allow it."""
        try:
            (self._proc / "clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return False
        return True

    def close(self) -> None:
        return


@dataclass(frozen=True)
class FamilyTime:
    """Seconds of processor time so far: of the machine, of a benchmark and its processes, and denied by the host."""

    moment_s: float
    machine_s: float
    family_s: float
    stolen_s: float

    @classmethod
    def now(cls, children: Sequence[int] = (), proc: Path = Path("/proc")) -> FamilyTime:
        """`children`: those that live; of those that have ended, the kernel keeps the sum."""
        found = Contention(proc / "stat").read()
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        family_s = found["process_busy_s"] + ended.ru_utime + ended.ru_stime
        family_s += sum(_process_seconds(proc / str(child) / "stat") for child in children)
        return cls(time.perf_counter(), found["machine_busy_s"], family_s, found["stolen_s"])

    def since(self, earlier: FamilyTime, least_s: float) -> dict[str, float | None]:
        """Cores in use on average, as in `clocks`; None over so short a time that the kernel's ticks mean nothing."""
        seconds = self.moment_s - earlier.moment_s
        family_s = self.family_s - earlier.family_s
        spent = {
            "others_busy_cores": self.machine_s - earlier.machine_s - family_s, "own_busy_cores": family_s,
            "stolen_cores": self.stolen_s - earlier.stolen_s,
        }  # fmt: skip
        return {
            name: max(value / seconds, 0.0) if seconds >= least_s and math.isfinite(value) else None
            for name, value in spent.items()
        }


def _process_seconds(stat: Path) -> float:
    """Of all threads of a process, by fields 14 and 15, which stand behind a name that may hold anything."""
    try:
        fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_S
    except (OSError, ValueError, IndexError):
        return 0.0  # it has ended, and counts with those that have


class Contention:
    """Seconds of processor time that the whole machine and this process have used so far, and were denied."""

    name = "processor time"

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat

    def missing(self) -> str | None:
        return None if self._fields() else f"{self._stat} cannot be read"

    def _fields(self) -> list[float] | None:
        try:
            line = self._stat.read_text(encoding="ascii").splitlines()[0]
            return [float(field) / _CLOCK_TICKS_S for field in line.split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None

    def read(self) -> dict[str, float]:
        fields = self._fields()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        if fields is None or len(fields) < 8:
            busy = stolen = math.nan
        else:
            user, nice, system, _idle, _wait, irq, soft, stolen = fields
            busy = user + nice + system + irq + soft
        return {
            "machine_busy_s": busy,
            "stolen_s": stolen,
            "process_busy_s": usage.ru_utime + usage.ru_stime,
            "preempted_count": float(usage.ru_nivcsw),
        }

    def close(self) -> None:
        return
