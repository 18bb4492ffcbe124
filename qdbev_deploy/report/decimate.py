"""A hundred thousand samples on a thousand pixels, with every spike still in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Bucket:
    """Neighbouring samples that share a pixel column: the first one's index and how many, and their extremes."""

    first: int
    count: int
    low: float
    middle: float  # median
    high: float


def buckets(samples: Sequence[float], columns: int) -> list[Bucket]:
    """The samples in at most `columns` runs of neighbours, of equal length but for one sample."""
    values = np.asarray(samples, dtype=np.float64)
    if not len(values):
        return []
    edges = np.linspace(0, len(values), min(columns, len(values)) + 1).astype(int)
    found = []
    for first, end in pairwise(edges):
        run = values[first:end]
        found.append(Bucket(int(first), int(end - first), float(run.min()), float(np.median(run)), float(run.max())))
    return found


def tail_ranks(count: int, points: int = 400) -> list[int]:
    """Indices into sorted samples for a percentile curve: dense towards the end, where single samples count."""
    if count <= points:
        return list(range(count))
    from_end = np.unique(np.round(np.geomspace(1, count, points)).astype(int))
    return sorted({int(count - distance) for distance in from_end} | {0, count - 1})
