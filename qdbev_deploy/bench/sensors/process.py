"""This process: its resident memory, its peak, and how much of the cores others took."""

from __future__ import annotations

import math
import os
import re
import resource
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
