"""Two results held against each other: faster, slower, or no difference that the noise allows to be shown."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from qdbev_deploy.bench.statistics import (
    Percentile,
    Series,
    block_bootstrap,
    block_length,
    nearest_rank,
    percentile,
    student_t,
)
from qdbev_deploy.errors import QdbevError

Verdict = Literal["faster", "slower", "no difference shown", "too few samples"]
SCHEMA = "qdbev-comparison/1"
LEAST_DIFFERENCE = 0.02  # below it, another process with its buffers in other places explains a difference
LEAST_REPEATS = 3  # from which on one knows how far runs of the same thing lie apart
UNREPEATED_DIFFERENCE = 0.15  # below it, with fewer repeats, what varies from run to run explains a difference
ROUNDS = 1000
_PERCENTS = {"p50": 50.0, "p99": 99.0}


@dataclass(frozen=True)
class Ratio:
    """B's percentile over A's, with its interval."""

    a_ms: float
    b_ms: float
    ratio: float
    low: float
    high: float
    verdict: Verdict  # of B against A

    @property
    def change(self) -> float:
        return self.ratio - 1


@dataclass(frozen=True)
class Comparison:
    """What may be said of B against A."""

    ratios: dict[str, Ratio]
    floor: float  # a difference smaller than this is not shown, whatever the intervals say
    confidence: float
    warnings: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        return self.ratios["p50"].verdict

    @property
    def slower(self) -> bool:
        return any(ratio.verdict == "slower" for ratio in self.ratios.values())

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self), "verdict": self.verdict}


def compare(a: dict[str, Any], b: dict[str, Any], confidence: float = 0.95) -> Comparison:
    """Of two validated documents. What differs from repeat to repeat is noise, too: no smaller difference is shown."""
    _refuse_what_differs(a, b)
    sides = [_repeats(document) for document in (a, b)]
    counts = [_repeated(document) for document in (a, b)]
    repeated = min(counts) >= LEAST_REPEATS
    floor = max([LEAST_DIFFERENCE if repeated else UNREPEATED_DIFFERENCE, *map(_disagreement, sides)])
    blocks = all(block_length(part) is not None for side in sides for part in side)
    statistics = [nearest_rank(percent) for percent in _PERCENTS.values()]
    drawn = block_bootstrap(sides[1], statistics, ROUNDS, 1) / block_bootstrap(sides[0], statistics, ROUNDS, 0)
    tail = (1 - confidence) / 2 * 100
    ratios = {}
    for index, (name, percent) in enumerate(_PERCENTS.items()):
        first, second = (percentile(np.concatenate(side), percent, confidence) for side in sides)
        low, high = (float(value) for value in np.percentile(drawn[:, index], [tail, 100 - tail]))
        if repeated and not _are_starts(a):
            between = _between_repeats(sides, statistics[index], confidence)
            low, high = min(low, between[0]), max(high, between[1])
        ratios[name] = _ratio(first, second, low, high, floor, blocks)
    return Comparison(ratios, floor, confidence, tuple(_warnings(a, b, counts)))


def _ratio(a: Percentile, b: Percentile, low: float, high: float, floor: float, blocks: bool) -> Ratio:
    ratio = b.value / a.value
    verdict = _verdict(ratio, low, high, floor, blocks and a.enough and b.enough)
    return Ratio(a.value, b.value, ratio, low, high, verdict)


def _between_repeats(sides: list[list[Series]], statistic: Any, confidence: float) -> tuple[float, float]:
    """The ratio's interval from the repeats alone (Welch, of logarithms): how far runs of the same thing lie apart."""
    logs = [np.log([statistic(part) for part in side]) for side in sides]
    variances = [float(log.var(ddof=1)) / len(log) for log in logs]
    middle = float(logs[1].mean() - logs[0].mean())
    if sum(variances) <= 0:
        return math.exp(middle), math.exp(middle)
    freedom = sum(variances) ** 2 / sum(v**2 / (len(log) - 1) for v, log in zip(variances, logs))
    half = student_t(confidence, freedom) * math.sqrt(sum(variances))
    return math.exp(middle - half), math.exp(middle + half)


def _are_starts(document: dict[str, Any]) -> bool:
    return bool(document["scenario"]["name"] == "cold")


def _repeated(document: dict[str, Any]) -> int:
    """How often the whole thing was measured: cold starts are repeats of their own, instances side by side are none."""
    if _are_starts(document):
        return len(document["latency_ms"]["samples"])
    return 1 if document["scenario"]["name"] == "co-located" else len(_repeats(document))


def _verdict(ratio: float, low: float, high: float, floor: float, enough: bool) -> Verdict:
    if not enough:
        return "too few samples"
    if high < 1 and ratio < 1 - floor:
        return "faster"
    if low > 1 and ratio > 1 + floor:
        return "slower"
    return "no difference shown"


def _repeats(document: dict[str, Any]) -> list[Series]:
    samples = np.asarray(document["latency_ms"]["samples"], np.float64)
    if not samples.min() > 0:
        raise QdbevError("a benchmark with a latency of 0 ms", "latencies above 0", "run the benchmark again")
    ends = np.cumsum(document["by_repeat"]["frames"])
    return [part for part in np.split(samples, ends[:-1]) if len(part)]


def _disagreement(repeats: list[Series]) -> float:
    medians = [float(np.median(part)) for part in repeats]
    return max(medians) / min(medians) - 1


def _refuse_what_differs(a: dict[str, Any], b: dict[str, Any]) -> None:
    kinds = [document["scenario"]["data"]["kind"] for document in (a, b)]
    if kinds[0] != kinds[1]:
        raise QdbevError(
            f"one benchmark on {kinds[0]} data and one on {kinds[1]} data",
            "the same kind of data: what gathering costs depends on it",
            "run both on a sequence (leave --data out)",
        )
    names = [document["scenario"]["name"] for document in (a, b)]
    if names[0] != names[1] and "cold" in names:
        raise QdbevError(
            f"the scenarios '{names[0]}' and '{names[1]}'",
            "the same scenario: a cold start's samples are process starts, not frames",
            "run both with the same --scenario",
        )


def _warnings(a: dict[str, Any], b: dict[str, Any], repeats: list[int]) -> list[str]:
    def both(*path: str) -> list[Any]:
        values: list[Any] = [a, b]
        for name in path:
            values = [value.get(name) if isinstance(value, dict) else None for value in values]
        return values

    found = []
    few = [f"{name} has {count}" for name, count in zip("AB", repeats) if count < LEAST_REPEATS]
    if few:
        found.append(
            f"too few repeats to know what varies from run to run ({', '.join(few)}; {LEAST_REPEATS} are needed): no "
            f"difference below {UNREPEATED_DIFFERENCE:.0%} is shown"
        )
    for what, path in (
        ("scenarios", ("scenario", "name")),
        ("scenario options", ("scenario", "options")),
        ("data", ("scenario", "data", "source")),
        ("processors", ("system", "cpu")),
        ("cores allowed", ("system", "cores_allowed")),
        ("GPUs", ("system", "gpu", "name")),
        ("power modes", ("system", "power_mode")),
        ("sharing of the GPU", ("system", "sharing")),
        ("backends", ("bundle", "backend")),
        ("precisions", ("bundle", "precision")),
        ("variants", ("bundle", "variant")),
        ("image inputs", ("bundle", "image")),
        ("states", ("bundle", "io")),
    ):
        first, second = both(*path)
        if first == second:
            continue
        if isinstance(first, dict) and isinstance(second, dict):
            names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
            says = "; ".join(f"{name} {first.get(name)} and {second.get(name)}" for name in names)
        else:
            says = f"{first} and {second}"
        found.append(f"different {what}: {says}")
    changed = {
        name: versions for name in ("onnxruntime", "tensorrt", "qdbev-deploy")
        if (versions := both("system", "versions", name))[0] != versions[1]
    }  # fmt: skip
    found += [f"different versions of {name}: {first} and {second}" for name, (first, second) in changed.items()]
    for name, document in (("A", a), ("B", b)):
        if not document["stability"]["stable"]:
            found.append(f"{name} is UNSTABLE: {'; '.join(document['stability']['reasons'])}")
    return found
