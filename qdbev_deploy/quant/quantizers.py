"""Fake quantisation with learnable scales: what training sees of the integers that will run in the car."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qdbev_deploy.quant.grid import Grid
from qdbev_deploy.quant.observers import Histogram

SMALLEST_SCALE = 1e-7  # keeps an all-zero tensor's scale finite and positive


def _log(scale: Tensor) -> Tensor:
    return scale.detach().float().clamp(min=SMALLEST_SCALE).log()


class ActivationQuantizer(nn.Module):
    """Per-tensor, symmetric. Takes a tap's place; the scale's logarithm is learned, so that it stays positive.

    Until a scale is set, and while disabled, tensors pass through. While observing, they pass through and are counted.
    """

    scale_is_set: Tensor
    _zero_point: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("scale_is_set", torch.tensor(False))
        self.register_buffer("_zero_point", torch.zeros(1), persistent=False)
        self.enabled = True
        self.histogram: Histogram | None = None

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def set_scale(self, scale: float) -> None:
        with torch.no_grad():
            self.log_scale.copy_(_log(torch.tensor(scale)))
            self.scale_is_set.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        if self.histogram is not None:
            self.histogram.add(x.detach())
            return x
        if not (self.enabled and self.scale_is_set):
            return x
        # LSQ's gradient for the scale, damped by the number of elements that pull at it.
        factor = 1.0 / math.sqrt(x.numel() * self.grid.qmax)
        quantised: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
            x.float(), self.scale.reshape(1), self._zero_point, self.grid.qmin, self.grid.qmax, factor
        )
        return quantised.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.grid.qmin}..{self.grid.qmax}, scale {float(self.scale):.3g}"


class WeightQuantizer(nn.Module):
    """Per output channel (axis 0), symmetric. A parametrisation of the weight it quantises."""

    _zero_point: Tensor

    def __init__(self, weight: Tensor, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.log_scale = nn.Parameter(_log(best_weight_scale(weight.detach(), grid)))
        self.register_buffer("_zero_point", torch.zeros(len(weight)), persistent=False)
        self.enabled = True

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        factor = 1.0 / math.sqrt(weight[0].numel() * self.grid.qmax)
        quantised: Tensor = torch._fake_quantize_learnable_per_channel_affine(
            weight, self.scale, self._zero_point, 0, self.grid.qmin, self.grid.qmax, factor
        )
        return quantised

    def integers(self, weight: Tensor) -> Tensor:
        """The int8 tensor that, times the scales, is what `forward` returns."""
        shape = (-1, *[1] * (weight.dim() - 1))
        # From the forward itself, so that no second rounding can disagree with it.
        quantised = self.forward(weight).detach() / self.scale.detach().reshape(shape)
        return quantised.round().to(torch.int8)

    def extra_repr(self) -> str:
        return f"{self.grid.qmin}..{self.grid.qmax}, {len(self.log_scale)} channels"


def best_weight_scale(weight: Tensor, grid: Grid, candidates: int = 40) -> Tensor:
    """Per channel, among fractions of the scale that just avoids clipping, the one of least squared error."""
    flat = weight.flatten(1).float()
    widest = flat.abs().amax(dim=1).clamp(min=SMALLEST_SCALE) / grid.qmax
    best, best_error = widest, torch.full_like(widest, math.inf)
    for fraction in torch.linspace(0.35, 1.0, candidates):
        scale = widest * fraction
        rounded = (flat / scale[:, None]).round().clamp(grid.qmin, grid.qmax) * scale[:, None]
        error = (flat - rounded).square().sum(dim=1)
        best, best_error = torch.where(error < best_error, scale, best), torch.minimum(error, best_error)
    return best
