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
    """Sum over layers, mean over groups of queries, and the first group's parts for the log.

    classes, coords [layers, groups, Q, 10]
    """
    groups = classes.shape[1]
    layers = [
        [_layer_loss(classes[layer, group], coords[layer, group], targets, code_weights) for group in range(groups)]
        for layer in range(len(classes))
    ]
    total = torch.stack([part for layer in layers for parts in layer for part in parts]).sum() / groups
    class_loss, box_loss = layers[-1][0]
    return total, {"class": float(class_loss.detach()), "box": float(box_loss.detach())}
