"""Frames before the first that counts: until the latency has settled, or a limit says that it will not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qdbev_deploy.bench.clock import Clock
from qdbev_deploy.bench.recording import Recording

WINDOW = 8  # frames whose median is compared
WINDOWS = 3  # successive medians that must agree
TOLERANCE = 0.02
MOST_FRAMES = 800
MOST_SECONDS = 60.0
CRITERION = (
    f"the medians of {WINDOWS} successive windows of {WINDOW} frames within {TOLERANCE:.0%} of each other, "
    f"at most {MOST_FRAMES} frames or {MOST_SECONDS:g} s"
)


@dataclass(frozen=True)
class Warmup:
    """How it went."""

    frames: int
    settled: bool | None  # None: a fixed number was asked for
    seconds: float
    criterion: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def warm_up(run: Callable[[int, Recording], int], clock: Clock, fixed: int | None) -> Warmup:
    """Run frames from the drive's beginning; `fixed` None: until the latency has settled."""
    began = clock.now_ns()
    if fixed is not None:
        recording = Recording(max(fixed, 1))
        for index in range(fixed):
            run(index, recording)
        return Warmup(fixed, None, (clock.now_ns() - began) / 1e9, f"{fixed} frames, as asked for")
    recording = Recording(MOST_FRAMES)
    settled = False
    for index in range(MOST_FRAMES):
        run(index, recording)
        if (index + 1) % WINDOW == 0 and _settled(recording):
            settled = True
            break
        if clock.now_ns() - began > MOST_SECONDS * 1e9:
            break
    return Warmup(recording.count, settled, (clock.now_ns() - began) / 1e9, CRITERION)


def _settled(recording: Recording) -> bool:
    total = recording.column("total")
    if len(total) < WINDOW * WINDOWS:
        return False
    medians = np.median(total[-WINDOW * WINDOWS :].reshape(WINDOWS, WINDOW), axis=1)
    return bool(medians.max() <= medians.min() * (1 + TOLERANCE))
