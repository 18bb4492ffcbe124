"""Classes and boxes on every BEV cell and every image token, for training alone.

Set prediction tells a few queries where they were wrong. These heads tell every place at once: the BEV what stands on
each cell, and the image features what is seen at each token and how far away it is (the perspective supervision of
BEVFormer v2). Small models then learn from few frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdbev_deploy.contract import BOX_CODE, CLASSES, VariantSpec
from qdbev_deploy.train.losses import BOX_WEIGHT
from qdbev_deploy.train.matching import Targets

SIZE_CODES = [2, 3, 5]  # width, length and height among the box codes, as logarithms


def bumps(cells: Tensor, sigmas: Tensor, maps: Tensor, count: int, hw: tuple[int, int]) -> Tensor:
    """Maps with a bump of 1 on each object's cell, the higher one where two meet.

    cells [objects, 2] as column and row, sigmas [objects] in cells, maps [objects]: on which -> [count, h, w]
    """
    xs, ys = (torch.arange(size, device=cells.device) for size in (hw[1], hw[0]))
    squared = (xs - cells[:, :1]).square()[:, None] + (ys - cells[:, 1:]).square()[:, :, None]
    each = torch.exp(-squared / (2 * sigmas.square())[:, None, None])  # [objects, h, w]
    index = maps[:, None, None].expand_as(each)
    return torch.zeros(count, *hw, device=cells.device).scatter_reduce_(0, index, each, "amax")


def heatmap_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss against bumps, softened around their peaks."""
    probability = logits.sigmoid()
    positive = (1 - probability).square() * F.softplus(-logits) * (wanted == 1)
    negative = (1 - wanted) ** 4 * probability.square() * F.softplus(logits) * (wanted < 1)
    return (positive + negative).sum()


def _branch(channels: int, codes: int) -> nn.Sequential:
    last = nn.Linear(channels, len(CLASSES) + codes)
    nn.init.zeros_(last.bias)
    nn.init.constant_(last.bias[: len(CLASSES)], -4.6)
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), last)


class BevHead(nn.Module):
    """BEV cells -> class heatmaps, and the box of the object whose centre a cell holds."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.hw = spec.bev_hw
        self.layers = _branch(spec.embed_dim, len(BOX_CODE))
        low, high = torch.tensor(spec.pc_range[:2]), torch.tensor(spec.pc_range[3:5])
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("size", (high - low) / torch.tensor(self.hw[::-1]), persistent=False)  # of a cell

    low: Tensor
    size: Tensor

    def loss(self, bev: Tensor, targets: Targets, code_weights: Tensor) -> Tensor:
        """bev [cells, 1, C]; divided by the number of objects."""
        logits, codes = self.layers(bev[:, 0]).float().split([len(CLASSES), len(BOX_CODE)], dim=-1)
        place = (targets.codes[:, :2] - self.low) / self.size
        cells = place.floor()
        # As wide as the object, and at least a cell.
        sigmas = (0.25 * targets.codes[:, 2:4].exp().mean(dim=-1) / self.size[0]).clamp(min=0.5)
        wanted = bumps(cells, sigmas, targets.labels, len(CLASSES), self.hw)
        heatmaps = heatmap_loss(logits.T.unflatten(-1, self.hw), wanted)
        # x and y count from the middle of the cell.
        boxes = torch.cat([(place - cells - 0.5) * self.size, targets.codes[:, 2:]], dim=-1)
        found = codes[(cells[:, 1] * self.hw[1] + cells[:, 0]).long()]
        difference = (found - boxes.nan_to_num()).abs() * torch.isfinite(boxes) * code_weights
        total: Tensor = (heatmaps + BOX_WEIGHT * difference.sum()) / max(len(targets.labels), 1)
        return total


class ImageHead(nn.Module):
    """Tokens of the finest image level -> class heatmaps; place, depth and size of the object whose centre is there."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.image_hw, self.hw = spec.image_hw, spec.feature_hws[0]
        self.layers = _branch(spec.embed_dim, 3 + len(SIZE_CODES))

    def loss(self, features: Tensor, targets: Targets, lidar2img: Tensor) -> Tensor:
        """features [1, cams, C, h, w], lidar2img [1, cams, 4, 4]; divided by the number of objects seen."""
        outputs = self.layers(features[0].permute(0, 2, 3, 1)).float()
        logits = outputs[..., : len(CLASSES)].permute(0, 3, 1, 2).flatten(0, 1)  # [cams * 10, h, w]
        cams, objects, place, depth = self._seen(targets, lidar2img[0])
        cells, sizes = place.floor(), targets.codes[objects][:, SIZE_CODES]
        focal = lidar2img[0, cams, 0, :3].norm(dim=-1) * self.hw[1] / self.image_hw[1]
        sigmas = (0.15 * sizes.exp().amax(dim=-1) * focal / depth).clamp(min=0.5)
        wanted = bumps(cells, sigmas, cams * len(CLASSES) + targets.labels[objects], len(logits), self.hw)
        codes = torch.cat([place - cells - 0.5, depth.log()[:, None], sizes], dim=-1)
        found = outputs[cams, cells[:, 1].long(), cells[:, 0].long(), len(CLASSES) :]
        total: Tensor = heatmap_loss(logits, wanted) + BOX_WEIGHT * (found - codes).abs().sum()
        return total / max(len(objects), 1)

    def _seen(self, targets: Targets, lidar2img: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pairs of a camera and an object whose centre it sees: both indices, the place in tokens, the depth."""
        with torch.autocast(lidar2img.device.type, enabled=False):
            centres = F.pad(targets.codes[:, [0, 1, 4]], (0, 1), value=1.0)
            projected = centres @ lidar2img.transpose(1, 2)  # [cams, objects, 4]
        depth = projected[..., 2]
        place = projected[..., :2] / depth.clamp(min=1e-3)[..., None]
        place = place * torch.tensor(
            [self.hw[1] / self.image_hw[1], self.hw[0] / self.image_hw[0]], device=place.device
        )
        inside = (place > 0).all(dim=-1) & (place[..., 0] < self.hw[1]) & (place[..., 1] < self.hw[0])
        cams, objects = (inside & (depth > 1.0)).nonzero().unbind(dim=-1)
        return cams, objects, place[cams, objects], depth[cams, objects]
