"""Parameters and multiply-accumulates of a variant, part by part, without running it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from qdbev_deploy.contract import CAMERAS, VariantSpec
from qdbev_deploy.model.bevformer import BEVFormer
from qdbev_deploy.model.resnet import DeformableConv


@dataclass(frozen=True)
class PartCost:
    """Cost of one part for one frame of six cameras."""

    part: str
    parameters: int
    macs: int


def _conv_macs(module: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of every convolution under `module`, counted on shapes alone."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += output.numel() * weight[0].numel()

    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, (nn.Conv2d, DeformableConv))
    ]
    module(images)
    for hook in hooks:
        hook.remove()
    return total


def _head_rows(name: str, spec: VariantSpec) -> int:
    """On how many vectors the Linear of that name works in one frame."""
    cells, tokens = spec.bev_cells, sum(height * width for height, width in spec.feature_hws)
    if ".encoder." in name:
        if name.endswith("deformable_attention.value_proj"):
            return len(CAMERAS) * tokens
        return 2 * cells if name.endswith("attentions.0.value_proj") else cells
    if name.endswith("value_proj"):  # the decoder's, on the BEV map
        return cells
    return 1 if "can_bus_mlp" in name else spec.queries


def _head_macs(head: nn.Module, spec: VariantSpec, prefix: str) -> int:
    total = 0
    for name, module in head.named_modules():
        if not name.startswith(prefix):
            continue
        if isinstance(module, nn.Linear):
            total += _head_rows(name, spec) * module.weight.numel()
        elif hasattr(module, "in_proj_weight"):
            assert isinstance(module.in_proj_weight, Tensor)
            total += spec.queries * module.in_proj_weight.numel()
    return total


def _parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@cache
def model_cost(spec: VariantSpec) -> tuple[PartCost, ...]:
    """Cost of each part of a streaming step, as our model runs it.

    Convolutions and Linears count, a deformable convolution as the plain one; sampling, softmax and the products inside
    dot-product attention do not. Every Linear runs once: box regression serves refinement and output, offsets and
    logits of spatial attention are computed once a query, and only the last decoder layer's class branch runs.
    """
    with torch.device("meta"):
        model = BEVFormer(spec).eval()
        images = torch.empty(len(CAMERAS), 3, *spec.image_hw)
        backbone_macs = _conv_macs(model.img_backbone, images)
        neck_macs = _conv_macs(_Chain(model.img_backbone, model.img_neck), images) - backbone_macs
    head = model.pts_bbox_head
    transformer = head.transformer
    parts = [
        PartCost("backbone", _parameters(model.img_backbone), backbone_macs),
        PartCost("neck", _parameters(model.img_neck), neck_macs),
        PartCost("encoder", _parameters(transformer.encoder), _head_macs(head, spec, "transformer.encoder")),
        PartCost("decoder", _parameters(transformer.decoder), _head_macs(head, spec, "transformer.decoder")),
        PartCost(
            "branches",
            _parameters(head.cls_branches, head.reg_branches),
            _head_macs(head, spec, f"cls_branches.{spec.decoder_layers - 1}.") + _head_macs(head, spec, "reg_branches"),
        ),
    ]
    rest_macs = _head_macs(head, spec, "transformer.can_bus_mlp") + _head_macs(
        head, spec, "transformer.reference_points"
    )
    rest_parameters = _parameters(model) - sum(part.parameters for part in parts)
    return (*parts, PartCost("embeddings", rest_parameters, rest_macs))


class _Chain(nn.Module):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.steps = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x
