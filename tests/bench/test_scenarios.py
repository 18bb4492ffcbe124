"""Arrivals, waiting and dropping by worked examples on a clock that stands still."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest

from qdbev_deploy.bench.clock import WallClock, reading_cost_us
from qdbev_deploy.bench.recording import Recording
from qdbev_deploy.bench.scenarios import StreamLog, StreamPlan, arriving, back_to_back
from qdbev_deploy.bench.warmup import MOST_FRAMES, WINDOW, WINDOWS, warm_up
from qdbev_deploy.evaluate.schedule import simulate
from tests.bench.fakes import MS, FakeClock


def stream(plan: StreamPlan, latencies_ms: list[float], count: int) -> tuple[StreamLog, list[int]]:
    """Run a stream whose k-th processed frame takes the k-th latency; also the frames in the order processed."""
    clock, order = FakeClock(), []
    script = itertools.cycle(latencies_ms)

    def run(index: int, recording: Recording) -> int:
        order.append(index)
        clock.now += round(next(script) * MS)
        return clock.now

    log = StreamLog.for_arrivals(plan, count, clock)
    arriving(run, Recording(count), plan, log, clock, lambda _: None)
    return log, order


def test_frames_that_are_fast_enough_are_all_processed() -> None:
    log, order = stream(StreamPlan(10), [40], 5)
    assert order == [0, 1, 2, 3, 4]
    assert ((log.done_ns - log.arrives_ns) == 40 * MS).all()
    assert np.diff(log.arrives_ns).tolist() == [100 * MS] * 4


def test_drop_oldest_keeps_the_newest_of_those_that_wait() -> None:
    """Every frame takes 250 ms at 10 Hz: 0 runs until 250, when 2 waits and has ousted 1; 2 until 500, when 5 waits
    (it arrives in that moment, and has ousted 3 and 4 before it)."""
    log, order = stream(StreamPlan(10), [250], 6)
    assert order == [0, 2, 5]
    assert np.isnan(log.done_ns[[1, 3, 4]]).all()
    age_ms = (log.done_ns - log.arrives_ns)[[0, 2, 5]] / MS
    assert age_ms.tolist() == [250, 300, 250]


def test_a_queue_keeps_the_oldest_and_refuses_those_that_find_it_full() -> None:
    """250 ms at 10 Hz, two places: 1 and 2 wait while 0 runs; 1 is taken at 250, and 3 finds a place; 4, 5 do not."""
    log, order = stream(StreamPlan(10, policy="queue", queue_depth=2), [250], 6)
    assert order == [0, 1, 2, 3]
    assert np.isnan(log.done_ns[[4, 5]]).all()  # 5 arrives in the moment in which 2 leaves, and counts as there before
    assert (log.done_ns - log.arrives_ns)[1] == 400 * MS


@pytest.mark.parametrize("seed", range(6))
def test_drop_oldest_is_the_schedule_that_evaluation_simulates(seed: int) -> None:
    """Two programs for one definition: what the benchmark drops, `evaluate --streaming` drops."""
    rng = np.random.default_rng(seed)
    latencies = [float(value) for value in rng.integers(20, 400, 50)]
    plan = StreamPlan(12.5, "uniform", 30.0, seed=seed)
    log, _ = stream(plan, latencies, 50)
    arrives_us = [int(value) // 1000 for value in log.arrives_ns]
    log.arrives_ns[:] = np.array(arrives_us) * 1000
    clock = FakeClock()
    exact = StreamLog(np.array(arrives_us) * 1000, np.full(50, math.nan), np.full(50, math.nan))
    script = iter(latencies)

    def run(index: int, recording: Recording) -> int:
        clock.now += round(next(script) * MS)
        return clock.now

    arriving(run, Recording(50), plan, exact, clock, lambda _: None)
    expected = simulate(arrives_us, (round(value * 1000) for value in latencies))
    assert tuple(np.flatnonzero(np.isnan(exact.done_ns))) == expected.dropped
    assert expected.dropped


def test_jitter_is_seeded_stays_in_order_and_keeps_the_rate() -> None:
    plan = StreamPlan(100, "normal", 8.0, seed=4)
    arrivals = plan.arrivals_ns(2000)
    assert (np.diff(arrivals) >= 0).all()
    assert np.array_equal(arrivals, plan.arrivals_ns(2000))
    assert not np.array_equal(arrivals, plan.arrivals_ns(2000, 1))
    assert arrivals.min() >= 0
    assert arrivals[-1] / 2000 == pytest.approx(10 * MS, rel=0.02)
    uniform = StreamPlan(100, "uniform", 3.0).arrivals_ns(2000) / MS - np.arange(2000) * 10
    assert np.ptp(uniform) <= 6.001
    assert np.ptp(uniform) > 5.5


def test_back_to_back_ends_when_it_is_told() -> None:
    ran: list[int] = []
    back_to_back(lambda index, _: ran.append(index) or 0, Recording(9), 9, lambda _: None, lambda: len(ran) == 4)
    assert ran == [0, 1, 2, 3]


def test_the_wall_clock_wakes_on_time() -> None:
    clock = WallClock()
    due = clock.now_ns() + 15 * MS
    clock.sleep_until_ns(due)
    assert clock.now_ns() >= due
    late = []
    for _ in range(20):
        due = time.perf_counter_ns() + 4 * MS
        clock.sleep_until_ns(due)
        late.append(time.perf_counter_ns() - due)
    assert min(late) < 100_000  # a sleep alone would be late by more, every time
    assert 0 < reading_cost_us(clock) < 100


# ----------------------------------------------------------------------------------------------------------------------
# Warm-up


def warm(latency_ms: list[float], fixed: int | None = None) -> tuple[int, bool | None]:
    clock, script = FakeClock(), itertools.chain(latency_ms, itertools.repeat(latency_ms[-1]))

    def run(index: int, recording: Recording) -> int:
        began = clock.now
        clock.now += round(next(script) * MS)
        recording.add(index, (began, began, clock.now, clock.now), None, False)
        return clock.now

    found = warm_up(run, clock, fixed)
    return found.frames, found.settled


def test_warm_up_ends_when_three_windows_agree() -> None:
    assert warm([10.0]) == (WINDOW * WINDOWS, True)
    slow = [30.0] * WINDOW * 4
    assert warm([*slow[:20], *[10.0] * 100]) == (WINDOW * 6, True)  # frame 20 lies in the third window


def test_warm_up_gives_up_and_says_so() -> None:
    rising = [10 * 1.002**index for index in range(MOST_FRAMES)]
    frames, settled = warm(rising)
    assert settled is False
    assert frames <= MOST_FRAMES
    frames, settled = warm([1000.0 * 1.01**index for index in range(100)])
    assert (settled, frames < 60) == (False, True)  # a minute is over long before 800 frames


def test_warm_up_of_a_fixed_length_claims_nothing() -> None:
    assert warm([10.0], 5) == (5, None)
    assert warm([10.0], 0) == (0, None)
