"""What a stream carries from frame to frame: ego motion, the previous BEV, and when to forget it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from qdbev_deploy.contract import CAN_BUS_SIZE
from qdbev_deploy.errors import QdbevError

Vector3 = tuple[float, float, float]

MAX_GAP_S = 2.0  # between two frames; after a longer one the past is forgotten


@dataclass(frozen=True)
class EgoState:
    """Where the car was when a frame was taken. The pose is ego to global; the rest is the CAN bus' pose message."""

    timestamp_us: int
    translation: Vector3  # metres, global
    rotation: tuple[float, float, float, float]  # unit quaternion w, x, y, z
    acceleration: Vector3 = (0.0, 0.0, 0.0)  # ego frame, m/s^2
    rotation_rate: Vector3 = (0.0, 0.0, 0.0)  # ego frame, rad/s
    velocity: Vector3 = (0.0, 0.0, 0.0)  # ego frame, m/s

    def __post_init__(self) -> None:
        numbers = (*self.translation, *self.rotation, *self.acceleration, *self.rotation_rate, *self.velocity)
        if not all(map(math.isfinite, numbers)):
            raise QdbevError(
                f"an ego state at {self.timestamp_us} us with a number that is not finite",
                "finite pose and motion",
                "drop the frame, or repair its source",
            )
        norm = math.sqrt(sum(part * part for part in self.rotation))
        if abs(norm - 1.0) > 1e-3:
            raise QdbevError(
                f"an ego rotation quaternion {self.rotation} of norm {norm:.4f}",
                "a unit quaternion, w first",
                "normalise it, and check that its order is w, x, y, z",
            )

    @property
    def yaw(self) -> float:
        """Heading in the global frame, radians in [0, 2 pi): the range the CAN bus input was trained with."""
        w, x, y, z = self.rotation
        return math.atan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z) % (2 * math.pi)


def wrapped_degrees(angle: float) -> float:
    """The same angle in [-180, 180)."""
    return (angle + 180.0) % 360.0 - 180.0


def can_bus_vector(current: EgoState, previous: EgoState | None) -> npt.NDArray[np.float32]:
    """The `can_bus` input: motion since `previous`, or none at all on a first frame.

    [0:3] translation since the previous frame (global axes), [3:7] quaternion, [7:10] acceleration, [10:13] rotation
    rate, [13:16] velocity, [16] yaw in radians, [17] yaw since the previous frame in degrees, wrapped.
    """
    before = current if previous is None else previous
    # In double precision: global coordinates reach thousands of metres.
    delta = [now - then for now, then in zip(current.translation, before.translation)]
    yaw_delta_deg = wrapped_degrees(math.degrees(current.yaw - before.yaw))
    with np.errstate(over="ignore"):  # is told below
        vector = np.array(
            [*delta, *current.rotation, *current.acceleration, *current.rotation_rate, *current.velocity,
             current.yaw, yaw_delta_deg], dtype=np.float32)  # fmt: skip
    assert vector.shape == (CAN_BUS_SIZE,)
    if not np.isfinite(vector).all():
        raise QdbevError(
            f"ego motion at {current.timestamp_us} us beyond single precision",
            "metres and seconds of a car",
            "drop the frame, or repair its source",
        )
    return vector


Bev = TypeVar("Bev")
Tensor = TypeVar("Tensor")

# (images, prev_bev, use_prev_bev, can_bus, lidar2img) -> (bev_embed, classes, coords). `prev_bev` is None until there
# is one; the step then supplies any buffer of the right shape, since use_prev_bev is 0. Arrays are the backend's own.
Step = Callable[[Any, Any, bool, npt.NDArray[np.float32], npt.NDArray[np.float32]], tuple[Any, Any, Any]]


@dataclass(frozen=True)
class StreamOutput(Generic[Bev, Tensor]):
    """What one step gave, and whether it began a sequence anew."""

    bev_embed: Bev
    classes: Tensor
    coords: Tensor
    can_bus: npt.NDArray[np.float32]
    reset: bool
    reset_reason: str  # "" where the state was carried over


class StreamingSession:
    """Feeds a step function frame by frame and keeps what must be kept between frames.

    The state is dropped on the first frame, when `scene` changes, when more than `max_gap_s` passed since the last
    frame, and after `reset()`. Time must move forward within a scene: a frame from the past is refused and the state
    stays as it was. A step that raises leaves the state as it was, too.
    """

    def __init__(self, step: Step, *, max_gap_s: float = MAX_GAP_S) -> None:
        if not max_gap_s > 0:
            raise QdbevError(f"max_gap_s {max_gap_s}", "a positive number of seconds", "pass another max_gap_s")
        self._step = step
        self._max_gap_s = max_gap_s
        self._scene: str | None = None
        self._ego: EgoState | None = None
        self._prev_bev: Any = None

    def reset(self) -> None:
        """Forget the past: the next frame is a first frame."""
        self._scene = self._ego = self._prev_bev = None

    def _reset_reason(self, ego: EgoState, scene: str) -> str:
        if self._ego is None:
            return "first frame"
        if scene != self._scene:
            return "new scene"
        gap_s = (ego.timestamp_us - self._ego.timestamp_us) / 1e6
        if gap_s <= 0:
            raise QdbevError(
                f"a frame {-gap_s:.3f} s before or at the time of the last one in scene '{scene}'",
                "frames in the order of time",
                "sort the frames, or call reset() where a stream starts again",
            )
        return f"gap of {gap_s:.2f} s" if gap_s > self._max_gap_s else ""

    def step(
        self, images: Any, lidar2img: npt.NDArray[np.float32], ego: EgoState, scene: str
    ) -> StreamOutput[Any, Any]:
        """Run one frame. `images` and `lidar2img` as in the contract; `scene` is any name that tells scenes apart."""
        reason = self._reset_reason(ego, scene)
        can_bus = can_bus_vector(ego, None if reason else self._ego)
        prev_bev = None if reason else self._prev_bev
        bev_embed, classes, coords = self._step(images, prev_bev, not reason, can_bus, lidar2img)
        self._scene, self._ego, self._prev_bev = scene, ego, bev_embed
        return StreamOutput(bev_embed, classes, coords, can_bus, bool(reason), reason)
