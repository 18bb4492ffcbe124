"""Whether a result may be reported clean: every reason why it may not, each with its number."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from qdbev_deploy.bench.measure import Measurement, Plan
from qdbev_deploy.bench.statistics import Series, percentile, slope

COV_LIMIT = 0.10  # standard deviation / mean
CLOCK_LIMIT = 0.05  # (fastest - slowest) / fastest clock
DRIFT_LIMIT = 0.05  # rise of the fitted line over a repeat / median
REPEAT_LIMIT = 0.03  # (largest - smallest median) / smallest
OTHERS_LIMIT = 0.25  # share of the machine's cores that other processes took


def reasons(
    measurement: Measurement, plan: Plan, latency: Series, memory: dict[str, Any], clocks: dict[str, Any]
) -> list[str]:
    """Why the run is unstable; empty where it is not."""
    found = [
        *_warmups(measurement),
        *spread(latency),
        *drift(measurement, latency, plan.confidence),
        *repeats(_by_repeat(measurement, latency), plan.confidence),
        *_clocks(clocks),
        *_others(clocks),
    ]
    for place in ("host", "device"):
        rise = (memory[place] or {}).get("growth") or {}
        if rise.get("shown"):
            found.append(f"memory of the {place} grew: {rise['bytes_per_1000_frames'] / 1024:.0f} KiB a 1000 frames "
                         f"({rise['low'] / 1024:.0f} to {rise['high'] / 1024:.0f})")  # fmt: skip
    if measurement.partial:
        found.append("it was interrupted: only a part was measured")
    return found


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
    if len(latency) < 20:
        return []
    line = slope(taken_s, latency, confidence, repeat)
    length_s = max(float(np.ptp(taken_s[repeat == number])) for number in np.unique(repeat))
    change = line.value * length_s / float(np.median(latency))
    if abs(change) <= DRIFT_LIMIT or line.low <= 0 <= line.high:
        return []
    return [f"latency drifts: {change:+.1%} over {length_s:.0f} s, limit {DRIFT_LIMIT:.0%}"]


def repeats(parts: list[Series], confidence: float) -> list[str]:
    """Medians that differ by more than the limit, and by more than their own intervals explain."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return []
    medians = [percentile(part, 50, confidence) for part in parts]
    slowest, fastest = max(medians, key=lambda m: m.value), min(medians, key=lambda m: m.value)
    apart = slowest.value / fastest.value - 1 if fastest.value > 0 else 0.0
    overlap = slowest.low is None or fastest.high is None or slowest.low <= fastest.high
    if apart <= REPEAT_LIMIT or overlap:
        return []
    return [f"repeats disagree: medians {apart:.1%} apart, limit {REPEAT_LIMIT:.0%}"]


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
