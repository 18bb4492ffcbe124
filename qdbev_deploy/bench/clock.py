"""Time, as the scenarios see it: the wall clock, and what reading it costs."""

from __future__ import annotations

import statistics
import time
from typing import Protocol

SPIN_NS = 2_000_000  # the last stretch of a wait is spun: a sleep ends late by what the kernel's timer slack allows


class Clock(Protocol):
    """Nanoseconds since any moment, rising."""

    def now_ns(self) -> int: ...

    def sleep_until_ns(self, moment_ns: int) -> None: ...


class WallClock:
    """`perf_counter_ns`; waits by sleeping, and by spinning at the end."""

    now_ns = staticmethod(time.perf_counter_ns)

    def sleep_until_ns(self, moment_ns: int) -> None:
        left_ns = moment_ns - time.perf_counter_ns()
        if left_ns > SPIN_NS:
            time.sleep((left_ns - SPIN_NS) / 1e9)
        while time.perf_counter_ns() < moment_ns:
            pass


def reading_cost_us(clock: Clock, rounds: int = 2000) -> float:
    """Microseconds of one reading of the clock: the median over batches."""
    costs = []
    for _ in range(10):
        start = clock.now_ns()
        for _ in range(rounds // 10):
            clock.now_ns()
        costs.append((clock.now_ns() - start) / (rounds // 10 + 1) / 1e3)
    return statistics.median(costs)
