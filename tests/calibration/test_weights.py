"""Scales of weights."""

from __future__ import annotations

import numpy as np

from qdbev_deploy.calibration.grid import Grid
from qdbev_deploy.calibration.weights import best_weight_scale


def test_each_channel_has_the_scale_of_least_error() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 50, 10)).astype(np.float32)
    grid = Grid(4, True)
    scale = best_weight_scale(weight, grid)
    flat = weight.reshape(4, -1)

    def error(scales: np.ndarray) -> np.ndarray:
        rounded = np.clip(np.rint(flat / scales[:, None]), grid.qmin, grid.qmax) * scales[:, None]
        return np.square(flat - rounded).sum(axis=1)

    widest = np.abs(flat).max(axis=1) / grid.qmax
    assert scale.dtype == np.float32
    assert (error(scale) <= error(widest)).all()
    assert (error(scale) < 0.9 * error(widest)).any()
    assert np.allclose(scale / widest, best_weight_scale(weight * 100, grid) / (widest * 100), rtol=1e-4)


def test_channels_of_zeros_have_a_positive_scale() -> None:
    scale = best_weight_scale(np.zeros((3, 2), np.float32), Grid(8, True))
    assert (scale > 0).all()
