"""Matching, detection loss and the auxiliary heatmap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from qdbev_deploy.boxes import Boxes
from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.train.dense import BevHead, ImageHead, bumps, heatmap_loss
from qdbev_deploy.train.losses import detection_loss
from qdbev_deploy.train.matching import Targets, assign, focal_parts, targets_of

SPEC = VARIANTS["micro"]
WEIGHTS = torch.tensor([1.0] * 8 + [0.2, 0.2])


def some_targets(count: int = 3) -> Targets:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(count, 10, generator=generator) * torch.tensor([20, 20, 0.3, 0.3, 1, 0.3, 0.7, 0.7, 3, 3])
    return Targets(codes, torch.tensor([0, 8, 3])[:count])


def test_the_assignment_is_the_cheapest_of_all() -> None:
    targets = some_targets()
    generator = torch.Generator().manual_seed(1)
    logits, codes = torch.randn(5, 10, generator=generator), torch.randn(5, 10, generator=generator) * 10
    positive, negative = focal_parts(logits)

    def cost(queries: tuple[int, ...]) -> float:
        return sum(
            2.0 * float((positive - negative)[q, targets.labels[i]])
            + 0.25 * float((codes[q, :8] - targets.codes[i, :8]).abs().sum())
            for i, q in enumerate(queries)
        )

    best = min(itertools.permutations(range(5), 3), key=cost)
    rows, cols = assign(logits, codes, targets)
    assert {int(c): int(r) for r, c in zip(rows, cols)} == dict(enumerate(best))


def test_focal_loss_is_the_formula() -> None:
    logits = torch.tensor([0.0, 3.0, -2.0])
    positive, negative = focal_parts(logits)
    for value, p, n in zip(logits.tolist(), positive.tolist(), negative.tolist()):
        probability = 1 / (1 + math.exp(-value))
        assert p == pytest.approx(-0.25 * (1 - probability) ** 2 * math.log(probability), rel=1e-5)
        assert n == pytest.approx(-0.75 * probability**2 * math.log(1 - probability), rel=1e-5)


def test_a_perfect_prediction_costs_nearly_nothing_and_every_layer_counts() -> None:
    targets = some_targets()
    logits = torch.full((2, 1, 6, 10), -15.0)
    coords = torch.zeros(2, 1, 6, 10)
    for layer in range(2):
        for index in range(3):
            logits[layer, 0, index + layer, targets.labels[index]] = 15.0
            coords[layer, 0, index + layer] = targets.codes[index]
    perfect, _ = detection_loss(logits, coords, targets, WEIGHTS)
    assert float(perfect) < 1e-4
    coords[0, 0, 0, 0] += 4.0  # the first layer's first object, 4 m off in x
    worse, _ = detection_loss(logits, coords, targets, WEIGHTS)
    assert float(worse - perfect) == pytest.approx(0.25 * 4.0 / 3, rel=1e-3)


def test_groups_of_queries_are_matched_apart_and_averaged() -> None:
    targets = some_targets()
    generator = torch.Generator().manual_seed(0)
    logits, coords = torch.randn(2, 3, 6, 10, generator=generator), torch.randn(2, 3, 6, 10, generator=generator)
    alone = [detection_loss(logits[:, [group]], coords[:, [group]], targets, WEIGHTS) for group in range(3)]
    together, parts = detection_loss(logits, coords, targets, WEIGHTS)
    assert float(together) == pytest.approx(sum(float(loss) for loss, _ in alone) / 3, rel=1e-5)
    assert parts == pytest.approx(alone[0][1])  # the log speaks of the model's own queries


def test_unknown_velocity_does_not_count() -> None:
    targets = some_targets(1)
    targets.codes[0, 8:] = float("nan")
    logits, coords = torch.zeros(1, 1, 2, 10), torch.zeros(1, 1, 2, 10, requires_grad=True)
    loss, _ = detection_loss(logits, coords, targets, WEIGHTS)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert coords.grad is not None
    assert not coords.grad[..., 8:].any()
    assert coords.grad[..., :8].any()


def test_no_objects() -> None:
    empty = Targets(torch.zeros(0, 10), torch.zeros(0, dtype=torch.long))
    logits = torch.zeros(1, 1, 4, 10, requires_grad=True)
    loss, _ = detection_loss(logits, torch.zeros(1, 1, 4, 10), empty, WEIGHTS)
    assert float(loss.detach()) == pytest.approx(2.0 * 40 * 0.75 * 0.25 * math.log(2))


def test_objects_outside_the_range_are_left_out() -> None:
    boxes = Boxes(
        center=np.array([[0, 0, 0], [60, 0, 0]], np.float32),
        size=np.ones((2, 3), np.float32),
        yaw=np.zeros(2, np.float32),
        velocity=np.zeros((2, 2), np.float32),
        score=np.ones(2, np.float32),
        label=np.array([4, 5]),
    )
    assert targets_of(boxes, SPEC).labels.tolist() == [4]


def test_every_object_has_its_bump() -> None:
    cells, sigmas = torch.tensor([[3.0, 1.0], [3.0, 2.0], [5.0, 4.0]]), torch.tensor([0.5, 2.0, 0.5])
    maps = bumps(cells, sigmas, torch.tensor([1, 1, 0]), 3, (6, 8))
    assert maps.shape == (3, 6, 8)
    assert maps[1, 1, 3] == maps[1, 2, 3] == maps[0, 4, 5] == 1
    assert int((maps == 1).sum()) == 3
    assert float(maps[1, 1, 4]) == pytest.approx(math.exp(-(1 + 1) / (2 * 4)))  # the wider bump of the two
    assert not maps[2].any()


def perfect_logits(wanted: torch.Tensor) -> torch.Tensor:
    return torch.where(wanted == 1, 15.0, -15.0)


def test_the_heatmap_loss_spares_the_neighbours_of_a_peak() -> None:
    wanted = bumps(torch.tensor([[3.0, 3.0]]), torch.tensor([1.0]), torch.tensor([0]), 1, (8, 8))
    assert float(heatmap_loss(perfect_logits(wanted), wanted)) < 1e-4
    near, far = perfect_logits(wanted), perfect_logits(wanted)
    near[0, 3, 4] = far[0, 7, 7] = 3.0
    assert 0.01 < float(heatmap_loss(near, wanted)) < 0.1 * float(heatmap_loss(far, wanted))


def fixed(head: BevHead | ImageHead, outputs: torch.Tensor) -> None:
    """Let the head say this, whatever it sees."""
    head.layers.forward = lambda x: outputs  # type: ignore[method-assign]


def test_a_bev_cell_says_the_box_whose_centre_it_holds() -> None:
    targets, head = some_targets(1), BevHead(SPEC)
    targets.codes[0, :2] = torch.tensor([10.5, -20.0])
    targets.codes[0, 8:] = float("nan")
    column, row = int((10.5 + 51.2) / 2.048), int((-20.0 + 51.2) / 2.048)
    outputs = torch.full((SPEC.bev_cells, 20), -15.0)
    cell = outputs[row * 50 + column]
    cell[int(targets.labels[0])] = 15.0
    cell[10:] = targets.codes[0]
    cell[10] = 10.5 - ((column + 0.5) * 2.048 - 51.2)  # x and y count from the middle of the cell
    cell[11] = -20.0 - ((row + 0.5) * 2.048 - 51.2)
    cell[18:] = 7.0  # velocity is not known, so anything will do
    fixed(head, outputs)
    bev = torch.zeros(SPEC.bev_cells, 1, SPEC.embed_dim)
    assert float(head.loss(bev, targets, WEIGHTS)) == pytest.approx(0.0, abs=1e-3)
    cell[10] += 0.5
    cell[14] -= 2.0
    assert float(head.loss(bev, targets, WEIGHTS)) == pytest.approx(0.25 * 2.5, abs=1e-3)


def looking_ahead() -> torch.Tensor:
    """A camera at the origin that looks along y, focal length 160 pixels, beside five that see nothing."""
    camera = torch.tensor([[160.0, 160, 0, 0], [0, 96, -160, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    blind = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, -1], [0, 0, 0, 1]])
    return torch.stack([blind, camera, blind, blind, blind, blind])[None]


def test_an_image_token_says_how_far_its_object_is() -> None:
    targets, head = some_targets(3), ImageHead(SPEC)
    # Seen right of the middle; behind the camera; beyond the border.
    targets.codes[:, [0, 1, 4]] = torch.tensor([[2.5, 20.0, 0.0], [0.0, -20.0, 0.0], [40.0, 20.0, 0.0]])
    height, width = SPEC.feature_hws[0]
    outputs = torch.full((6, height, width, 16), -15.0)
    token = outputs[1, 6, 11]  # pixel (180, 96), where tokens have 16 pixels
    token[int(targets.labels[0])] = 15.0
    token[10:] = torch.tensor([180 / 16 - 11.5, 96 / 16 - 6.5, math.log(20.0), *targets.codes[0, [2, 3, 5]]])
    fixed(head, outputs)
    features = torch.zeros(1, 6, SPEC.embed_dim, height, width)
    assert float(head.loss(features, targets, looking_ahead())) == pytest.approx(0.0, abs=1e-3)
    token[12] += 1.0
    assert float(head.loss(features, targets, looking_ahead())) == pytest.approx(0.25, abs=1e-3)


def test_what_the_heads_say_can_be_learned() -> None:
    torch.manual_seed(0)
    targets = some_targets()
    targets.codes[:, 1] = targets.codes[:, 1].abs() + 15.0
    bev_head, image_head = BevHead(SPEC), ImageHead(SPEC)
    bev = torch.randn(SPEC.bev_cells, 1, SPEC.embed_dim, requires_grad=True)
    features = torch.randn(1, 6, SPEC.embed_dim, *SPEC.feature_hws[0], requires_grad=True)
    for head, inputs, last in ((bev_head, bev, WEIGHTS), (image_head, features, looking_ahead())):
        optimizer = torch.optim.Adam([inputs, *head.parameters()], lr=0.05)
        first = float(head.loss(inputs, targets, last).detach())  # type: ignore[operator]
        for _ in range(60):
            optimizer.zero_grad()
            loss = head.loss(inputs, targets, last)  # type: ignore[operator]
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.1 * first


def test_frames_without_objects_are_told_so() -> None:
    empty = Targets(torch.zeros(0, 10), torch.zeros(0, dtype=torch.long))
    features = torch.zeros(1, 6, SPEC.embed_dim, *SPEC.feature_hws[0])
    bev = torch.zeros(SPEC.bev_cells, 1, SPEC.embed_dim)
    for loss in (
        BevHead(SPEC).loss(bev, empty, WEIGHTS),
        ImageHead(SPEC).loss(features, empty, looking_ahead()),
    ):
        assert 0 < float(loss.detach()) < 1000
