"""From the numbers of a measurement to the sections of the document: stages, stream, memory, power, clocks."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.bench.measure import Measurement, Plan
from qdbev_deploy.bench.recording import STAGES
from qdbev_deploy.bench.scenarios import StreamLog, StreamPlan
from qdbev_deploy.bench.sensors.nvml import throttle_names
from qdbev_deploy.bench.sensors.process import ProcessMemory
from qdbev_deploy.bench.statistics import Series, Slope, histogram, slope, summarise
from qdbev_deploy.bench.watch import Readings, Sensors

_SOAK_WINDOWS = 60  # at most; none is shorter than a second
_LEAST_POINTS = 12  # readings of memory from which on a slope is said
_LEAST_FRAMES = 100  # between the first and the last of them: from fewer, nothing is said of a thousand
LEAST_SECONDS = 5.0  # from which on shares of processor time are said
_LEAST_GROWTH_BYTES = 256_000  # over a whole run; below it, nobody is harmed and the allocator breathes


def finite(value: float | None, digits: int = 6) -> float | None:
    """For JSON, which has no NaN and no infinity."""
    return None if value is None or not math.isfinite(value) else round(value, digits)


def numbers(section: dict[str, Any]) -> dict[str, Any]:
    """A section with its floats rounded, and None for those that are none."""
    return {name: _rounded(value) for name, value in section.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return numbers(value)
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return finite(value) if isinstance(value, float) else value


def latency_section(values: Series, confidence: float, by_events: Series | None) -> dict[str, Any]:
    """`latency_ms`: every measured frame, what may be said of them, and the same by the device's own clock."""
    events = None if by_events is None or not np.isfinite(by_events).all() else summarise(by_events, confidence)
    return {
        "samples": [round(float(value), 5) for value in values],
        "summary": numbers(summarise(values, confidence).to_dict()),
        "histogram": numbers(histogram(values)),
        "by_events": None if events is None else numbers(events.to_dict()),
    }


def device_time(measurement: Measurement, backend: str) -> Series | None:
    """Copies in, compute and copies out by the device's events; None where nothing but the wall clock tells."""
    if backend != "tensorrt":
        return None
    recording = measurement.recording
    return recording.column("h2d") + recording.column("compute") + recording.column("d2h")


def stages_section(measurement: Measurement, confidence: float, *, with_preprocess: bool) -> dict[str, Any]:
    """`stages_ms`: a summary of each stage, None where there is none; `rest` is what no stage accounts for."""
    recording = measurement.recording
    total = recording.column("total")
    section: dict[str, Any] = {}
    inside = np.zeros_like(total)
    for name in STAGES:
        values = recording.column(name)
        if (name == "preprocess" and not with_preprocess) or not np.isfinite(values).all():
            section[name] = None
            continue
        section[name] = numbers(summarise(values, confidence).to_dict())
        inside += values
    known = any(section[name] for name in ("compute", "enqueue"))
    section["rest"] = numbers(summarise(total - inside, confidence).to_dict()) if known else None
    return section


def stream_section(plan: StreamPlan, logs: list[StreamLog], confidence: float) -> dict[str, Any]:
    """`stream`: what became of the frames that arrived."""
    age_ms = np.concatenate([(log.done_ns - log.arrives_ns)[log.processed] for log in logs]) / 1e6
    between_ms = np.concatenate([np.diff(log.done_ns[log.processed]) for log in logs]) / 1e6
    overslept_us = np.concatenate([log.overslept_ns[np.isfinite(log.overslept_ns)] for log in logs]) / 1e3
    arrived = sum(log.arrived for log in logs)
    late = int((age_ms > plan.deadline).sum())
    return numbers(
        {
            "rate_hz": plan.rate_hz,
            "jitter": plan.jitter,
            "jitter_ms": plan.jitter_ms,
            "policy": plan.policy,
            "queue_depth": plan.places,
            "deadline_ms": plan.deadline,
            "arrived": arrived,
            "processed": len(age_ms),
            "dropped": arrived - len(age_ms),
            "late": late,
            "misses": late + arrived - len(age_ms),
            "miss_share": (late + arrived - len(age_ms)) / max(arrived, 1),
            "age_ms": summarise(age_ms, confidence).to_dict() if len(age_ms) else None,
            "between_outputs_ms": summarise(between_ms, confidence).to_dict() if len(between_ms) else None,
            "overslept_us": {
                "p50": float(np.median(overslept_us)), "max": float(overslept_us.max()), "waits": len(overslept_us),
            } if len(overslept_us) else None,
        }
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------
# Memory


def growth(readings: Readings, name: str, confidence: float) -> dict[str, Any] | None:
    """How a reading in bytes rises with the frames; None where there are too few readings or frames."""
    values = readings.get(name)
    if values is None:
        return None
    valid = np.isfinite(values)
    frames, repeats = readings.columns["frame"][valid], readings.columns["repeat"][valid]
    values = values[valid]
    run = float(np.ptp(frames)) if len(frames) else 0.0
    if len(values) < _LEAST_POINTS or run < _LEAST_FRAMES:
        return None
    whole = slope(frames, values, confidence, repeats)
    later = second_halves(frames, repeats)
    late = slope(frames[later], values[later], confidence, repeats[later])
    return {
        "bytes_per_1000_frames": finite(whole.value * 1000, 1),
        "low": finite(whole.low * 1000, 1),
        "high": finite(whole.high * 1000, 1),
        "second_half": {bound: finite(value * 1000, 1) for bound, value in vars(late).items()},
        "first_bytes": int(values[0]),
        "last_bytes": int(values[-1]),
        "readings": len(values),
        "shown": grows(whole, late, run) and goes_on(frames, values, repeats),
    }


def grows(whole: Slope, late: Slope, frames: float) -> bool:
    """A leak goes on: the line rises over the run and over its second halves, by more than the allocator breathes."""
    return whole.rises and late.rises and whole.value * frames >= _LEAST_GROWTH_BYTES


def goes_on(frames: Series, values: Series, repeats: Series) -> bool:
    """Whether the level rises again and again in the second halves, and not in one step: a cache fills once, if late.

    Each second half is cut into four blocks; most of the steps from one block's median to the next must rise.
    """
    rises = []
    later = second_halves(frames, repeats)
    for repeat in np.unique(repeats):
        blocks = np.array_split(values[later & (repeats == repeat)], 4)
        medians = [float(np.median(block)) for block in blocks if len(block)]
        rises += [after > before for before, after in itertools.pairwise(medians)]
    return bool(rises) and sum(rises) >= 0.6 * len(rises)


def second_halves(frames: Series, repeats: Series) -> npt.NDArray[np.bool_]:
    """Which readings lie in the second half of their repeat's frames."""
    later = np.zeros(len(frames), bool)
    for repeat in np.unique(repeats):
        members = repeats == repeat
        middle = (frames[members].min() + frames[members].max()) / 2
        later |= members & (frames >= middle)
    return later


def memory_section(measurement: Measurement, sensors: Sensors, confidence: float, peak: bool) -> dict[str, Any]:
    """`memory`: of the engine, of the process on the host, of the device; `peak`: the peak counts from the start."""
    readings = measurement.readings
    process = sensors.named("process memory")
    why: dict[str, str] = {}
    engine = {
        "weights_bytes": measurement.memory.weights,
        "context_bytes": measurement.memory.context,
        "io_bytes": measurement.memory.io,
    }
    for name, value in engine.items():
        if value is None:
            why[f"engine.{name}"] = "the backend cannot tell"
    rss = readings.get("rss_bytes")
    host = None
    if rss is None or not isinstance(process, ProcessMemory):
        why["host"] = sensors.missing.get("process memory", "nothing was read")
    else:
        host = {
            "rss_bytes": int(rss[np.isfinite(rss)][-1]),
            # The kernel counts the two in different places, and late: the larger is the peak.
            "peak_bytes": max(process.peak_bytes() or 0, int(np.nanmax(rss))),
            "peak_since": "the start of the benchmark, frames loaded" if peak else "the start of the process",
            "growth": growth(readings, "rss_bytes", confidence),
        }
        if host["growth"] is None:
            why["host.growth"] = _TOO_SHORT
    device, missing = _device_memory(readings, sensors, confidence)
    return numbers({"engine": engine, "host": host, "device": device, "why_not": {**why, **missing}})


_TOO_SHORT = f"fewer than {_LEAST_POINTS} readings, or fewer than {_LEAST_FRAMES} frames between them; run more frames"


def _device_memory(
    readings: Readings, sensors: Sensors, confidence: float
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """By NVML, of this process where it tells; on a Jetson, of the board; and what is not known, with the reason."""
    why: dict[str, str] = {}
    used, own = readings.get("gpu_memory_used_bytes"), readings.get("gpu_process_bytes")
    if used is not None or own is not None:
        name = "gpu_process_bytes" if own is not None else "gpu_memory_used_bytes"
        device: dict[str, Any] = {
            "used_peak_bytes": None if used is None else int(np.nanmax(used)),
            "process_peak_bytes": None if own is None else int(np.nanmax(own)),
            "growth": growth(readings, name, confidence),
            "growth_of": "this process" if own is not None else "the whole GPU: the driver does not tell of processes",
        }
        if own is None:
            why["device.process_peak_bytes"] = "the driver does not tell of processes (container, MIG)"
    elif (board := readings.get("board_memory_used_bytes")) is not None:
        device = {
            "used_peak_bytes": int(np.nanmax(board)),
            "process_peak_bytes": None,
            "growth": growth(readings, "board_memory_used_bytes", confidence),
            "growth_of": "the whole board: host and GPU share its memory",
        }
        why["device.process_peak_bytes"] = "host and GPU share the board's memory: this process' is the host's"
    else:
        return None, {"device": sensors.missing.get("NVML", "NVML read nothing")}
    if device["growth"] is None:
        why["device.growth"] = _TOO_SHORT
    return device, why


def no_memory(why: str) -> dict[str, Any]:
    """`memory` where nothing is measured of it."""
    return {"engine": None, "host": None, "device": None, "why_not": {"all": why}}


# ----------------------------------------------------------------------------------------------------------------------
# Power and clocks


def power_section(measurement: Measurement, sensors: Sensors) -> dict[str, Any]:
    """`power`: watts and joules a frame, by each source that says; `why_not` where none does."""
    readings = measurement.readings
    frames = measurement.recording.count
    sources = []
    for name, counter, watts in (
        ("NVML", "gpu_energy_j", "gpu_power_w"),
        ("RAPL", "cpu_energy_j", None),
        ("INA3221 or tegrastats", None, "board_power_w"),
    ):
        counted = readings.get(counter) if counter else None
        sampled = readings.get(watts) if watts else None
        energy = None
        how = ""
        if counted is not None:
            energy, how = _within_repeats(readings, counted, np.diff), "the source's own energy counter"
        elif sampled is not None:
            energy, how = _within_repeats(readings, sampled, _trapezoids(readings)), "power samples, added up"
        if energy is None or measurement.seconds <= 0 or not math.isfinite(energy):
            continue
        sources.append(
            {
                "source": name,
                "covers": {"NVML": "the GPU board", "RAPL": "the processor packages"}.get(name, "the module"),
                "mean_w": energy / measurement.seconds,
                "energy_per_frame_j": energy / frames,
                "how": how,
            }
        )
    names = ("NVML", "RAPL", "INA3221", "tegrastats")
    return numbers(
        {"sources": sources, "why_not": {name: sensors.missing[name] for name in names if name in sensors.missing}}
    )


def no_power(why: str) -> dict[str, Any]:
    """`power` where nothing is measured of it."""
    return {"sources": [], "why_not": {"all": why}}


def _trapezoids(readings: Readings) -> Any:
    seconds = np.diff(readings.columns["moment_ns"]) / 1e9
    return lambda values: (values[1:] + values[:-1]) / 2 * seconds


def _within_repeats(readings: Readings, values: Series, steps: Any) -> float:
    """What the steps between readings add up to; a step from one repeat to the next is warm-up and does not count."""
    same = np.diff(readings.columns["repeat"]) == 0
    return float(np.nansum(np.asarray(steps(values))[same]))


def clocks_section(measurement: Measurement, sensors: Sensors) -> dict[str, Any]:
    """`clocks`: clocks, temperatures, throttling, and what else ran on this machine."""
    readings = measurement.readings
    section: dict[str, Any] = {}
    for name in ("cpu_clock_mhz", "gpu_clock_mhz", "gpu_memory_clock_mhz", "gpu_load_percent", "gpu_temperature_c",
                 "board_temperature_c"):  # fmt: skip
        values = readings.get(name)
        section[name] = None if values is None else {
            "min": float(np.nanmin(values)), "mean": float(np.nanmean(values)), "max": float(np.nanmax(values)),
        }  # fmt: skip
    masks = readings.get("gpu_throttle_mask")
    section["gpu_throttle"] = None if masks is None else throttle_names(
        int(np.bitwise_or.reduce(masks[np.isfinite(masks)].astype(np.int64)))
    )  # fmt: skip
    throttles = readings.get("cpu_throttle_count")
    section["cpu_throttled_times"] = None if throttles is None else int(np.nanmax(throttles) - np.nanmin(throttles))
    section["others_busy_cores"] = _a_second(readings, measurement, "machine_busy_s", "process_busy_s")
    section["own_busy_cores"] = _a_second(readings, measurement, "process_busy_s")
    section["stolen_cores"] = _a_second(readings, measurement, "stolen_s")
    section["preemptions"] = _sum_within(readings, "preempted_count")
    section["why_not"] = {
        name: why for name, why in sensors.missing.items()
        if name in ("CPU clocks", "temperature", "NVML", "Jetson GPU clock", "processor time")
    }  # fmt: skip
    return numbers(section)


def _sum_within(readings: Readings, name: str) -> float | None:
    values = readings.get(name)
    return None if values is None else _within_repeats(readings, values, np.diff)


def _a_second(readings: Readings, measurement: Measurement, name: str, minus: str | None = None) -> float | None:
    whole, part = _sum_within(readings, name), _sum_within(readings, minus) if minus else 0.0
    # The kernel counts in ticks: over a second or two, the shares mean nothing.
    if whole is None or part is None or measurement.seconds < LEAST_SECONDS:
        return None
    return max((whole - part) / measurement.seconds, 0.0)


def soak_section(measurement: Measurement, plan: Plan) -> dict[str, Any]:
    """`soak`: the run in windows of equal time, and the drift of their medians."""
    recording, readings = measurement.recording, measurement.readings
    taken_s = (recording.column("taken_ns") - recording.column("taken_ns")[0]) / 1e9
    total = recording.column("total")
    width_s = max(float(taken_s[-1]) / _SOAK_WINDOWS, 1.0)
    window_of = np.minimum((taken_s / width_s).astype(int), _SOAK_WINDOWS - 1)
    read_s = (readings.columns["moment_ns"] - recording.column("taken_ns")[0]) / 1e9
    windows = []
    for window in np.unique(window_of):
        members = total[window_of == window]
        near = (read_s >= window * width_s) & (read_s < (window + 1) * width_s)
        row: dict[str, Any] = {
            "from_s": float(window * width_s), "frames": len(members), "p50_ms": float(np.median(members)),
            "max_ms": float(members.max()),
        }  # fmt: skip
        for name in ("rss_bytes", "gpu_process_bytes", "gpu_clock_mhz", "cpu_clock_mhz", "gpu_temperature_c",
                     "board_temperature_c"):  # fmt: skip
            values = readings.get(name)
            chosen = np.array([]) if values is None else values[near & np.isfinite(values)]
            row[name] = float(np.median(chosen)) if len(chosen) else None
        windows.append(row)
    medians = np.array([row["p50_ms"] for row in windows])
    starts = np.array([row["from_s"] for row in windows])
    drift = slope(starts / 3600, medians, plan.confidence)
    return numbers(
        {"window_s": width_s, "windows": windows, "drift_ms_per_hour": {"value": drift.value, "low": drift.low,
                                                                       "high": drift.high}}
    )  # fmt: skip
