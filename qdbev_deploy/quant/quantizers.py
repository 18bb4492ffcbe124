"""Fake quantisation with learnable scales: what training sees of the integers that will run in the car."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qdbev_deploy.calibration.grid import Grid
from qdbev_deploy.calibration.histogram import Histogram
from qdbev_deploy.calibration.weights import SMALLEST_SCALE, best_weight_scale
from qdbev_deploy.quant.observers import count


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
            count(self.histogram, x)
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
        self.log_scale = nn.Parameter(_log(_best_scale(weight.detach(), grid)))
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


def _best_scale(weight: Tensor, grid: Grid) -> Tensor:
    if weight.is_meta:  # shapes alone are asked for
        return weight.new_ones(len(weight))
    return torch.from_numpy(best_weight_scale(weight.float().cpu().numpy(), grid)).to(weight.device)
