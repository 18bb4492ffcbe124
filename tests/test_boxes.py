"""Boxes and their codes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from qdbev_deploy.boxes import Boxes, decode, encode, network_rotation
from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.errors import QdbevError

SPEC = dataclasses.replace(VARIANTS["micro"], queries=5, max_boxes=5)


def some_boxes() -> Boxes:
    rng = np.random.default_rng(0)
    return Boxes(
        center=rng.uniform(-5, 5, (5, 3)).astype(np.float32),
        size=rng.uniform(0.3, 10, (5, 3)).astype(np.float32),
        yaw=rng.uniform(-np.pi, np.pi, 5).astype(np.float32),
        velocity=rng.normal(0, 5, (5, 2)).astype(np.float32),
        score=np.ones(5, dtype=np.float32),
        label=np.arange(5),
    )


def test_decoding_inverts_encoding() -> None:
    boxes = some_boxes()
    logits = np.full((5, 10), -20.0, dtype=np.float32)
    logits[np.arange(5), boxes.label] = np.arange(5, 0, -1)  # falling scores keep the order
    decoded = decode(logits, encode(boxes), SPEC)
    np.testing.assert_array_equal(decoded.label, boxes.label)
    for field in ("center", "size", "velocity"):
        np.testing.assert_allclose(getattr(decoded, field), getattr(boxes, field), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.cos(decoded.yaw - boxes.yaw), 1, atol=1e-6)


def test_rotation_convention() -> None:
    # An object that points along the x axis (yaw 0) has the network's angle -90 degrees, and back.
    assert network_rotation(np.float32([0.0]))[0] == pytest.approx(-np.pi / 2)
    yaw = np.linspace(-3, 3, 50, dtype=np.float32)
    np.testing.assert_allclose(network_rotation(network_rotation(yaw)), yaw, atol=1e-5)


def test_equal_scores_keep_the_order_of_queries_and_classes() -> None:
    decoded = decode(np.zeros((5, 10), np.float32), np.zeros((5, 10), np.float32), SPEC)
    np.testing.assert_array_equal(decoded.label, [0, 1, 2, 3, 4])  # all of query 0


def test_boxes_that_are_not_finite_are_dropped() -> None:
    coords = np.zeros((5, 10), np.float32)
    coords[0, 2] = 1000.0  # exp overflows
    coords[1, 8] = np.nan
    logits = np.full((5, 10), -20.0, np.float32)
    logits[:, 0] = [5, 4, 3, 2, 1]
    decoded = decode(logits, coords, SPEC)
    np.testing.assert_allclose(decoded.score, 1 / (1 + np.exp(-np.float32([3, 2, 1]))), rtol=1e-6)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(QdbevError, match=r"\(4, 10\).*\(5, 10\)"):
        decode(np.zeros((4, 10), np.float32), np.zeros((4, 10), np.float32), SPEC)


def test_indexing_keeps_the_fields_together() -> None:
    boxes = some_boxes()
    picked = boxes[boxes.label > 2]
    assert len(picked) == 2
    np.testing.assert_array_equal(picked.center, boxes.center[3:])
