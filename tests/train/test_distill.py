"""View-guided distillation against numbers worked out by hand, and its gradients."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.ops import project_pillars
from qdbev_deploy.train.distill import (
    Distillation,
    bev_loss,
    distillation_loss,
    image_loss,
    require_same_architecture,
    view_guided_loss,
    visibility,
)

LOG3 = math.log(3.0)


def test_image_loss_by_hand() -> None:
    # One view, one channel, two places. Teacher (3/4, 1/4), student (1/2, 1/2).
    teacher, student = torch.tensor([LOG3, 0.0]).reshape(1, 1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 2)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert image_loss([teacher], [student], 1.0).tolist() == pytest.approx([divergence / 2])  # W H C = 2
    # Twice the temperature on twice the logits: the same distributions, tau^2 = 4 times the loss.
    assert image_loss([2 * teacher], [student], 2.0).tolist() == pytest.approx([4 * divergence / 2])


def test_levels_are_averaged_and_views_kept_apart() -> None:
    teacher = torch.stack([torch.tensor([LOG3, 0.0]), torch.zeros(2)]).reshape(1, 2, 1, 1, 2)
    same = torch.randn(1, 2, 1, 3, 3)
    loss = image_loss([teacher, same], [torch.zeros(1, 2, 1, 1, 2), same], 1.0)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert loss.tolist() == pytest.approx([divergence / 2 / 2, 0.0], abs=1e-7)


def test_bev_loss_by_hand() -> None:
    # Two cells, two channels; only channel 0 differs. Its terms p log(p / q) - p + q stay apart, divided by C = 2.
    teacher = torch.tensor([[LOG3, 5.0], [0.0, 5.0]]).reshape(2, 1, 2)
    student = torch.tensor([[0.0, 7.0], [0.0, 7.0]]).reshape(2, 1, 2)
    expected = [(0.75 * math.log(1.5) - 0.75 + 0.5) / 2, (0.25 * math.log(0.5) - 0.25 + 0.5) / 2]
    assert bev_loss(teacher, student, 1.0).tolist() == pytest.approx(expected)
    # Twice the temperature on twice the logits: the same distributions, tau^2 = 4 times the loss.
    assert bev_loss(2 * teacher, 2 * student, 2.0).tolist() == pytest.approx([4 * cell for cell in expected])


def test_no_cell_gains_by_leaving_the_teacher() -> None:
    """A cell's loss is never negative, or a student would be paid for images that are wrong; the sum is the KL."""
    _, teacher = maps(0)
    _, student = maps(1)
    cells = bev_loss(teacher, student, 1.0)
    assert bool((cells > 0).all())
    divergence = torch.nn.functional.kl_div(
        student[:, 0].T.log_softmax(-1), teacher[:, 0].T.softmax(-1), reduction="sum"
    )
    assert float(cells.sum()) == pytest.approx(float(divergence) / 3)


def test_view_guided_product_by_hand() -> None:
    image, bev = torch.tensor([2.0, 3.0]), torch.tensor([0.5, 0.25, 1.0])
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    # Cell 0 is seen by view 0, cell 1 by both, cell 2 by none.
    assert float(view_guided_loss(image, bev, mask)) == pytest.approx(2 * 0.5 + (2 + 3) * 0.25)


def test_visibility_is_the_encoders() -> None:
    spec = VARIANTS["micro"]
    matrix = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0)) * 50
    _, visible = project_pillars(matrix[0], spec.bev_hw, spec.pc_range, spec.pillar_heights, spec.image_hw)
    mask = visibility(matrix, spec)
    assert mask.shape == (6, 2500)
    assert 0 < mask.mean() < 1
    assert torch.equal(mask.bool(), visible.any(-1))


def maps(seed: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(1, 6, 2, h, w, generator=generator, dtype=torch.float64) for h, w in ((2, 3), (1, 2))]
    return levels, torch.randn(6, 1, 3, generator=generator, dtype=torch.float64)


SMALL = dataclasses.replace(VARIANTS["micro"], bev_hw=(2, 3))


@pytest.mark.parametrize("method", ["vgd", "cwd-img", "cwd-bev"])
def test_gradients(method: str) -> None:
    (teacher_maps, teacher_bev), (student_maps, student_bev) = maps(0), maps(1)
    matrix = torch.zeros(1, 6, 4, 4)
    matrix[0, :3, :3, 3] = torch.tensor([160.0, 90.0, 1.0])  # three views see every cell
    settings = Distillation(method, temperature=1.5, weight=2.0)  # type: ignore[arg-type]

    def loss(first: Tensor, second: Tensor, bev: Tensor) -> Tensor:
        return distillation_loss(settings, SMALL, (teacher_maps, teacher_bev), ([first, second], bev), matrix)

    arguments = [tensor.requires_grad_() for tensor in (*student_maps, student_bev)]
    assert torch.autograd.gradcheck(loss, arguments)
    gradients = torch.autograd.grad(loss(*arguments), arguments, allow_unused=True)
    reached = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]
    assert reached == {"vgd": [True] * 3, "cwd-img": [True, True, False], "cwd-bev": [False, False, True]}[method]


@pytest.mark.parametrize("method", ["vgd", "cwd-img", "cwd-bev"])
def test_the_weight_multiplies_the_loss(method: str) -> None:
    matrix = torch.zeros(1, 6, 4, 4)
    matrix[0, :3, :3, 3] = torch.tensor([160.0, 90.0, 1.0])
    once, thrice = (
        float(distillation_loss(Distillation(method, weight=weight), SMALL, maps(0), maps(1), matrix))  # type: ignore[arg-type]
        for weight in (1.0, 3.0)
    )
    assert once > 0
    assert thrice == pytest.approx(3 * once)


def test_a_perfect_student_has_no_loss() -> None:
    same = maps(0)
    loss = distillation_loss(Distillation(), SMALL, same, same, torch.eye(4).repeat(1, 6, 1, 1))
    assert float(loss) == pytest.approx(0.0, abs=1e-12)


def test_bad_input() -> None:
    with pytest.raises(QdbevError, match="differs from the student 'tiny' in name"):
        require_same_architecture(VARIANTS["micro"], VARIANTS["tiny"])
    with pytest.raises(QdbevError, match="temperature 0"):
        Distillation(temperature=0)
    with pytest.raises(QdbevError, match="one of vgd, cwd-img, cwd-bev"):
        Distillation("other")  # type: ignore[arg-type]
