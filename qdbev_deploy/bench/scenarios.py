"""When frames are run: back to back, or as they arrive at a rate, with what becomes of those that come too fast."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from qdbev_deploy.bench.clock import Clock
from qdbev_deploy.bench.recording import Recording

Policy = Literal["drop-oldest", "queue"]
Jitter = Literal["none", "uniform", "normal"]

# (index of the frame, recording) -> when it was done
RunFrame = Callable[[int, Recording], int]
# (when the next frame arrives, None: at once): what may be done between two frames is done
Between = Callable[["int | None"], None]


@dataclass(frozen=True)
class StreamPlan:
    """How frames arrive and what is asked of them."""

    rate_hz: float
    jitter: Jitter = "none"
    jitter_ms: float = 0.0  # uniform: at most so much early or late; normal: the standard deviation
    policy: Policy = "drop-oldest"
    queue_depth: int = 4  # frames that may wait, with policy "queue"; a frame that finds it full is dropped
    deadline_ms: float | None = None  # None: the period
    seed: int = 0

    @property
    def deadline(self) -> float:
        return 1e3 / self.rate_hz if self.deadline_ms is None else self.deadline_ms

    @property
    def places(self) -> int:
        return 1 if self.policy == "drop-oldest" else self.queue_depth

    def arrivals_ns(self, count: int, seed_offset: int = 0) -> npt.NDArray[np.int64]:
        """Moments after the start at which frames arrive, in order: jitter never lets one overtake another."""
        rng = np.random.default_rng((self.seed, seed_offset))
        ideal = np.arange(count) * (1e9 / self.rate_hz)
        if self.jitter == "uniform":
            ideal = ideal + rng.uniform(-1, 1, count) * self.jitter_ms * 1e6
        elif self.jitter == "normal":
            ideal = ideal + rng.standard_normal(count) * self.jitter_ms * 1e6
        in_order = np.maximum.accumulate(ideal)
        arrivals: npt.NDArray[np.int64] = np.round(in_order - min(in_order[0], 0.0)).astype(np.int64)
        return arrivals


@dataclass
class StreamLog:
    """What became of the frames of one repeat that arrived."""

    arrives_ns: npt.NDArray[np.int64]  # each frame's own moment
    done_ns: npt.NDArray[np.float64]  # NaN where it was dropped
    overslept_ns: npt.NDArray[np.float64]  # of waits for a frame: how late the harness woke; NaN where it did not wait
    arrived: int = 0

    @classmethod
    def for_arrivals(cls, plan: StreamPlan, count: int, clock: Clock, repeat: int = 0) -> StreamLog:
        """The schedule, from a millisecond from now on."""
        arrives = plan.arrivals_ns(count, repeat) + clock.now_ns() + 1_000_000
        return cls(arrives, np.full(count, math.nan), np.full(count, math.nan))

    @property
    def processed(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero(np.isfinite(self.done_ns))


def back_to_back(run: RunFrame, recording: Recording, count: int, between: Between, until: Callable[[], bool]) -> None:
    """`count` frames, the next as soon as the last is done; ends early when `until` says so."""
    for index in range(count):
        run(index, recording)
        between(None)
        if until():
            return


def arriving(
    run: RunFrame, recording: Recording, plan: StreamPlan, log: StreamLog, clock: Clock, between: Between
) -> None:
    """Frames that arrive on schedule, whatever becomes of those before them; `log` is filled.

    Arrivals are read off the clock against a schedule made beforehand: the same frames wait and are dropped as with a
    thread that hands them over, and no such thread competes with what is measured. A frame's arrival is its moment in
    the schedule, not the moment at which somebody looked (no coordinated omission).
    """
    arrives, count = log.arrives_ns, len(log.arrives_ns)
    waiting: deque[int] = deque()
    while log.arrived < count or waiting:
        now = clock.now_ns()
        while log.arrived < count and arrives[log.arrived] <= now:
            if len(waiting) < plan.places:
                waiting.append(log.arrived)
            elif plan.policy == "drop-oldest":
                waiting.popleft()
                waiting.append(log.arrived)
            log.arrived += 1
        if waiting:
            index = waiting.popleft()
            log.done_ns[index] = run(index, recording)
            between(int(arrives[log.arrived]) if not waiting and log.arrived < count else None)
        else:
            due = int(arrives[log.arrived])
            clock.sleep_until_ns(due)
            log.overslept_ns[log.arrived] = clock.now_ns() - due
