"""Scales of weights, per output channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.calibration.grid import Grid

SMALLEST_SCALE = 1e-7  # keeps an all-zero tensor's scale finite and positive


def best_weight_scale(weight: npt.NDArray[Any], grid: Grid, candidates: int = 40) -> npt.NDArray[np.float32]:
    """Per channel (axis 0), among fractions of the scale that just avoids clipping, the one of least squared error."""
    flat = weight.reshape(len(weight), -1).astype(np.float32)
    widest = np.maximum(np.abs(flat).max(axis=1), SMALLEST_SCALE) / np.float32(grid.qmax)
    best: npt.NDArray[np.float32] = widest
    best_error = np.full_like(widest, np.inf)
    for fraction in np.linspace(0.35, 1.0, candidates, dtype=np.float32):
        scale = widest * fraction
        rounded = np.clip(np.rint(flat / scale[:, None]), grid.qmin, grid.qmax) * scale[:, None]
        error = np.square(flat - rounded).sum(axis=1)
        best, best_error = np.where(error < best_error, scale, best), np.minimum(error, best_error)
    return np.maximum(best, np.float32(SMALLEST_SCALE), dtype=np.float32)
