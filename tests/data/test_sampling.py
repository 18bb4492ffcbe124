"""Sequences for training and calibration."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qdbev_deploy.data.nuscenes import Frame, Scene
from qdbev_deploy.data.sampling import FrameQueue, SequenceSampler
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.streaming import EgoState


def scene(name: str, count: int) -> Scene:
    ego = EgoState(0, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
    frames = [
        Frame(f"{name}/{index}", name, index, True, ego, (Path(),) * 6, np.zeros((6, 4, 4)), np.eye(4), np.eye(4), "")
        for index in range(count)
    ]
    return Scene(name, name, tuple(frames))


SCENES = [scene("a", 5), scene("b", 3), scene("c", 9)]


def names(queues: list[FrameQueue]) -> list[list[str]]:
    return [[frame.token for frame in queue.frames] for queue in queues]


def test_every_frame_is_the_target_once_and_scenes_never_mix() -> None:
    queues = list(SequenceSampler(SCENES, length=4))
    assert Counter(queue.target.token for queue in queues) == Counter(frame.token for s in SCENES for frame in s.frames)
    for queue in queues:
        assert len({frame.scene for frame in queue.frames}) == 1
        last = queue.target.index
        assert [frame.index for frame in queue.frames] == list(range(max(0, last - 3), last + 1))
        assert queue.starts_scene == (last < 4)


def test_without_first_frames_all_queues_are_full() -> None:
    queues = list(SequenceSampler(SCENES, length=4, first_frames=False))
    assert {len(queue.frames) for queue in queues} == {4}
    assert len(queues) == 2 + 0 + 6


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first, second = SequenceSampler(SCENES, seed=1), SequenceSampler(SCENES, seed=1)
    assert names(list(first)) == names(list(second)) == names(list(first))
    second.set_epoch(1)
    assert names(list(first)) != names(list(second))
    assert names(list(first)) != names(list(SequenceSampler(SCENES, seed=2)))
    unshuffled = names(list(SequenceSampler(SCENES, shuffle=False)))
    assert unshuffled[0] == ["a/0"]
    assert unshuffled == sorted(unshuffled, key=lambda queue: queue[-1])


def test_ranks_share_the_work() -> None:
    shares = [list(SequenceSampler(SCENES, seed=1, rank=rank, ranks=4)) for rank in range(4)]
    assert {len(share) for share in shares} == {5} == {len(SequenceSampler(SCENES, ranks=4))}
    targets = Counter(queue.target.token for share in shares for queue in share)
    assert len(targets) == 17
    assert sum(targets.values()) == 20


def test_calibration_queues_cover_scenes_and_a_beginning() -> None:
    chosen = SequenceSampler(SCENES, length=3, seed=5).choose(6)
    assert Counter(queue.target.scene for queue in chosen) == {"a": 2, "b": 2, "c": 2}
    assert any(queue.starts_scene for queue in chosen)
    assert names(chosen) == names(SequenceSampler(SCENES, length=3, seed=5).choose(6))
    assert len({queue.target.token for queue in SequenceSampler(SCENES).choose(17)}) == 17


def test_refusals() -> None:
    with pytest.raises(QdbevError, match="queues of 0 frames"):
        SequenceSampler(SCENES, length=0)
    with pytest.raises(QdbevError, match="no queue of 10 frames in 3 scenes"):
        SequenceSampler(SCENES, length=10, first_frames=False)
    with pytest.raises(QdbevError, match="18 calibration queues"):
        SequenceSampler(SCENES).choose(18)
    with pytest.raises(QdbevError, match="rank 2 of 2"):
        SequenceSampler(SCENES, rank=2, ranks=2)
