"""Which frames to calibrate on: sequences as they are driven, not frames drawn one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from qdbev_deploy.data.nuscenes import Frame, Scene
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.streaming import wrapped_degrees


def choose_rollouts(scenes: Sequence[Scene], frames: int) -> list[tuple[Frame, ...]]:
    """Beginnings of scenes that together have `frames` frames, turning and straight drives in turn.

    Activations drift along a sequence: a first frame has no past, a turn rotates it. Frames drawn one by one would show
    the network a distribution that it never meets on the road. What counts as turning is what is taken of a scene.
    """
    if frames < 1 or not scenes:
        raise QdbevError(f"{frames} frames of {len(scenes)} scenes", "at least one of each", "pass another --frames")
    length = max(min(frames, 8), math.ceil(frames / len(scenes)))
    by_turning = sorted(scenes, key=lambda scene: _turning_deg(scene.frames[:length]))
    order = []
    while by_turning:
        order.append(by_turning.pop())  # the one that turns most of those left
        if by_turning:
            order.append(by_turning.pop(0))
    rollouts: list[tuple[Frame, ...]] = []
    left = frames
    for scene in order:
        if left <= 0:
            break
        rollouts.append(scene.frames[: min(length, left)])
        left -= len(rollouts[-1])
    return rollouts


def _turning_deg(frames: Sequence[Frame]) -> float:
    yaws = [frame.ego.yaw for frame in frames]
    return sum(abs(wrapped_degrees(math.degrees(b - a))) for a, b in itertools.pairwise(yaws))
