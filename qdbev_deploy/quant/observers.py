"""Activations counted where they are, on whatever device, for scales chosen from their histograms."""

from __future__ import annotations

import torch
from torch import Tensor

from qdbev_deploy.calibration.histogram import BINS, Histogram


def count(histogram: Histogram, x: Tensor) -> None:
    """`Histogram.add` for a tensor: only the counts leave its device."""
    x = x.detach().abs().float().flatten()
    if histogram.reach(float(x.max())):
        histogram.counts += torch.histc(x, bins=BINS, min=0.0, max=histogram.limit).double().cpu().numpy()
