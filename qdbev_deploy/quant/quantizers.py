"""Fake quantisation with learned or observed scales: what training sees of the integers that will run in the car.

Torch's primitives give NaN and infinities a grid point like any number: whoever must notice them looks before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qdbev_deploy.calibration.grid import Grid
from qdbev_deploy.calibration.histogram import Histogram
from qdbev_deploy.calibration.weights import SMALLEST_SCALE, best_weight_scale
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.quant.observers import count


def _log(scale: Tensor) -> Tensor:
    return scale.detach().float().clamp(min=SMALLEST_SCALE).log()


class ActivationQuantizer(nn.Module):
    """Per-tensor, symmetric. Takes a tap's place; the scale's logarithm is learned, so that it stays positive.

    Until a scale is set, and while disabled, tensors pass through. While observing, they pass through and are counted.
    Not `learned`, the scale stays where it is set: the gradient passes straight through to the input alone.
    """

    scale_is_set: Tensor
    _zero_point: Tensor

    def __init__(self, grid: Grid, *, learned: bool = True) -> None:
        super().__init__()
        self.grid, self.learned = grid, learned
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learned)
        self.register_buffer("scale_is_set", torch.tensor(False))
        self.register_buffer("_zero_point", _zero_point(1, learned), persistent=False)
        self.enabled = True
        self.histogram: Histogram | None = None

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def set_scale(self, scale: float) -> None:
        with torch.no_grad():
            self.log_scale.copy_(_log(torch.tensor(scale)))
            self.scale_is_set.fill_(True)

    @property
    def rounds(self) -> bool:
        """Whether `forward` rounds what it is given, or passes it on."""
        return self.enabled and self.histogram is None and bool(self.scale_is_set)

    def rounded(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The whole numbers, as floats, that times the scale are what `forward` makes of finite numbers."""
        return torch.mul(x, 1.0 / self.scale, out=out).round_().clamp_(self.grid.qmin, self.grid.qmax)

    def forward(self, x: Tensor) -> Tensor:
        if self.histogram is not None:
            count(self.histogram, x)
        if not self.rounds:
            return x
        scale, limits = self.scale.reshape(1), (self.grid.qmin, self.grid.qmax)
        if not self.learned:
            return torch.fake_quantize_per_tensor_affine(x.float(), scale, self._zero_point, *limits).to(x.dtype)
        # LSQ's gradient for the scale, damped by the number of elements that pull at it.
        factor = 1.0 / math.sqrt(x.numel() * self.grid.qmax)
        quantised: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
            x.float(), scale, self._zero_point, *limits, factor
        )
        return quantised.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.grid.qmin}..{self.grid.qmax}, scale {float(self.scale):.3g}"


class WeightQuantizer(nn.Module):
    """Per output channel (axis 0), symmetric. A parametrisation of the weight it quantises; `learned` as above."""

    _zero_point: Tensor

    def __init__(self, weight: Tensor, grid: Grid, *, learned: bool = True) -> None:
        super().__init__()
        self.grid, self.learned = grid, learned
        self.log_scale = nn.Parameter(_log(_best_scale(weight.detach(), grid)), requires_grad=learned)
        self.register_buffer("_zero_point", _zero_point(len(weight), learned), persistent=False)
        self.enabled = True

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def forward(self, weight: Tensor) -> Tensor:
        return self._quantised(weight) if self.enabled else weight

    def _quantised(self, weight: Tensor) -> Tensor:
        limits = self.grid.qmin, self.grid.qmax
        if not self.learned:
            return torch.fake_quantize_per_channel_affine(weight, self.scale, self._zero_point, 0, *limits)
        factor = 1.0 / math.sqrt(weight[0].numel() * self.grid.qmax)
        quantised: Tensor = torch._fake_quantize_learnable_per_channel_affine(
            weight, self.scale, self._zero_point, 0, *limits, factor
        )
        return quantised

    def integers(self, weight: Tensor, name: str = "a weight") -> Tensor:
        """The int8 tensor that, times the scales, is what `forward` returns while enabled."""
        scale = self.scale.detach()
        for what, tensor in ((name, weight), (f"the scales of {name}", scale)):
            if bad := int((~torch.isfinite(tensor)).sum()):
                raise QdbevError(
                    f"{bad} of {tensor.numel()} numbers of {what} are not finite", "finite weights and scales",
                    "take an earlier checkpoint: the training that made this one had diverged",
                )  # fmt: skip
        # From what the forward computes, so that no second rounding can disagree with it.
        quantised = self._quantised(weight).detach() / scale.reshape(-1, *[1] * (weight.dim() - 1))
        return quantised.round().to(torch.int8)

    def extra_repr(self) -> str:
        return f"{self.grid.qmin}..{self.grid.qmax}, {len(self.log_scale)} channels"


def _zero_point(count: int, learned: bool) -> Tensor:
    """Of the type that each of torch's primitives wants."""
    return torch.zeros(count, dtype=torch.float32 if learned else torch.int32)


def _best_scale(weight: Tensor, grid: Grid) -> Tensor:
    if weight.is_meta:  # shapes alone are asked for
        return weight.new_ones(len(weight))
    return torch.from_numpy(best_weight_scale(weight.float().cpu().numpy(), grid)).to(weight.device)
