"""View-guided distillation, and the one-sided distillations it is compared with.

F_img are the neck's maps, F_bev the encoder's output; T is the teacher, S the student, tau the temperature.

    phi(x)    = softmax of x / tau over the places of one channel
    L_img[n]  = tau^2 / (W H C) * KL(phi(F_img^T), phi(F_img^S)), summed over view n, mean over levels
    L_bev[q]  = tau^2 / C * KL(phi(F_bev^T), phi(F_bev^S)), summed over the channels of BEV cell q
    L_vgd     = sum over views n and cells q of M[n, q] * L_img[n] * L_bev[q]

M[n, q] is 1 where view n sees cell q. Softmax over places is channel-wise distillation's; the paper leaves the axis
open, and its normalisers fit no other. The product means that a cell is pulled as hard as its views are wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.ops import project_pillars

Method = Literal["vgd", "cwd-img", "cwd-bev"]
METHODS: tuple[Method, ...] = ("vgd", "cwd-img", "cwd-bev")


@dataclass(frozen=True)
class Distillation:
    """What is distilled, how softly, and how much it counts beside the detection loss."""

    method: Method = "vgd"
    temperature: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise QdbevError(f"distillation '{self.method}'", "one of " + ", ".join(METHODS), "pass --distill with one")
        if not (0 < self.temperature < math.inf and 0 <= self.weight < math.inf):
            raise QdbevError(
                f"distillation with temperature {self.temperature} and weight {self.weight}",
                "a positive temperature and a weight of at least 0, both finite",
                "pass another --temperature or --distill-weight",
            )


def _divergence(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """KL of softmaxes over the last axis, place by place: terms of at least 0, whose sum is the divergence.

    A term is p log(p / q) - p + q. What it has beside p log(p / q) sums to zero over the places; without it, places
    where the student says more than the teacher would count as negative, and the product be lowest far from both.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    log_teacher = F.log_softmax(teacher.detach().to(wide) / tau, dim=-1)
    log_student = F.log_softmax(student.to(wide) / tau, dim=-1)
    difference = log_teacher - log_student
    return log_teacher.exp() * (difference + torch.expm1(-difference))


def image_loss(teacher: list[Tensor], student: list[Tensor], tau: float) -> Tensor:
    """L_img of each view.  levels of [1, views, C, h, w] -> [views]"""
    levels = []
    for ours, theirs in zip(student, teacher):
        channels, height, width = ours.shape[2:]
        terms = _divergence(theirs[0].flatten(2), ours[0].flatten(2), tau)
        levels.append(terms.sum(dim=(1, 2)) * tau**2 / (width * height * channels))
    return torch.stack(levels).mean(dim=0)


def bev_loss(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """L_bev of each cell.  [cells, 1, C] -> [cells]"""
    terms = _divergence(teacher[:, 0].T, student[:, 0].T, tau)  # [C, cells]
    return terms.sum(dim=0) * tau**2 / student.shape[-1]


def visibility(lidar2img: Tensor, spec: VariantSpec) -> Tensor:
    """M: which view sees which cell.  [1, views, 4, 4] -> [views, cells]"""
    _, visible = project_pillars(lidar2img[0], spec.bev_hw, spec.pc_range, spec.pillar_heights, spec.image_hw)
    return visible.any(dim=-1).float()


def view_guided_loss(image: Tensor, bev: Tensor, mask: Tensor) -> Tensor:
    """L_vgd from L_img [views], L_bev [cells] and M [views, cells]."""
    return (mask * image[:, None] * bev).sum()


def distillation_loss(
    settings: Distillation,
    spec: VariantSpec,
    teacher: tuple[list[Tensor], Tensor],
    student: tuple[list[Tensor], Tensor],
    lidar2img: Tensor,
) -> Tensor:
    """The weighted loss; teacher and student are (neck maps, BEV)."""
    tau = settings.temperature
    if settings.method == "cwd-img":
        loss = image_loss(teacher[0], student[0], tau).sum()
    elif settings.method == "cwd-bev":
        loss = bev_loss(teacher[1], student[1], tau).sum()
    else:
        image, bev = image_loss(teacher[0], student[0], tau), bev_loss(teacher[1], student[1], tau)
        loss = view_guided_loss(image, bev, visibility(lidar2img, spec))
    return settings.weight * loss


def require_same_architecture(teacher: VariantSpec, student: VariantSpec) -> None:
    """The losses compare maps place by place, so the two must be built alike."""
    if teacher != student:
        differing = [key for key, value in teacher.to_dict().items() if value != student.to_dict()[key]]
        raise QdbevError(
            f"a teacher '{teacher.name}' that differs from the student '{student.name}' in {', '.join(differing)}",
            "a teacher of the student's own architecture",
            "pass the checkpoint that the student was made from as --teacher",
        )
