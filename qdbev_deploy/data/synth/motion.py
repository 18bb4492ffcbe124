"""How the ego car drives, the road under it, and paths for everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STEP_S = 1 / 240
MARGIN_S = 1.5  # simulated before the first and after the last key frame
MAX_YAW_RATE = np.radians(30.0)
SCENARIOS = ("straight", "turn left", "stopping", "turn right", "winding", "waiting", "starting")


@dataclass(frozen=True)
class Track:
    """A trajectory on a fixed grid of time, in the global frame."""

    time_s: Array  # [n]
    xy: Array  # [n, 2]
    yaw: Array  # [n], unwrapped

    def at(self, time_s: float) -> tuple[float, float, float]:
        x, y = (float(np.interp(time_s, self.time_s, self.xy[:, axis])) for axis in (0, 1))
        return x, y, float(np.interp(time_s, self.time_s, self.yaw))

    def velocity(self, time_s: float, window_s: float = 0.1) -> Array:
        """Centred difference, m/s, global."""
        after, before = self.at(time_s + window_s / 2), self.at(time_s - window_s / 2)
        metres: Array = np.array(after[:2]) - np.array(before[:2])
        return metres / window_s

    def shifted(self, offset: Array) -> Track:
        return Track(self.time_s, self.xy + offset, self.yaw)


def _bump(time_s: Array, centre: float, width: float) -> Array:
    """A smooth hill of height 1 over `width` seconds."""
    phase = np.clip((time_s - centre) / width + 0.5, 0, 1)
    hill: Array = np.sin(np.pi * phase) ** 2
    return hill


def _ramp(time_s: Array, start: float, width: float) -> Array:
    """A smooth step from 0 to 1."""
    phase = np.clip((time_s - start) / width, 0, 1)
    step: Array = phase * phase * (3 - 2 * phase)
    return step


def _integrate(time_s: Array, speed: Array, yaw_rate: Array, yaw0: float) -> Track:
    def cumulate(rate: Array) -> Array:
        return np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(time_s))])

    yaw = yaw0 + cumulate(yaw_rate)
    return Track(time_s, np.stack([cumulate(speed * np.cos(yaw)), cumulate(speed * np.sin(yaw))], axis=1), yaw)


def ego_track(scenario: str, duration_s: float, rng: np.random.Generator) -> Track:
    """The ego car's drive, beginning near the origin in a random direction."""
    time_s = np.arange(-MARGIN_S, duration_s + MARGIN_S, STEP_S)
    cruise = rng.uniform(7.0, 11.0)
    speed = np.full_like(time_s, cruise)
    yaw_rate = np.zeros_like(time_s)
    middle = duration_s * rng.uniform(0.42, 0.58)
    if scenario.startswith("turn"):
        width = float(np.clip(duration_s * 0.8, 1.0, 6.0))
        peak = MAX_YAW_RATE * rng.uniform(0.85, 1.0)
        yaw_rate = (1 if scenario.endswith("left") else -1) * peak * _bump(time_s, middle, width)
        slow = rng.uniform(4.5, 6.0)
        speed = cruise + (slow - cruise) * _bump(time_s, middle, 2 * width) ** 0.5
    elif scenario == "stopping":
        braking = min(3.5, duration_s * 0.5)
        start = duration_s * 0.2
        speed = cruise * (1 - _ramp(time_s, start, braking))
        speed += cruise * 0.6 * _ramp(time_s, max(duration_s * 0.8, start + braking + 1.0), 3.0)
    elif scenario == "winding":
        yaw_rate = np.radians(rng.uniform(6.0, 12.0)) * np.sin(2 * np.pi * time_s / rng.uniform(6.0, 9.0))
    elif scenario == "waiting":
        speed = np.zeros_like(time_s)
    elif scenario == "starting":
        speed = cruise * _ramp(time_s, duration_s * 0.25, 4.0)
    # A driver is never perfectly steady.
    yaw_rate = yaw_rate + np.radians(0.4) * np.sin(2 * np.pi * time_s / 5.3 + rng.uniform(0, 6)) * (speed > 0.5)
    return _integrate(time_s, speed, np.clip(yaw_rate, -MAX_YAW_RATE, MAX_YAW_RATE), rng.uniform(0, 2 * np.pi))


class Road:
    """The lane the ego car drives in, extended straight at both ends; s runs along it in metres, 0 at time 0."""

    EXTENSION_M = 130.0

    def __init__(self, ego: Track) -> None:
        step = np.hypot(*np.diff(ego.xy, axis=0).T)
        moving = np.concatenate([[True], step > 1e-6])
        xy, yaw = ego.xy[moving], ego.yaw[moving]
        length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))]) if len(xy) > 1 else np.zeros(1)
        head = np.array([np.cos(yaw[0]), np.sin(yaw[0])])
        tail = np.array([np.cos(yaw[-1]), np.sin(yaw[-1])])
        self.start = (xy[0], float(yaw[0]))
        self.end = (xy[-1], float(yaw[-1]))
        self._xy = np.concatenate([[xy[0] - head * self.EXTENSION_M], xy, [xy[-1] + tail * self.EXTENSION_M]])
        self._yaw = np.concatenate([[yaw[0]], yaw, [yaw[-1]]])
        all_s = np.concatenate([[-self.EXTENSION_M], length, [length[-1] + self.EXTENSION_M]])
        at_zero = np.searchsorted(ego.time_s, 0.0)
        travelled = np.concatenate([[0.0], np.cumsum(step)])
        self._s = all_s - travelled[at_zero]
        self.ego_s = (ego.time_s, travelled - travelled[at_zero])

    @property
    def s_range(self) -> tuple[float, float]:
        return float(self._s[0]), float(self._s[-1])

    def point(self, s: Array, left_m: float | Array = 0.0) -> tuple[Array, Array]:
        """Points [n, 2] and headings [n] at s along the road and `left_m` to the left of the ego lane's middle."""
        x, y, yaw = (np.interp(s, self._s, column) for column in (self._xy[:, 0], self._xy[:, 1], self._yaw))
        return np.stack([x - np.sin(yaw) * left_m, y + np.cos(yaw) * left_m], axis=-1), yaw

    def moved(self, offset: Array) -> None:
        """Shift the whole road."""
        self._xy = self._xy + offset
        self.start = (self.start[0] + offset, self.start[1])
        self.end = (self.end[0] + offset, self.end[1])


def speed_profile(time_s: Array, speed: float, rng: np.random.Generator) -> Array:
    """Metres along a path over time: steady, braking to a stop, or starting from one."""
    mode = rng.choice(["steady", "steady", "stops", "starts"])
    rate: Callable[[Array], Array] = {
        "steady": lambda t: np.ones_like(t),
        "stops": lambda t: 1 - _ramp(t, rng.uniform(0.5, 4.0), 3.0),
        "starts": lambda t: _ramp(t, rng.uniform(0.5, 4.0), 3.0),
    }[str(mode)]
    values = speed * rate(time_s)
    distance = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2 * np.diff(time_s))])
    from_zero: Array = distance - np.interp(0.0, time_s, distance)
    return from_zero


def along_road(road: Road, time_s: Array, s: Array, left_m: float, forward: bool) -> Track:
    """Something that follows a lane."""
    xy, yaw = road.point(s, left_m)
    return Track(time_s, xy, yaw if forward else yaw + np.pi)


def straight(time_s: Array, xy: Array, yaw: float, distance: Array) -> Track:
    """Something that goes straight on."""
    direction = np.array([np.cos(yaw), np.sin(yaw)])
    return Track(time_s, xy + distance[:, None] * direction, np.full(len(time_s), yaw))


def circling(time_s: Array, xy: Array, yaw: float, speed: float, yaw_rate: float) -> Track:
    """Something that turns steadily."""
    track = _integrate(time_s, np.full_like(time_s, speed), np.full_like(time_s, yaw_rate), yaw)
    at_zero = np.array([np.interp(0.0, time_s, track.xy[:, axis]) for axis in (0, 1)])
    return track.shifted(xy - at_zero)


def standing(time_s: Array, xy: Array, yaw: float) -> Track:
    return Track(time_s, np.repeat(xy[None], len(time_s), axis=0), np.full(len(time_s), yaw))
