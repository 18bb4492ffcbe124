"""Batch norms folded into the convolutions before them, as the engine will fold them."""

from __future__ import annotations

import torch
from torch import nn

from qdbev_deploy.model import BEVFormer
from qdbev_deploy.model.resnet import DeformableConv


def _fold(conv: nn.Module, norm: nn.BatchNorm2d) -> None:
    assert isinstance(conv, (nn.Conv2d, DeformableConv))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * gain
    if conv.bias is not None:
        bias = bias + conv.bias.double() * gain
    with torch.no_grad():
        conv.weight.copy_(conv.weight.double() * gain[:, None, None, None])
    conv.bias = nn.Parameter(bias.detach().float(), requires_grad=conv.weight.requires_grad)


def fold_batch_norms(model: BEVFormer) -> None:
    """Fold every batch norm of the backbone in place; where one stood, an identity stands."""
    for module in list(model.img_backbone.modules()):
        children = dict(module.named_children())
        for name, child in children.items():
            if not isinstance(child, nn.BatchNorm2d):
                continue
            # bn2 follows conv2; in a shortcut, 1 follows 0.
            conv = children[name.replace("bn", "conv") if name.startswith("bn") else str(int(name) - 1)]
            _fold(conv, child)
            setattr(module, name, nn.Identity())
