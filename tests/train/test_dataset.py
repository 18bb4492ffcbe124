"""Training samples: by number, cached, mirrored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qdbev_deploy.contract import CAMERAS, VARIANTS
from qdbev_deploy.data.nuscenes import NuScenesSequences
from qdbev_deploy.model.head import ego_shift
from qdbev_deploy.streaming import can_bus_vector
from qdbev_deploy.train.dataset import QueueDataset, mirror_boxes, mirror_ego, mirror_images

SPEC = VARIANTS["micro"]


@pytest.fixture(scope="module")
def source(synthetic_dataroot: Path) -> NuScenesSequences:
    return NuScenesSequences(synthetic_dataroot)


def dataset(source: NuScenesSequences, **options: object) -> QueueDataset:
    return QueueDataset(source, source.scenes(), SPEC, length=2, seed=3, **options)  # type: ignore[arg-type]


def test_a_number_is_always_the_same_sample(source: NuScenesSequences) -> None:
    first, second = dataset(source), dataset(source, cache_gib=0.0)
    for number in (5, 1, 5):
        ours, theirs = first.sample(number), second.sample(number)
        assert torch.equal(ours.targets.codes.nan_to_num(), theirs.targets.codes.nan_to_num())
        for a, b in zip(ours.frames, theirs.frames):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.can_bus, b.can_bus)


def test_an_epoch_has_every_queue_once(source: NuScenesSequences) -> None:
    data = dataset(source)
    epochs = [[data.queue(epoch * len(data) + i).target.token for i in range(len(data))] for epoch in range(2)]
    assert all(len(set(tokens)) == len(data) for tokens in epochs)
    assert epochs[0] != epochs[1]


def test_a_mirrored_world_projects_onto_mirrored_pictures(source: NuScenesSequences) -> None:
    rng = np.random.default_rng(0)
    width, content = 64, 60
    images = rng.random((1, 6, 3, 8, width), dtype=np.float32)
    matrices = rng.normal(size=(1, 6, 4, 4)).astype(np.float32)
    flipped, mirrored = mirror_images(images, matrices, content)
    point = np.array([3.0, 5.0, 1.0, 1.0], np.float32)
    for camera, name in enumerate(CAMERAS):
        sides = {"LEFT": "RIGHT", "RIGHT": "LEFT"}
        other = CAMERAS.index("_".join(sides.get(word, word) for word in name.split("_")))
        u, v, depth = (matrices[0, other] @ point)[:3]
        mirrored_u, mirrored_v, mirrored_depth = (mirrored[0, camera] @ (point * [-1, 1, 1, 1]))[:3]
        assert mirrored_depth == pytest.approx(depth, rel=1e-4)
        assert mirrored_v == pytest.approx(v, rel=1e-4)
        assert mirrored_u / depth == pytest.approx(content - u / depth, rel=1e-3, abs=1e-3)
        np.testing.assert_array_equal(flipped[0, camera, ..., :content], images[0, other, ..., :content][..., ::-1])
        np.testing.assert_array_equal(flipped[0, camera, ..., content:], images[0, other, ..., content:])


def test_a_mirrored_drive_shifts_the_other_way(source: NuScenesSequences) -> None:
    frames = source.scenes()[0].frames
    before, now = frames[0].ego, frames[1].ego
    plain = ego_shift(torch.from_numpy(can_bus_vector(now, before)), SPEC)
    mirrored_bus = can_bus_vector(mirror_ego(now), mirror_ego(before))
    mirrored = ego_shift(torch.from_numpy(mirrored_bus), SPEC)
    assert float(plain[1]) != 0
    torch.testing.assert_close(mirrored, plain * torch.tensor([-1.0, 1.0]), rtol=1e-3, atol=1e-6)
    assert mirrored_bus[-1] == pytest.approx(-can_bus_vector(now, before)[-1], abs=1e-3)


def test_mirroring_twice_is_nothing(source: NuScenesSequences) -> None:
    frame = source.scenes()[0].frames[0]
    boxes = source.ground_truth(frame).boxes
    twice = mirror_boxes(mirror_boxes(boxes))
    np.testing.assert_allclose(twice.center, boxes.center)
    np.testing.assert_allclose(np.cos(twice.yaw - boxes.yaw), 1, atol=1e-6)
    assert mirror_ego(mirror_ego(frame.ego)) == frame.ego
