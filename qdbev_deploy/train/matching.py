"""Which prediction answers for which object: the assignment of least cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from qdbev_deploy.boxes import Boxes, encode
from qdbev_deploy.contract import VariantSpec

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
CLASS_COST, BOX_COST = 2.0, 0.25
BOX_COST_CODES = 8  # velocity does not take part in the assignment


@dataclass(frozen=True)
class Targets:
    """The objects of one frame as the network is to say them."""

    codes: Tensor  # [objects, 10]; NaN where unknown (velocity without a neighbour frame)
    labels: Tensor  # [objects]


def targets_of(boxes: Boxes, spec: VariantSpec) -> Targets:
    """Objects whose centre lies in the BEV's range; the others cannot be said."""
    low, high = np.asarray(spec.pc_range[:2]), np.asarray(spec.pc_range[3:5])
    inside = ((boxes.center[:, :2] > low) & (boxes.center[:, :2] < high)).all(axis=1)
    kept = boxes[inside]
    return Targets(torch.from_numpy(encode(kept)), torch.from_numpy(kept.label))


def focal_parts(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The focal loss of calling each logit positive, and of calling it negative."""
    probability = logits.sigmoid()
    positive = ALPHA * (1 - probability) ** GAMMA * torch.nn.functional.softplus(-logits)
    negative = (1 - ALPHA) * probability**GAMMA * torch.nn.functional.softplus(logits)
    return positive, negative


@torch.no_grad()
def assign(logits: Tensor, codes: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """(query indices, object indices) of the assignment, each object exactly once.  logits, codes [Q, 10]"""
    positive, negative = focal_parts(logits.float())
    class_cost = (positive - negative)[:, targets.labels]
    wanted = targets.codes[:, :BOX_COST_CODES]
    box_cost = torch.cdist(codes[:, :BOX_COST_CODES].float(), wanted, p=1)
    cost = (CLASS_COST * class_cost + BOX_COST * box_cost).cpu().numpy()
    # A diverging network must reach the divergence check, not fail here.
    rows, cols = linear_sum_assignment(np.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6))
    return torch.from_numpy(rows).to(logits.device), torch.from_numpy(cols).to(logits.device)
