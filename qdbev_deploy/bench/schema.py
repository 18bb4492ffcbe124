"""The fields of a result, schema qdbev-bench/1, and the first one that a document has wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qdbev_deploy.bench.recording import STAGES

# A template is the name of a kind ("count?": or null), a dict of fields ("name?": may be left out), or a tuple:
# ("?", template) or null, ("list", template), ("map", template) of any names, ("either", templates).
_NUMBER, _TEXT, _COUNT, _FLAG = "number", "text", "count", "flag"
_PERCENTILE = {"value": _NUMBER, "low": "number?", "high": "number?", "needed": _COUNT, "enough": _FLAG}
_SUMMARY: dict[str, Any] = {
    "count": _COUNT, "effective_count": _NUMBER, "mean": _NUMBER, "std": _NUMBER, "cov": _NUMBER, "min": _NUMBER,
    "max": _NUMBER, **dict.fromkeys(("p50", "p90", "p95", "p99", "p99.9"), _PERCENTILE),
}  # fmt: skip
_SUMMARY_OR_NONE = ("?", _SUMMARY)
_REASONS = ("map", _TEXT)
_PLAIN = ("either", ("number?", _TEXT, _FLAG))
_GROWTH = ("?", {
    "bytes_per_1000_frames": _NUMBER, "low": "number?", "high": "number?",
    "second_half": {"value": _NUMBER, "low": "number?", "high": "number?"},
    "first_bytes": _COUNT, "last_bytes": _COUNT, "readings": _COUNT, "shown": _FLAG,
})  # fmt: skip
_MEMORY = {
    "engine": ("?", dict.fromkeys(("weights_bytes", "context_bytes", "io_bytes"), "count?")),
    "host": ("?", {
        "rss_bytes": _COUNT, "peak_bytes": "count?", "peak_since": _TEXT, "growth": _GROWTH, "of?": _TEXT,
    }),
    "device": ("?", {
        "used_peak_bytes": "count?", "process_peak_bytes": "count?", "growth": _GROWTH, "growth_of": _TEXT,
    }),
    "why_not": _REASONS,
}  # fmt: skip
_RANGE = ("?", {"min": _NUMBER, "mean": _NUMBER, "max": _NUMBER})
_CLOCKS = {
    **dict.fromkeys(
        ("cpu_clock_mhz", "gpu_clock_mhz", "gpu_memory_clock_mhz", "gpu_temperature_c", "board_temperature_c"), _RANGE
    ),
    "gpu_load_percent?": _RANGE, "gpu_throttle": ("?", "texts"), "cpu_throttled_times": "count?",
    **dict.fromkeys(("others_busy_cores", "own_busy_cores", "stolen_cores", "preemptions"), "number?"),
    "why_not": _REASONS,
}  # fmt: skip
_SOURCE = {"source": _TEXT, "covers": _TEXT, "mean_w": _NUMBER, "energy_per_frame_j": _NUMBER, "how": _TEXT}
_OVERHEAD = {
    **dict.fromkeys(("session", "harness", "beyond_step", "decode", "sensors", "timer"), _NUMBER),
    "frames": _COUNT, "share_of_p50": "number?",
    "in_measured_frames?": dict.fromkeys(("rest", "host_prep", "decode"), "number?"),
}  # fmt: skip
_STREAM = {
    "rate_hz": _NUMBER, "jitter": _TEXT, "jitter_ms": _NUMBER, "policy": _TEXT, "queue_depth": _COUNT,
    "deadline_ms": _NUMBER, **dict.fromkeys(("arrived", "processed", "dropped", "late", "misses"), _COUNT),
    "miss_share": _NUMBER, "age_ms": _SUMMARY_OR_NONE, "between_outputs_ms": _SUMMARY_OR_NONE,
    "overslept_us": ("?", {"p50": _NUMBER, "max": _NUMBER, "waits": _COUNT}),
}  # fmt: skip
_PAIR = {"p50": _NUMBER, "p99": _NUMBER}
_CO_LOCATED = {
    "instances": _COUNT, "as": _TEXT, "load": "text?", "load_processes": _COUNT, "alone_ms": _PAIR,
    "each_ms": ("list", _PAIR), "times_slower": _PAIR,
}  # fmt: skip
_COLD = {
    **dict.fromkeys(("interpreter", "imports", "verification", "load", "first_frame"), _SUMMARY),
    "first_start_ms": _NUMBER, "file_cache": _TEXT,
}  # fmt: skip
_WINDOW = {
    "from_s": _NUMBER, "frames": _COUNT, "p50_ms": _NUMBER, "max_ms": _NUMBER,
    **dict.fromkeys(("rss_bytes", "gpu_process_bytes", "gpu_clock_mhz", "cpu_clock_mhz", "gpu_temperature_c",
                     "board_temperature_c"), "number?"),
}  # fmt: skip
_SOAK = {
    "window_s": _NUMBER, "windows": ("list", _WINDOW),
    "drift_ms_per_hour": {"value": _NUMBER, "low": "number?", "high": "number?"},
}  # fmt: skip
_LOADGEN = {
    "scenario": _TEXT, "asked": _COUNT, "result": ("map", _TEXT), "valid": _TEXT, "logs": "texts", "order": _TEXT,
    "note": _TEXT, "latency_ms?": ("map", _NUMBER), "samples_per_second?": "number?", "latency_of?": _TEXT,
}  # fmt: skip
FIELDS: dict[str, Any] = {
    "schema": _TEXT,
    "tool": _TEXT,
    "date": _TEXT,
    "command": _TEXT,
    "system": {
        "cpu": _TEXT, "cores": _COUNT, "cores_allowed": _COUNT, "memory_bytes": _COUNT, "os": _TEXT,
        "gpu": ("?", {"name": _TEXT, "compute_capability": _TEXT, "memory_bytes": _COUNT, "driver": _TEXT,
                      "count": _COUNT, "pci_bus_id?": _TEXT, "power_limit_w?": "number?", "max_clock_mhz?": "number?",
                      "mig?": ("?", _FLAG)}),
        "driver": "text?", "versions": ("map", _TEXT), "power_mode": _TEXT, "clocks": ("map", "number?"),
        "sharing": _TEXT,
    },
    "bundle": {
        "name": _TEXT, "manifest_sha256": "text?", "variant": _TEXT, "backend": _TEXT, "provider": "text?",
        "precision": _TEXT, "emulated": _FLAG, "precision_note": _TEXT, "image": _TEXT, "io": _TEXT,
        "threads": "count?", "engine_bytes": "count?",
    },
    "scenario": {
        "name": _TEXT,
        "options": {
            "frames": "count?", "duration_s": "number?", "confidence": _NUMBER, "cuda_graph": _FLAG, "wait": _TEXT,
            "stages_timed": _FLAG, "with_preprocess": _FLAG, "seed": _COUNT, "garbage_collection": _TEXT,
            **dict.fromkeys(("stream?", "neighbours?", "loadgen?"), ("map", _PLAIN)),
        },
        "data": {"kind": _TEXT, "source": _TEXT, "frames": _COUNT, "resets": _COUNT},
    },
    "warmup": ("list", {"frames": _COUNT, "settled": ("?", _FLAG), "seconds": _NUMBER, "criterion": _TEXT}),
    "repeats": _COUNT,
    "by_repeat": {"frames": "counts", "medians_ms": "numbers", "spread": _NUMBER},
    "latency_ms": {
        "samples": "numbers", "summary": _SUMMARY, "histogram": {"edges": "numbers", "counts": "counts"},
        "by_events": _SUMMARY_OR_NONE,
    },
    "stages_ms": ("?", dict.fromkeys((*STAGES, "rest"), _SUMMARY_OR_NONE)),
    "stream": ("?", _STREAM),
    "memory": ("?", _MEMORY),
    "power": ("?", {"sources": ("list", _SOURCE), "why_not": _REASONS}),
    "clocks": ("?", _CLOCKS),
    "overhead_us": ("?", _OVERHEAD),
    "stability": {"stable": _FLAG, "reasons": "texts"},
    "layers": ("?", ("list", {"name": _TEXT, "kind": _TEXT, "precision": _TEXT, "time_ms": "number?"})),
    "partial": _FLAG,
    "cold?": _COLD,
    "co_located?": _CO_LOCATED,
    "soak?": _SOAK,
    "loadgen?": _LOADGEN,
}  # fmt: skip

_LARGEST = 1e18  # of any number: milliseconds and bytes stay far below, and arithmetic with it stays finite


def problem(value: Any, template: Any = FIELDS, path: str = "") -> str | None:
    """What is wrong with the value, by the first field that is; None where nothing is."""
    if isinstance(template, str):
        if value is None and template.endswith("?"):
            return None
        kind = template.rstrip("?")
        return None if _KINDS[kind](value) else f"{path} is not of kind '{kind}'"
    if isinstance(template, dict):
        return _problem_of_fields(value, template, path)
    form, inner = template
    if form == "?":
        return None if value is None else problem(value, inner, path)
    if form == "either":
        found = [problem(value, one, path) for one in inner]
        return None if None in found else found[0]
    if form == "list":
        if not isinstance(value, list):
            return f"{path} is no list"
        return _first(problem(item, inner, f"{path}[{index}]") for index, item in enumerate(value))
    if not isinstance(value, dict):
        return f"{path} is no object"
    return _first(problem(item, inner, f"{path}.{name}") for name, item in value.items())


def _problem_of_fields(value: Any, template: dict[str, Any], path: str) -> str | None:
    if not isinstance(value, dict):
        return f"{path or 'it'} is no object"
    for named, inner in template.items():
        name = named.rstrip("?")
        inside = f"{path}.{name}" if path else name
        if name not in value:
            if named.endswith("?"):
                continue
            return f"{inside} is missing"
        if (found := problem(value[name], inner, inside)) is not None:
            return found
    return None


def _first(found: Any) -> str | None:
    return next((one for one in found if one is not None), None)


def _is_number(value: Any) -> bool:
    # The comparison refuses NaN and infinities, and integers that no float can hold.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


_KINDS: dict[str, Callable[[Any], bool]] = {
    "number": _is_number,
    "count": _is_count,
    "text": lambda value: isinstance(value, str),
    "flag": lambda value: isinstance(value, bool),
    "numbers": lambda value: isinstance(value, list) and all(_is_number(item) and item >= 0 for item in value),
    "counts": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "texts": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
}
