"""Which scenes are driven for calibration, and how far."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from qdbev_deploy.calibration.rollouts import choose_rollouts


def scene(name: str, yaws_deg: list[float]) -> Any:
    """As much of a scene as choosing looks at."""
    frames = tuple(
        SimpleNamespace(scene=name, index=index, ego=SimpleNamespace(yaw=math.radians(yaw)))
        for index, yaw in enumerate(yaws_deg)
    )
    return SimpleNamespace(name=name, frames=frames)


STRAIGHT, LATE, EARLY = (
    [5.0] * 40,
    [0.0] * 30 + [9.0 * step for step in range(10)],
    [3.0 * min(i, 8) for i in range(40)],
)


def chosen(scenes: list[Any], frames: int) -> list[str]:
    rollouts = choose_rollouts(scenes, frames)
    assert sum(map(len, rollouts)) == frames
    for rollout in rollouts:
        assert [frame.index for frame in rollout] == list(range(len(rollout)))  # each from its scene's first frame
    return [rollout[0].scene for rollout in rollouts]


def test_a_turn_counts_where_it_is_driven() -> None:
    others = [scene(f"straight {index}", STRAIGHT) for index in range(6)]
    scenes = [*others[:3], scene("late", LATE), scene("early", EARLY), *others[3:]]
    # Eight frames of each: the larger turn comes after them, and is as good as none.
    assert chosen(scenes, 8) == ["early"]
    assert chosen(scenes, 64)[0] == "early"


def test_with_frames_to_reach_it_the_larger_turn_comes_first() -> None:
    scenes = [scene("early", EARLY), scene("straight", STRAIGHT), scene("late", LATE)]
    assert chosen(scenes, 120) == ["late", "straight", "early"]


@pytest.mark.parametrize("direction", [1, -1])
def test_a_turn_over_the_end_of_the_circle_is_as_large_as_it_is(direction: int) -> None:
    over = [direction * (176.0 + index if index < 4 else index - 184.0) for index in range(8)]  # 179 to -180: a degree
    assert chosen([scene("over", over), scene("turning", [4.0 * index for index in range(8)])], 8)[0] == "turning"
