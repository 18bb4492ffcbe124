"""Histograms of activations, and the four ways to choose a scale from one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.quant.grid import Grid

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")
BINS = 2048


class Histogram:
    """Counts of absolute values over all frames seen. The range doubles when it must, merging bins in pairs."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.limit = 0.0
        self.largest = 0.0

    def add(self, x: Tensor) -> None:
        x = x.detach().abs().float().flatten()
        largest = float(x.max())
        if not torch.isfinite(torch.tensor(largest)):
            raise QdbevError(
                "an activation that is not finite while observing",
                "finite activations in the float model",
                "check the checkpoint and the calibration data",
            )
        self.largest = max(self.largest, largest)
        if largest == 0.0 and self.limit == 0.0:
            return
        if self.limit == 0.0:
            self.limit = largest
        while largest > self.limit:
            self.counts = torch.cat(
                [self.counts.reshape(-1, 2).sum(dim=1), torch.zeros(BINS // 2, dtype=torch.float64)]
            )
            self.limit *= 2
        self.counts += torch.histc(x, bins=BINS, min=0.0, max=self.limit).double().cpu()

    @property
    def centers(self) -> Tensor:
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * (self.limit / BINS)

    def scale(self, method: Method, grid: Grid, percentile: float = 99.99) -> float:
        """The scale that this method chooses for the grid."""
        if self.largest == 0.0:
            return 1.0 / grid.qmax  # nothing but zeros was seen; any scale carries them
        if method == "minmax":
            clip = self.largest
        elif method == "percentile":
            share = self.counts.cumsum(0) / self.counts.sum()
            index = int(torch.searchsorted(share, torch.tensor(percentile / 100, dtype=torch.float64)))
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
        quantised = (self.centers / scale).round().clamp(max=grid.qmax) * scale
        return float((self.counts * (self.centers - quantised).square()).sum())

    def _divergence(self, clip: float, grid: Grid) -> float:
        """KL divergence between the clipped distribution and the same one spread over the grid's steps."""
        kept = max(round(clip / self.limit * BINS), 1)
        reference = self.counts[:kept].clone()
        reference[-1] += self.counts[kept:].sum()
        levels = grid.qmax + 1
        if kept < levels:
            return float("inf")  # finer than the histogram can tell
        level = (torch.arange(kept) * levels) // kept
        mass = torch.zeros(levels, dtype=torch.float64).index_add(0, level, self.counts[:kept])
        filled = torch.zeros(levels, dtype=torch.float64).index_add(0, level, (self.counts[:kept] > 0).double())
        spread = torch.where(self.counts[:kept] > 0, (mass / filled.clamp(min=1))[level], torch.zeros(()).double())
        p, q = reference / reference.sum(), spread / spread.sum().clamp(min=1e-12)
        positive = p > 0
        return float((p[positive] * (p[positive] / q[positive].clamp(min=1e-12)).log()).sum())
