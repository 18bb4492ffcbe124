"""Quantisers replaced by what an ONNX file says instead: integers with a DequantizeLinear, and Q/DQ pairs."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qdbev_deploy.export.options import ExportOptions
from qdbev_deploy.model import BEVFormer
from qdbev_deploy.quant.quantise import activation_quantizers
from qdbev_deploy.quant.quantizers import ActivationQuantizer, WeightQuantizer

INT8_MAX = 127
QDQ_OPSET = 13
# The exporter's optimiser merges Clips with what surrounds them, and with some it loses their bounds; and it merges
# quantisers that happen to have one scale, so that nobody can tell any more which is which. Under a domain it does not
# know, nodes pass untouched; `trace` gives them their own back.
DEFERRED_DOMAIN = "qdbev.deferred"
TAP_ATTRIBUTE = "tap"


class CarriedWeight(nn.Module):
    """Stands where a weight's quantiser stood: the weight is its integers, dequantised along axis 0."""

    integers: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: WeightQuantizer, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("integers", quantizer.integers(weight))
        self.register_buffer("scale", quantizer.scale.detach().clone())
        self.register_buffer("zero_point", torch.zeros(len(weight), dtype=torch.int8))

    def forward(self, weight: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.integers, self.scale, self.zero_point),
            {"axis": 0},
            dtype=torch.float32,
            shape=self.integers.shape,
            version=QDQ_OPSET,
        )


class CarriedActivation(nn.Module):
    """Stands where an activation's quantiser stood: a Clip to the k bits where int8 is wider, and a Q/DQ pair."""

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, name: str, quantizer: ActivationQuantizer, options: ExportOptions) -> None:
        super().__init__()
        self.name = name
        scale, grid = quantizer.scale.detach().clone(), quantizer.grid
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int8))
        # An unsigned grid is only ever given to what a ReLU made, so that its lower end needs no Clip of its own.
        self.clips = options.clip == "exact" and grid.qmax < INT8_MAX
        self.register_buffer("low", scale * grid.qmin)
        self.register_buffer("high", scale * grid.qmax)

    def forward(self, x: Tensor) -> Tensor:
        if self.clips:
            x = torch.onnx.ops.symbolic(
                f"{DEFERRED_DOMAIN}::Clip", (x, self.low, self.high), dtype=torch.float32, shape=x.shape, version=1
            )
        integers = torch.onnx.ops.symbolic(
            f"{DEFERRED_DOMAIN}::QuantizeLinear",
            (x, self.scale, self.zero_point),
            {TAP_ATTRIBUTE: self.name},
            dtype=torch.int8,
            shape=x.shape,
            version=1,
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (integers, self.scale, self.zero_point),
            dtype=torch.float32,
            shape=x.shape,
            version=QDQ_OPSET,
        )


def with_carriers(model: BEVFormer, options: ExportOptions) -> BEVFormer:
    """A copy of the model that exports its quantisers; it computes nothing sensible in torch."""
    carried = copy.deepcopy(model).eval()
    for module in carried.modules():
        if not parametrize.is_parametrized(module):
            continue
        for chain in cast(nn.ModuleDict, module.parametrizations).values():
            steps = cast(parametrize.ParametrizationList, chain)
            if isinstance(steps[0], WeightQuantizer) and steps[0].enabled:
                steps[0] = CarriedWeight(steps[0], steps.original)
    for name, quantizer in activation_quantizers(carried).items():
        parent, _, attribute = name.rpartition(".")
        carried.get_submodule(parent)._modules[attribute] = CarriedActivation(name, quantizer, options)
    return carried
