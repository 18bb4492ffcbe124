"""Matching, detection loss and the auxiliary heatmap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from qdbev_deploy.boxes import Boxes
from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.train.dense import DenseHead, heatmap
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


def test_every_object_has_its_peak() -> None:
    targets = some_targets()
    maps = heatmap(targets, SPEC)
    assert maps.shape == (10, 50, 50)
    for code, label in zip(targets.codes, targets.labels):
        column = int((float(code[0]) + 51.2) / 102.4 * 50)
        row = int((float(code[1]) + 51.2) / 102.4 * 50)
        assert maps[label, row, column] == 1
    assert int((maps == 1).sum()) == 3


def test_the_heatmap_can_be_learned() -> None:
    torch.manual_seed(0)
    targets, dense = some_targets(), DenseHead(SPEC)
    bev = torch.randn(SPEC.bev_cells, 1, SPEC.embed_dim, requires_grad=True)
    optimizer = torch.optim.Adam([bev, *dense.parameters()], lr=0.05)
    first = float(dense.loss(bev, targets).detach())
    for _ in range(40):
        optimizer.zero_grad()
        loss = dense.loss(bev, targets)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * first
