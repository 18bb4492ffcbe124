"""A float model made quantised, its scales calibrated, its integers read out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qdbev_deploy.calibration.grid import Grid
from qdbev_deploy.calibration.histogram import Histogram, Method
from qdbev_deploy.calibration.recipe import Part, Recipe, part_of, resolve
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.model import BEVFormer
from qdbev_deploy.model.head import Branch
from qdbev_deploy.model.layers import PackedAttention
from qdbev_deploy.model.resnet import DeformableConv
from qdbev_deploy.model.taps import Tap
from qdbev_deploy.quant.fold import fold_batch_norms
from qdbev_deploy.quant.quantizers import ActivationQuantizer, WeightQuantizer


def _weight_owners(model: BEVFormer) -> tuple[dict[str, tuple[nn.Module, str]], list[str]]:
    """(names of weights that a recipe may quantise -> module and parameter, names of those that must stay float).

    A weight goes by its module's name; the packed projection of self-attention by its own.
    """
    allowed: dict[str, tuple[nn.Module, str]] = {}
    forbidden: list[str] = []
    last_linears = set()
    for module in model.modules():
        if isinstance(module, Branch):
            last_linears.add([layer for layer in module.children() if isinstance(layer, nn.Linear)][-1])
    for name, module in model.named_modules():
        if isinstance(module, PackedAttention):
            allowed[f"{name}.in_proj"] = (module, "in_proj_weight")
        elif isinstance(module, (nn.Conv2d, nn.Linear, DeformableConv)):
            geometry = name.endswith(("conv_offset", "transformer.reference_points")) or ".can_bus_mlp." in name
            if geometry or module in last_linears:
                forbidden.append(name)
            else:
                allowed[name] = (module, "weight")
    return allowed, forbidden


def quantise(model: BEVFormer, recipe: Recipe) -> BEVFormer:
    """Fold batch norms and put quantisers where the recipe says, in place. Activations pass until calibrated."""
    if is_quantised(model):
        raise QdbevError("a model that is quantised already", "a float model", "load the float checkpoint")
    owners, forbidden = _weight_owners(model)
    taps = {name: module for name, module in model.named_modules() if isinstance(module, Tap)}
    weight_rules = resolve(recipe.weights, list(owners), forbidden, recipe, "weights")
    activation_rules = resolve(recipe.activations, list(taps), [], recipe, "activations")
    learned = recipe.scales == "learned"
    fold_batch_norms(model)
    for name, rule in weight_rules.items():
        module, parameter = owners[name]
        assert rule.bits is not None
        quantizer = WeightQuantizer(getattr(module, parameter), Grid(rule.bits, signed=True), learned=learned)
        parametrize.register_parametrization(module, parameter, quantizer, unsafe=True)
    for name, rule in activation_rules.items():
        assert rule.bits is not None
        signed = rule.grid == "signed" or not taps[name].nonnegative
        parent, _, attribute = name.rpartition(".")
        model.get_submodule(parent)._modules[attribute] = ActivationQuantizer(Grid(rule.bits, signed), learned=learned)
    return model


def is_quantised(model: nn.Module) -> bool:
    return any(isinstance(module, (ActivationQuantizer, WeightQuantizer)) for module in model.modules())


def activation_quantizers(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """Name of the tap -> the quantiser in its place."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ActivationQuantizer)}


def weight_quantizers(model: nn.Module) -> dict[str, tuple[WeightQuantizer, Tensor]]:
    """Name of the weight, as recipes know it -> its quantiser and the float tensor it quantises."""
    found = {}
    for name, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        for parameter, chain in cast(nn.ModuleDict, module.parametrizations).items():
            quantizer = cast(nn.ModuleList, chain)[0]
            if isinstance(quantizer, WeightQuantizer):
                key = name if parameter == "weight" else f"{name}.in_proj"
                found[key] = (quantizer, cast(Tensor, chain.original))
    return found


def without_scale(model: nn.Module) -> list[str]:
    """Names of the activations that are to be integers and pass in float: no scale was set yet."""
    return [name for name, quantizer in activation_quantizers(model).items() if not quantizer.scale_is_set]


def enable_parts(model: nn.Module, parts: set[Part]) -> None:
    """Quantise these parts; the others compute in float until they are enabled."""
    for name, activation in activation_quantizers(model).items():
        activation.enabled = part_of(name) in parts
    for name, (weight, _) in weight_quantizers(model).items():
        weight.enabled = part_of(name) in parts


@contextmanager
def observing(model: nn.Module, parts: set[Part] | None = None) -> Iterator[dict[str, Histogram]]:
    """Within the block, the given parts (all by default) compute in float and their activations are counted.

    The other parts do what they are enabled to do.
    """
    chosen = {
        name: quantizer
        for name, quantizer in activation_quantizers(model).items()
        if parts is None or part_of(name) in parts
    }
    weights = [
        quantizer
        for name, (quantizer, _) in weight_quantizers(model).items()
        if parts is None or part_of(name) in parts
    ]
    were_enabled = [quantizer.enabled for quantizer in weights]
    for quantizer in weights:
        quantizer.enabled = False
    for activation in chosen.values():
        activation.histogram = Histogram()
    try:
        yield {name: cast(Histogram, activation.histogram) for name, activation in chosen.items()}
    finally:
        for activation in chosen.values():
            activation.histogram = None
        for quantizer, enabled in zip(weights, were_enabled):
            quantizer.enabled = enabled


def set_scales(model: nn.Module, histograms: dict[str, Histogram], method: Method, percentile: float = 99.99) -> None:
    """Give every activation quantiser that was observed the scale that the method chooses from its histogram."""
    quantizers = activation_quantizers(model)
    for name, histogram in histograms.items():
        quantizers[name].set_scale(histogram.scale(method, quantizers[name].grid, percentile))


@dataclass(frozen=True)
class WeightIntegers:
    """A weight as it will be stored: `integers * scale` along axis 0 is what the model computes with."""

    integers: Tensor  # int8, the weight's shape
    scale: Tensor  # [output channels]
    grid: Grid


@dataclass(frozen=True)
class ActivationScale:
    """The grid that an activation is rounded to."""

    scale: float
    grid: Grid


@dataclass(frozen=True)
class Integers:
    """Every integer decision of a quantised model: the contract that export carries unchanged."""

    weights: dict[str, WeightIntegers]
    activations: dict[str, ActivationScale]


@torch.no_grad()
def integers(model: BEVFormer) -> Integers:
    """Read out the integers and scales of every quantised tensor, whether its part is enabled or not."""
    unset = without_scale(model)
    if not is_quantised(model) or unset:
        raise QdbevError(
            f"the activation '{unset[0]}' has no scale yet" if unset else "a float model",
            "a quantised and calibrated model",
            "qdbev-deploy calibrate, or qdbev-deploy train with a recipe",
        )
    return Integers(
        {
            name: WeightIntegers(quantizer.integers(weight, f"'{name}'"), quantizer.scale.clone(), quantizer.grid)
            for name, (quantizer, weight) in weight_quantizers(model).items()
        },
        {name: ActivationScale(float(q.scale), q.grid) for name, q in activation_quantizers(model).items()},
    )
