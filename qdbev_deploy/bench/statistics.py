"""What may be said of a series of measurements: percentiles with their intervals, correlation, slopes, histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.float64]

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True)
class Percentile:
    """A percentile with its confidence interval; a bound that the samples cannot give is None."""

    value: float
    low: float | None
    high: float | None
    needed: int  # samples from which on both bounds exist
    enough: bool


@dataclass(frozen=True)
class Summary:
    """The numbers of a series."""

    count: int
    effective_count: float  # how many independent samples the mean is worth
    mean: float
    std: float
    cov: float  # coefficient of variation: std / mean
    min: float
    max: float
    percentiles: dict[str, Percentile]

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        values.update(values.pop("percentiles"))
        return values


def summarise(values: Series, confidence: float) -> Summary:
    """Of at least one finite value, in the order in which they were measured."""
    mean, std = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
    effect = design_effect(values)
    return Summary(
        count=len(values),
        effective_count=len(values) / effect,
        mean=mean,
        std=std,
        cov=std / mean if mean else 0.0,
        min=float(values.min()),
        max=float(values.max()),
        percentiles={f"p{percent:g}": percentile(values, percent, confidence, effect) for percent in PERCENTILES},
    )


# ----------------------------------------------------------------------------------------------------------------------
# Dependence


def design_effect(values: Series) -> float:
    """How many correlated samples are worth one independent one; 1 where they are independent.

    1 + 2 * the sum of the autocorrelations, up to where a pair of neighbouring lags no longer adds (Geyer's initial
    positive sequence). Never below 1: samples that alternate are not taken as worth more than independent ones.
    """
    count = len(values)
    centred = values - values.mean()
    variance = float(centred @ centred)
    # What is constant but for rounding has no correlation to speak of.
    if count < 4 or variance <= count * (1e-12 * float(np.abs(values).max())) ** 2:
        return 1.0
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    correlation = np.fft.irfft(spectrum * spectrum.conj(), size)[:count] / variance
    pairs = correlation[: count // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    kept = pairs[: negative[0]] if len(negative) else pairs
    return float(min(max(2 * kept.sum() - 1, 1.0), count))


# ----------------------------------------------------------------------------------------------------------------------
# Percentiles


def rank_of(percent: float, count: int) -> int:
    """Nearest rank, 1-based: the smallest with at least that share of the samples at or below it."""
    return min(max(math.ceil(percent / 100 * count - 1e-9), 1), count)


def samples_needed(percent: float, confidence: float) -> int:
    """Independent samples from which on an interval between two of them can hold the percentile."""
    share, tail = percent / 100, (1 - confidence) / 2
    return max(math.ceil(math.log(tail) / math.log(side)) for side in (share, 1 - share))


def percentile(values: Series, percent: float, confidence: float, series_effect: float | None = None) -> Percentile:
    """The percentile as a measured sample, and a distribution-free interval from two others.

    Ranks come from the binomial distribution (order statistics). Latencies are not independent, so that the ranks are
    those for the effective number of samples. What counts there is the series of "this sample is at or below the
    percentile", but in a tail it changes too seldom for its correlation to be seen: the count is divided by the larger
    of its design effect and that of the values themselves (`series_effect`, None: worked out here).
    """
    ordered = np.sort(values)
    count = len(ordered)
    value = float(ordered[rank_of(percent, count) - 1])
    effect = max(
        design_effect((values <= value).astype(np.float64)),
        design_effect(values) if series_effect is None else series_effect,
    )
    effective = max(int(count / effect), 1)
    low, high = _interval_ranks(effective, percent / 100, (1 - confidence) / 2)
    # Ranks among the effective samples, stretched outwards to those among all.
    lower = None if low is None else math.floor((low - 1) * count / effective)
    upper = None if high is None else min(math.ceil(high * count / effective), count) - 1
    return Percentile(
        value=value,
        low=None if lower is None else float(ordered[lower]),
        high=None if upper is None else float(ordered[upper]),
        needed=math.ceil(samples_needed(percent, confidence) * effect),
        enough=lower is not None and upper is not None,
    )


def _interval_ranks(count: int, share: float, tail: float) -> tuple[int | None, int | None]:
    """The largest rank below and the smallest above the quantile with at most `tail` outside on each side."""
    # P(the r-th smallest > quantile) = P(fewer than r samples at or below it) = cdf(r - 1)
    cdf = _binomial_cdf(count, share)
    low = int(np.searchsorted(cdf, tail, side="right"))  # number of k with cdf(k) <= tail; rank low: cdf(low - 1)
    high = int(np.searchsorted(cdf, 1 - tail, side="left")) + 1  # smallest r with cdf(r - 1) >= 1 - tail
    return (low if low >= 1 else None), (high if high <= count else None)


def _binomial_cdf(count: int, share: float) -> Series:
    """P(at most k of `count`) for k = 0 .. count."""
    k = np.arange(count + 1, dtype=np.float64)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, count + 1)))))
    log_pmf: Series = log_factorial[count] - log_factorial - log_factorial[::-1]
    log_pmf += k * math.log(share) + (count - k) * math.log1p(-share)
    cdf: Series = np.minimum(np.cumsum(np.exp(log_pmf)), 1.0)
    return cdf


# ----------------------------------------------------------------------------------------------------------------------
# Slopes


@dataclass(frozen=True)
class Slope:
    """A straight line's rise with its confidence interval; the bounds are infinite where too few points are left."""

    value: float
    low: float
    high: float

    @property
    def rises(self) -> bool:
        return self.low > 0

    def scaled(self, factor: float) -> Slope:
        return Slope(self.value * factor, self.low * factor, self.high * factor)


def slope(x: Series, y: Series, confidence: float, groups: npt.NDArray[Any] | None = None) -> Slope:
    """Least squares, each group with a level of its own; the interval widened by the residuals' correlation."""
    x, y = np.array(x, np.float64), np.array(y, np.float64)
    groups = np.zeros(len(x)) if groups is None else np.asarray(groups)
    levels = 0
    for group in np.unique(groups):
        members = groups == group
        x[members] -= x[members].mean()
        y[members] -= y[members].mean()
        levels += 1
    spread = float(x @ x)
    if spread <= 0 or len(x) <= levels + 1:
        return Slope(0.0, -math.inf, math.inf)
    value = float(x @ y) / spread
    residuals = y - value * x
    effect = design_effect(residuals)
    freedom = len(x) / effect - levels - 1
    if freedom < 1:
        return Slope(value, -math.inf, math.inf)
    error = math.sqrt(float(residuals @ residuals) / (len(x) - levels - 1) / spread * effect)
    half = student_t(confidence, freedom) * error
    return Slope(value, value - half, value + half)


def student_t(confidence: float, freedom: float) -> float:
    """The two-sided quantile of Student's t, by its expansion about the normal one; exact for 1 and 2 degrees."""
    share = (1 + confidence) / 2
    if freedom < 2:
        return math.tan(math.pi * (share - 0.5))
    if freedom < 3:
        centred = 2 * share - 1
        return centred * math.sqrt(2 / (1 - centred**2))
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


# ----------------------------------------------------------------------------------------------------------------------
# Resampling


def block_length(series: Series) -> int | None:
    """Samples that are drawn together: as far as correlation reaches, at least the cube root of the length.

    None where fewer than four such blocks are there: drawn from so few, series would all look like the one measured.
    """
    block = max(math.ceil(len(series) ** (1 / 3)), math.ceil(2 * design_effect(series)))
    return block if block <= max(len(series) // 4, 2) else None


def block_bootstrap(
    repeats: Sequence[Series], statistics: Sequence[Callable[[Series], float]], rounds: int, seed: int
) -> Series:
    """[rounds, statistics]: each of series whose blocks were drawn anew.

    Blocks of `block_length`, a quarter of the series at most, wrap around the ends of their repeat, so that what
    follows each other stays together.
    """
    rng = np.random.default_rng(seed)
    results = np.empty((rounds, len(statistics)))
    blocks = [block_length(r) or max(len(r) // 4, 1) for r in repeats]
    for index in range(rounds):
        drawn = []
        for series, block in zip(repeats, blocks):
            starts = rng.integers(0, len(series), math.ceil(len(series) / block))
            places = (starts[:, None] + np.arange(block)).ravel()[: len(series)]
            drawn.append(series[places % len(series)])
        together = np.concatenate(drawn)
        results[index] = [statistic(together) for statistic in statistics]
    return results


def nearest_rank(percent: float) -> Callable[[Series], float]:
    """The percentile as a function of a series."""

    def value(values: Series) -> float:
        rank = rank_of(percent, len(values)) - 1
        return float(np.partition(values, rank)[rank])

    return value


# ----------------------------------------------------------------------------------------------------------------------
# Histogram


def histogram(values: Series) -> dict[str, list[float] | list[int]]:
    """Edges and counts, by Freedman and Diaconis' rule, 1 to 100 bins between the extremes."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(high), 1e-12):
        half = max(abs(high), 1e-3) * 1e-3
        return {"edges": [low - half, high + half], "counts": [len(values)]}
    quartiles = np.percentile(values, [25, 75])
    width = 2 * (quartiles[1] - quartiles[0]) / len(values) ** (1 / 3)
    bins = int(np.clip(math.ceil((high - low) / width) if width > 0 else 100, 1, 100))
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    return {"edges": edges.tolist(), "counts": counts.tolist()}
