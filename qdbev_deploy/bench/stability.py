"""Whether a result may be reported clean: every reason why it may not, each with its number."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from qdbev_deploy.bench.measure import Measurement, Plan
from qdbev_deploy.bench.scenarios import StreamLog
from qdbev_deploy.bench.statistics import Series, percentile, slope

COV_LIMIT = 0.10  # standard deviation / mean
CLOCK_LIMIT = 0.05  # (fastest - slowest) / fastest clock
DRIFT_LIMIT = 0.05  # rise of the fitted line over a repeat / median
REPEAT_LIMIT = 0.03  # (largest - smallest median) / smallest
OTHERS_LIMIT = 0.25  # share of the machine's cores that other processes took
LEAST_FRAMES = 20  # from which on scatter and drift can be told
LEAST_STARTS = 5
OVERSLEPT_LIMIT_US = 1000.0  # how late the harness may wake for a frame that arrives
OVERSLEPT_SHARE = 0.01  # of the waits that may be later


def reasons(
    measurement: Measurement, plan: Plan, latency: Series, memory: dict[str, Any], clocks: dict[str, Any]
) -> list[str]:
    """Why the run is unstable; empty where it is not."""
    parts = _by_repeat(measurement, latency)
    found = [
        *few(len(latency), LEAST_FRAMES, "frames"),
        *_warmups(measurement),
        *spread(latency),
        *drift(measurement, latency, plan.confidence),
        *repeats(parts, plan.confidence, "instances" if plan.scenario == "co-located" else "repeats"),
        *overslept(measurement.streams),
        *around(clocks),
    ]
    for place in ("host", "device"):
        rise = (memory[place] or {}).get("growth") or {}
        if rise.get("shown"):
            found.append(f"memory of the {place} grew: {rise['bytes_per_1000_frames'] / 1e3:.0f} kB a 1000 frames "
                         f"({rise['low'] / 1e3:.0f} to {rise['high'] / 1e3:.0f})")  # fmt: skip
    if measurement.partial:
        found.append("it was interrupted: only a part was measured")
    return found


def starts(totals: Series, clocks: dict[str, Any]) -> list[str]:
    """The same of cold starts."""
    return [*few(len(totals), LEAST_STARTS, "starts"), *spread(totals), *around(clocks)]


def few(count: int, least: int, what: str) -> list[str]:
    if count >= least:
        return []
    return [f"{count} {what} are too few to tell whether latency is steady: needs {least}"]


def around(clocks: dict[str, Any]) -> list[str]:
    """What went on around the run: throttling, clocks, other processes."""
    return [*_clocks(clocks), *_others(clocks)]


def _by_repeat(measurement: Measurement, latency: Series) -> list[Series]:
    numbers = measurement.recording.column("repeat")
    return [latency[numbers == repeat] for repeat in np.unique(numbers)]


def _warmups(measurement: Measurement) -> list[str]:
    failed = [index + 1 for index, warmup in enumerate(measurement.warmups) if warmup.settled is False]
    if not failed:
        return []
    warmup = measurement.warmups[failed[0] - 1]
    which = "" if len(measurement.warmups) == 1 else " of repeat " + ", ".join(map(str, failed))
    return [f"the warm-up{which} did not settle in {warmup.frames} frames, {warmup.seconds:.0f} s"]


def spread(latency: Series) -> list[str]:
    cov = float(latency.std(ddof=1) / latency.mean()) if len(latency) > 1 else 0.0
    return [f"latency scatters: CoV {cov:.1%}, limit {COV_LIMIT:.0%}"] if cov > COV_LIMIT else []


def drift(measurement: Measurement, latency: Series, confidence: float) -> list[str]:
    """The line through all frames, each repeat with its own level, over a repeat's length."""
    recording = measurement.recording
    taken_s, repeat = recording.column("taken_ns") / 1e9, recording.column("repeat")
    if len(latency) < LEAST_FRAMES:
        return []
    line = slope(taken_s, latency, confidence, repeat)
    length_s = max(float(np.ptp(taken_s[repeat == number])) for number in np.unique(repeat))
    median = float(np.median(latency))
    change = line.value * length_s / median
    if abs(change) <= DRIFT_LIMIT:
        return []
    over = f"{change:+.1%} over {length_s:.0f} s, limit {DRIFT_LIMIT:.0%}"
    if line.low > 0 or line.high < 0:
        return [f"latency drifts: {over}"]
    if not math.isfinite(line.low) or not math.isfinite(line.high):
        return [f"whether latency drifts cannot be told: {over}, and frames hang together too closely for an interval; "
                "measure for longer"]  # fmt: skip
    # An interval shrinks with the square root of the frames: so many until it would be half the change.
    half = (line.high - line.low) / 2 * length_s / median
    needs = math.ceil(len(latency) * (2 * half / abs(change)) ** 2)
    return [f"whether latency drifts cannot be told: {over}, and the interval holds 0; needs about {needs} frames"]


def repeats(parts: list[Series], confidence: float, what: str = "repeats") -> list[str]:
    """Medians that differ by more than the limit; those that their intervals do not tell apart count, too."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return []
    medians = [percentile(part, 50, confidence) for part in parts]
    slowest, fastest = max(medians, key=lambda m: m.value), min(medians, key=lambda m: m.value)
    apart = slowest.value / fastest.value - 1 if fastest.value > 0 else 0.0
    if apart <= REPEAT_LIMIT:
        return []
    over = f"medians {apart:.1%} apart, limit {REPEAT_LIMIT:.0%}"
    if not all(median.enough for median in medians):
        needed = sum(median.needed for median in medians)
        return [
            f"whether {what} agree cannot be told: {over}, and their samples give no interval; needs {needed} frames"
        ]
    if slowest.low is not None and fastest.high is not None and slowest.low > fastest.high:
        return [f"{what} disagree: {over}"]
    widest = max((m.high or 0.0) - (m.low or 0.0) for m in medians)
    needs = math.ceil(sum(map(len, parts)) * (widest / (slowest.value - fastest.value)) ** 2)
    needs = max(needs, sum(map(len, parts)) + 1)
    return [f"whether {what} agree cannot be told: {over}, and their intervals overlap; needs about {needs} frames"]


def overslept(logs: list[StreamLog]) -> list[str]:
    """A harness that wakes late adds to the age of every output."""
    if not logs:
        return []
    late_us = np.concatenate([log.overslept_ns[np.isfinite(log.overslept_ns)] for log in logs]) / 1e3
    share = float((late_us > OVERSLEPT_LIMIT_US).mean()) if len(late_us) else 0.0
    if share <= OVERSLEPT_SHARE:
        return []
    return [f"the harness woke over {OVERSLEPT_LIMIT_US / 1e3:g} ms late for {share:.1%} of the frames it waited for, "
            f"{late_us.max() / 1e3:.1f} ms at most"]  # fmt: skip


def _clocks(clocks: dict[str, Any]) -> list[str]:
    found = []
    if clocks["gpu_throttle"]:
        found.append("the GPU throttled: " + ", ".join(clocks["gpu_throttle"]))
    if clocks["cpu_throttled_times"]:
        found.append(f"a CPU core throttled {clocks['cpu_throttled_times']} times")
    # A CPU's clock follows its load by design; a GPU's under a steady load should not.
    clock = clocks["gpu_clock_mhz"]
    if clock and clock["max"] > 0 and 1 - clock["min"] / clock["max"] > CLOCK_LIMIT:
        found.append(f"the GPU's clock varied: {clock['min']:.0f} to {clock['max']:.0f} MHz")
    return found


def _others(clocks: dict[str, Any]) -> list[str]:
    cores = os.cpu_count() or 1
    found = []
    for name, whose in (("others_busy_cores", "other processes used"), ("stolen_cores", "the hypervisor took")):
        busy = clocks[name]
        if busy is not None and busy / cores > OTHERS_LIMIT:
            found.append(f"{whose} {busy:.1f} of {cores} cores, limit {OTHERS_LIMIT:.0%} of them")
    return found
