"""Tensors are counted as arrays are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qdbev_deploy.calibration.histogram import Histogram
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.quant.observers import count


def test_a_tensor_is_counted_like_its_array() -> None:
    generator = torch.Generator().manual_seed(0)
    of_tensors, of_arrays = Histogram(), Histogram()
    for spread in (1.0, 3.0, 0.1):
        x = torch.randn(20, 500, generator=generator) * spread
        count(of_tensors, x)
        of_arrays.add(x.numpy())
    assert of_tensors.limit == of_arrays.limit
    assert of_tensors.counts.sum() == of_arrays.counts.sum() == 30_000
    # A value on the edge of two bins may fall to either side.
    assert np.abs(np.cumsum(of_tensors.counts - of_arrays.counts)).max() <= 3
    count(of_tensors, torch.zeros(4))
    assert of_tensors.counts.sum() == 30_004


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(QdbevError, match="not finite"):
        count(Histogram(), torch.tensor([1.0, float("inf")]))
