"""From the start of a process to its first boxes, in fresh processes, one after another."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qdbev_deploy.bench.measure import Progress, silent
from qdbev_deploy.bench.sections import numbers
from qdbev_deploy.bench.statistics import summarise
from qdbev_deploy.engine.interface import StreamOptions
from qdbev_deploy.errors import ExitCode, QdbevError

PHASES = ("interpreter", "imports", "verification", "load", "first_frame")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class ColdStart:
    """Milliseconds of each phase of one start."""

    interpreter: float  # from the request to start a process to its first line of Python
    imports: float
    verification: float  # the bundle's files against its manifest
    load: float  # engine, buffers
    first_frame: float  # a frame in memory to boxes

    @property
    def total(self) -> float:
        return float(sum(getattr(self, phase) for phase in PHASES))


Start = Callable[[list[str]], "tuple[int, str, str]"]  # command -> exit code, stdout, stderr


def start_process(command: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    return done.returncode, done.stdout, done.stderr


def cold_starts(
    bundle: Path, samples: Path, options: StreamOptions, repeats: int, progress: Progress = silent,
    start: Start = start_process, between: Callable[[], None] = lambda: None,
) -> list[ColdStart]:  # fmt: skip
    """`perf_counter_ns` is the system's monotonic clock: what the process reads and what we read can be subtracted.

    `between` is called before the first start and after each.
    """
    request = json.dumps({"bundle": str(bundle), "samples": str(samples), "options": asdict(options)})
    command = [sys.executable, "-m", "qdbev_deploy.bench.cold_start", request]
    results = []
    between()
    for repeat in range(repeats):
        progress(repeat, repeats, "cold starts")
        asked_ns = time.perf_counter_ns()
        code, said, complained = start(command)
        results.append(_read(asked_ns, code, said, complained))
        between()
    return results


def _read(asked_ns: int, code: int, said: str, complained: str) -> ColdStart:
    lines = said.strip().splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        words = " ".join(complained.split())[-1000:]
        raise QdbevError(
            f"the started process ended with exit code {code} and no answer: {words}",
            "a start that gets to its first boxes",
            "run the scenario 'single' on this bundle first",
            exit_code=ExitCode.MISSING,
        ) from None
    if "error" in answer:
        error = answer["error"]
        raise QdbevError(error["found"], error["needed"], error["next_step"], exit_code=ExitCode(error["exit_code"]))
    moments = answer["moments_ns"]
    return ColdStart(
        interpreter=(moments["started"] - asked_ns) / 1e6,
        imports=(moments["imported"] - moments["started"]) / 1e6,
        verification=(moments["verified"] - moments["imported"]) / 1e6,
        load=(moments["loaded"] - moments["verified"]) / 1e6,
        first_frame=(moments["done"] - moments["read"]) / 1e6,
    )


def cold_section(starts: Sequence[ColdStart], confidence: float) -> dict[str, Any]:
    """`cold`: a summary of each phase. The first start is named: only it may have read from the disk."""
    section: dict[str, Any] = {
        phase: summarise(np.array([getattr(start, phase) for start in starts]), confidence).to_dict()
        for phase in PHASES
    }
    section["first_start_ms"] = starts[0].total
    section["file_cache"] = "not dropped: after the first start, files come from memory"
    return numbers(section)
