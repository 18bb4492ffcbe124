"""The session: what it carries over, when it forgets, what it refuses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.model import build_model
from qdbev_deploy.streaming import EgoState, StreamingSession, can_bus_vector, wrapped_degrees


def ego(seconds: float, x: float = 0.0, yaw_deg: float = 0.0) -> EgoState:
    half = math.radians(yaw_deg) / 2
    return EgoState(round(seconds * 1e6), (x, 0.0, 0.0), (math.cos(half), 0.0, 0.0, math.sin(half)))


class Recorder:
    """A step that counts frames in its state and remembers what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, bool, np.ndarray]] = []

    def __call__(self, images: Any, prev: Any, use_prev: bool, can_bus: np.ndarray, _: Any) -> tuple[Any, Any, Any]:
        if images == "fail":
            raise RuntimeError("step failed")
        self.calls.append((prev, use_prev, can_bus))
        return (prev or 0) + 1, "classes", "coords"


MATRIX = np.zeros((1, 6, 4, 4), dtype=np.float32)


def test_state_is_carried_and_motion_is_relative() -> None:
    step = Recorder()
    session = StreamingSession(step)
    first = session.step(None, MATRIX, ego(0, 5.0), "a")
    second = session.step(None, MATRIX, ego(0.5, 7.0, 10.0), "a")
    assert (first.reset, first.reset_reason, first.bev_embed) == (True, "first frame", 1)
    assert (second.reset, second.reset_reason, second.bev_embed) == (False, "", 2)
    assert [(prev, use) for prev, use, _ in step.calls] == [(None, False), (1, True)]
    assert step.calls[0][2][0] == 0
    assert step.calls[1][2][0] == 2.0
    assert step.calls[1][2][-1] == pytest.approx(10.0, abs=1e-4)


@pytest.mark.parametrize(
    ("now", "scene", "reason"), [(0.5, "b", "new scene"), (2.6, "a", "gap of 2.60 s"), (-9.0, "b", "new scene")]
)
def test_resets(now: float, scene: str, reason: str) -> None:
    step = Recorder()
    session = StreamingSession(step, max_gap_s=2.0)
    session.step(None, MATRIX, ego(0, 0.0), "a")
    output = session.step(None, MATRIX, ego(now, 50.0, 90.0), scene)
    assert output.reset_reason == reason
    prev, use_prev, can_bus = step.calls[1]
    assert (prev, use_prev) == (None, False)
    assert not can_bus[:3].any()
    assert can_bus[-1] == 0


def test_motion_beyond_single_precision_is_refused_and_forgotten() -> None:
    step = Recorder()
    session = StreamingSession(step)
    session.step(None, MATRIX, ego(0, 0.0), "a")
    wild = dataclasses.replace(ego(0.5, 1.0), acceleration=(1e300, 0.0, 0.0))
    with pytest.raises(QdbevError, match="beyond single precision"):
        session.step(None, MATRIX, wild, "a")
    assert session.step(None, MATRIX, ego(0.5, 2.0), "a").reset is False
    assert len(step.calls) == 2


def test_reset_on_request() -> None:
    session = StreamingSession(Recorder())
    session.step(None, MATRIX, ego(5), "a")
    session.reset()
    assert session.step(None, MATRIX, ego(1), "a").reset_reason == "first frame"


@pytest.mark.parametrize("now", [0.0, -1.0])
def test_time_must_move_forward_and_the_state_survives_a_refusal(now: float) -> None:
    step = Recorder()
    session = StreamingSession(step)
    session.step(None, MATRIX, ego(0), "a")
    with pytest.raises(QdbevError, match="frames in the order of time"):
        session.step(None, MATRIX, ego(now), "a")
    assert session.step(None, MATRIX, ego(0.5), "a").bev_embed == 2


def test_a_failing_step_leaves_the_state() -> None:
    step = Recorder()
    session = StreamingSession(step)
    session.step(None, MATRIX, ego(0, 1.0), "a")
    with pytest.raises(RuntimeError, match="step failed"):
        session.step("fail", MATRIX, ego(0.5, 2.0), "a")
    assert session.step(None, MATRIX, ego(1.0, 4.0), "a").bev_embed == 2
    assert step.calls[-1][2][0] == 3.0  # since the last frame that counted


@pytest.mark.parametrize(
    ("angle", "wrapped"), [(0, 0), (179, 179), (180, -180), (-180, -180), (359, -1), (-359, 1), (725, 5)]
)
def test_wrapping(angle: float, wrapped: float) -> None:
    assert wrapped_degrees(angle) == wrapped


@pytest.mark.parametrize(("before", "now", "delta"), [(359, 1, 2), (1, 359, -2), (170, -170, 20)])
def test_a_turn_across_the_wrap_is_a_small_turn(before: float, now: float, delta: float) -> None:
    assert can_bus_vector(ego(1, yaw_deg=now), ego(0, yaw_deg=before))[-1] == pytest.approx(delta, abs=1e-3)


@pytest.mark.parametrize("bad", [{"rotation": (2.0, 0, 0, 0)}, {"translation": (math.nan, 0, 0)}])
def test_poses_that_cannot_be(bad: dict[str, Any]) -> None:
    fields = {"timestamp_us": 0, "translation": (0, 0, 0), "rotation": (1, 0, 0, 0), **bad}
    with pytest.raises(QdbevError):
        EgoState(**fields)


def test_a_models_session_uses_the_past_only_within_a_scene() -> None:
    spec = VARIANTS["micro"]
    model = build_model(spec, seed=0)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((1, 6, 3, *spec.image_hw), dtype=np.float32)
    matrix = np.tile(np.eye(4, dtype=np.float32), (1, 6, 1, 1))
    session = model.session()
    first = session.step(images, matrix, ego(0), "a")
    second = session.step(images, matrix, ego(0.5), "a")
    again = session.step(images, matrix, ego(1.0), "b")
    assert not np.array_equal(first.classes, second.classes)
    np.testing.assert_array_equal(first.classes, again.classes)
    assert first.classes.shape == (1, 1, spec.queries, 10)
