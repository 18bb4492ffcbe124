"""Where measured frames are written: arrays that exist before the first frame, so that nothing grows with frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.engine.interface import StageTimes

# Milliseconds, but for the moment, the frame and the flags.
COLUMNS = (
    "taken_ns", "frame", "repeat", "total", "preprocess", "step", "decode",
    "host_prep", "h2d", "enqueue", "compute", "d2h", "reset",
)  # fmt: skip
STAGES = ("host_prep", "h2d", "preprocess", "enqueue", "compute", "d2h", "decode")
_MS = 1e-6


class Recording:
    """One row a frame. It is filled once with NaN, so that its pages belong to the process from the start."""

    def __init__(self, capacity: int) -> None:
        self.rows: npt.NDArray[np.float64] = np.full((capacity, len(COLUMNS)), math.nan)
        self.count = 0
        self.repeat = 0

    @classmethod
    def of(cls, rows: npt.NDArray[np.float64]) -> Recording:
        """Of rows that were measured elsewhere."""
        recording = cls(0)
        recording.rows, recording.count = rows, len(rows)
        return recording

    def add(self, frame: int, moments: tuple[int, int, int, int], times: StageTimes | None, reset: bool) -> None:
        """`moments`: taken, preprocessed, stepped, decoded, in nanoseconds."""
        taken, prepared, stepped, done = moments
        row: Any = self.rows[self.count]
        row[:7] = (
            taken, frame, self.repeat, (done - taken) * _MS, (prepared - taken) * _MS, (stepped - prepared) * _MS,
            (done - stepped) * _MS,
        )  # fmt: skip
        row[12] = reset
        if times is not None:
            if times.host_prep is not None:
                row[7] = times.host_prep
            if times.h2d is not None:
                row[8] = times.h2d
            if times.enqueue is not None:
                row[9] = times.enqueue
            if times.compute is not None:
                row[10] = times.compute
            if times.d2h is not None:
                row[11] = times.d2h
        self.count += 1

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """What was measured, in the order of time."""
        return self.rows[: self.count, COLUMNS.index(name)]

    def rewind(self, count: int = 0) -> None:
        """Forget the rows from `count` on: those of a warm-up, say."""
        self.rows[count : self.count] = math.nan
        self.count = count
