"""The detection loss: focal on classes, L1 on box codes, at every decoder layer."""

from __future__ import annotations

import torch
from torch import Tensor

from qdbev_deploy.train.matching import Targets, assign, focal_parts

CLASS_WEIGHT, BOX_WEIGHT = 2.0, 0.25


def _layer_loss(logits: Tensor, codes: Tensor, targets: Targets, code_weights: Tensor) -> tuple[Tensor, Tensor]:
    """(class loss, box loss) of one decoder layer. logits, codes [Q, 10]"""
    queries, objects = assign(logits, codes, targets)
    positive, negative = focal_parts(logits.float())
    is_object = torch.zeros_like(logits, dtype=torch.bool)
    is_object[queries, targets.labels[objects]] = True
    count = max(len(objects), 1)
    class_loss = torch.where(is_object, positive, negative).sum() / count
    wanted = targets.codes[objects]
    known = torch.isfinite(wanted)
    difference = (codes[queries].float() - wanted.nan_to_num()).abs() * known * code_weights
    return CLASS_WEIGHT * class_loss, BOX_WEIGHT * difference.sum() / count


def detection_loss(
    classes: Tensor, coords: Tensor, targets: Targets, code_weights: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Sum over layers, and its parts for the log. classes, coords [layers, 1, Q, 10]"""
    layers = [_layer_loss(logits, codes, targets, code_weights) for logits, codes in zip(classes[:, 0], coords[:, 0])]
    total = torch.stack([part for layer in layers for part in layer]).sum()
    class_loss, box_loss = layers[-1]
    return total, {"class": float(class_loss.detach()), "box": float(box_loss.detach())}
