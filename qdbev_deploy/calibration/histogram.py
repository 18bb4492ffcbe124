"""Histograms of activations, and the four ways to choose a scale from one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qdbev_deploy.calibration.grid import Grid
from qdbev_deploy.errors import QdbevError

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")
BINS = 2048


class Histogram:
    """Counts of absolute values over all frames seen. The range doubles when it must, merging bins in pairs."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS)
        self.limit = 0.0
        self.largest = 0.0

    def add(self, x: npt.NDArray[Any]) -> None:
        x = np.abs(x, dtype=np.float32).ravel()
        if x.size and self.reach(float(x.max())):
            # As torch.histc counts: the upper end belongs to the last bin.
            bins = np.minimum((x * np.float32(BINS / self.limit)).astype(np.int32), BINS - 1)
            self.counts += np.bincount(bins, minlength=BINS)

    def reach(self, largest: float) -> bool:
        """Widen the range until it holds `largest`; False while nothing but zeros was seen, which nobody counts."""
        if not math.isfinite(largest):
            raise QdbevError(
                "an activation that is not finite while observing",
                "finite activations in the float model",
                "check the checkpoint and the calibration data",
            )
        self.largest = max(self.largest, largest)
        if self.limit == 0.0:
            self.limit = largest
        while largest > self.limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2)])
            self.limit *= 2
        return self.limit > 0.0

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        return (np.arange(BINS) + 0.5) * (self.limit / BINS)

    def scale(self, method: Method, grid: Grid, percentile: float = 99.99) -> float:
        """The scale that this method chooses for the grid."""
        if self.largest == 0.0:
            return 1.0 / grid.qmax  # nothing but zeros was seen; any scale carries them
        if method == "minmax":
            clip = self.largest
        elif method == "percentile":
            share = self.counts.cumsum() / self.counts.sum()
            index = int(np.searchsorted(share, percentile / 100))
            clip = (min(index, BINS - 1) + 1) * self.limit / BINS
        elif method == "mse":
            clip = self._best(grid, self._squared_error)
        elif method == "entropy":
            clip = self._best(grid, self._divergence)
        else:
            raise QdbevError(f"unknown calibration method '{method}'", "one of " + ", ".join(METHODS), "choose another")
        return min(clip, self.largest) / grid.qmax

    def _best(self, grid: Grid, cost: Callable[[float, Grid], float]) -> float:
        """The clipping point of least cost among 128 fractions of the range."""
        clips = [self.limit * index / 128 for index in range(1, 129)]
        return min(clips, key=lambda clip: cost(clip, grid))

    def _squared_error(self, clip: float, grid: Grid) -> float:
        scale = clip / grid.qmax
        quantised = np.minimum(np.rint(self.centers / scale), grid.qmax) * scale
        return float((self.counts * np.square(self.centers - quantised)).sum())

    def _divergence(self, clip: float, grid: Grid) -> float:
        """KL divergence between the clipped distribution and the same one spread over the grid's steps."""
        kept = max(round(clip / self.limit * BINS), 1)
        counts = self.counts[:kept]
        reference = counts.copy()
        reference[-1] += self.counts[kept:].sum()
        levels = grid.qmax + 1
        if kept < levels:
            return math.inf  # finer than the histogram can tell
        level = (np.arange(kept) * levels) // kept
        mass = np.bincount(level, weights=counts, minlength=levels)
        filled = np.bincount(level, weights=counts > 0, minlength=levels)
        spread = np.where(counts > 0, (mass / np.maximum(filled, 1))[level], 0.0)
        p, q = reference / reference.sum(), spread / max(float(spread.sum()), 1e-12)
        positive = p > 0
        return float((p[positive] * np.log(p[positive] / np.maximum(q[positive], 1e-12))).sum())
