"""A heatmap on the BEV, for training alone: it tells every cell at once what set prediction tells a few queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdbev_deploy.contract import CLASSES, VariantSpec
from qdbev_deploy.train.matching import Targets


def heatmap(targets: Targets, spec: VariantSpec) -> Tensor:
    """For each class a map with a bump of 1 on each object, as wide as the object and at least a cell.  # [10, h, w]"""
    height, width = spec.bev_hw
    cell_x = (spec.pc_range[3] - spec.pc_range[0]) / width
    cell_y = (spec.pc_range[4] - spec.pc_range[1]) / height
    xs = spec.pc_range[0] + (torch.arange(width, device=targets.codes.device) + 0.5) * cell_x
    ys = spec.pc_range[1] + (torch.arange(height, device=targets.codes.device) + 0.5) * cell_y
    maps = torch.zeros(len(CLASSES), height, width, device=targets.codes.device)
    for code, label in zip(targets.codes, targets.labels):
        sigma = max(0.25 * float(code[2:4].exp().mean()), 0.5 * cell_x)
        # The bump's peak is put on the cell that holds the centre, so that every object has one cell of exactly 1.
        centre_x = xs[(xs - code[0]).abs().argmin()]
        centre_y = ys[(ys - code[1]).abs().argmin()]
        squared = (xs - centre_x).square() + (ys - centre_y).square()[:, None]
        maps[label] = torch.maximum(maps[label], torch.exp(-squared / (2 * sigma**2)))
    return maps


class DenseHead(nn.Module):
    """BEV cells -> class heatmaps."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.Sequential(
            nn.Linear(spec.embed_dim, spec.embed_dim), nn.ReLU(), nn.Linear(spec.embed_dim, len(CLASSES))
        )
        nn.init.constant_(self.layers[-1].bias, -4.6)  # type: ignore[arg-type]

    def loss(self, bev: Tensor, targets: Targets) -> Tensor:
        """Focal loss against the heatmap, softened around the bumps.  bev [cells, 1, C]"""
        logits = self.layers(bev[:, 0]).float().T.unflatten(-1, self.spec.bev_hw)
        wanted = heatmap(targets, self.spec)
        probability = logits.sigmoid()
        positive = (1 - probability).square() * F.softplus(-logits) * (wanted == 1)
        negative = (1 - wanted) ** 4 * probability.square() * F.softplus(logits) * (wanted < 1)
        total: Tensor = (positive + negative).sum() / max(len(targets.labels), 1)
        return total
