"""What a camera sees, from far to near, and how much of each object is left uncovered."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.synth.rig import HEIGHT, WIDTH
from qdbev_deploy.data.synth.things import Thing, thing_corners
from qdbev_deploy.data.synth.view import NEAR_M, View, fixed, project, to_camera

Array = npt.NDArray[np.float64]

_VISIBILITY_SCALE = 4  # occlusion is counted on images this many times smaller
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]


def seen(things: list[Thing], view: View) -> list[Thing]:
    chosen = []
    for thing in things:
        if np.hypot(*(thing.object2global[:2, 3] - view.position[:2])) > thing.far_m:
            continue
        points = to_camera(thing_corners(thing), view)
        if points[:, 2].max() <= NEAR_M:
            continue
        # Outside if all corners lie beyond one side of the view: exact also for corners behind the camera.
        x = points @ view.intrinsic.T
        beyond = (
            (x[:, 0] < 0).all() or (x[:, 0] > (WIDTH - 1) * x[:, 2]).all() or (x[:, 1] > (HEIGHT - 1) * x[:, 2]).all()
        )
        if not beyond:
            chosen.append(thing)
    return chosen


def far_to_near(things: list[Thing], view: View) -> list[Thing]:
    """The painter's order: footprints are disjoint, so a line between two of them says which hides the other."""
    count = len(things)
    if count < 2:
        return things
    xy = np.array([thing.object2global[:2, 3] for thing in things])
    axis_x = np.array([thing.object2global[:2, 0] for thing in things])
    axes = np.stack([axis_x, np.stack([-axis_x[:, 1], axis_x[:, 0]], axis=1)], axis=1)  # [n, 2, 2]
    half = np.array([[thing.size[1], thing.size[0]] for thing in things]) / 2
    camera = np.einsum("nad,nd->na", axes, view.position[:2] - xy)  # the camera along i's axes
    centre = np.einsum("nad,nmd->nma", axes, xy[None] - xy[:, None])  # j along i's axes
    cross = np.abs(np.einsum("nad,mbd->nmab", axes, axes))
    radius = np.einsum("nmab,mb->nma", cross, half)
    own = half[:, None, :]
    first = np.zeros((count, count), dtype=bool)  # [i, j]: i must be drawn before j
    for sign in (1, -1):
        gap_low, gap_high = own, sign * centre - radius  # i ends at own, j begins at gap_high along sign * axis
        apart = gap_high > gap_low
        place = sign * camera[:, None, :]
        first |= (apart & (place >= gap_high)).any(axis=2)  # the camera is on j's side: j hides i
        first |= (apart & (place <= gap_low)).any(axis=2).T
    both = first & first.T  # neither can hide the other
    return [things[index] for index in sorted_by_cover(first & ~both, np.hypot(*(xy - view.position[:2]).T))]


def sorted_by_cover(first: npt.NDArray[np.bool_], distance: Array) -> list[int]:
    """Indices so that first[i, j] puts i before j; among the free ones the farthest goes first."""
    left = list(np.argsort(-distance, kind="stable"))
    order: list[int] = []
    while left:
        waiting = first[np.ix_(left, left)].any(axis=0)
        # A ring of objects that hide each other has no right order; the farthest is then the least wrong.
        order.append(int(left.pop(int(np.argmin(waiting)))))
    return order


def _outline(thing: Thing, view: View) -> Array:
    """The convex outline of the object's box in pixels."""
    corners = to_camera(thing_corners(thing), view)
    front = corners[:, 2] >= NEAR_M
    points = list(corners[front])
    for a, b in _EDGES:
        if front[a] != front[b]:
            share = (NEAR_M - corners[a, 2]) / (corners[b, 2] - corners[a, 2])
            points.append(corners[a] + share * (corners[b] - corners[a]))
    pixels = np.clip(project(np.array(points), view) / _VISIBILITY_SCALE, -4096, 4096)
    return cv2.convexHull(pixels.astype(np.float32))[:, 0].astype(np.float64)


def visible_shares(order: list[Thing], view: View) -> dict[int, tuple[float, float]]:
    shape = (HEIGHT // _VISIBILITY_SCALE, WIDTH // _VISIBILITY_SCALE)
    owner = np.zeros(shape, dtype=np.int32)
    whole: dict[int, int] = {}
    for thing in order:
        if not thing.solid:
            continue
        outline = fixed(_outline(thing, view))
        if thing.actor >= 0:
            alone = np.zeros(shape, dtype=np.uint8)
            cv2.fillConvexPoly(alone, outline, (1,), cv2.LINE_8, 3)
            whole[thing.actor] = cv2.countNonZero(alone)
        cv2.fillConvexPoly(owner, outline, (thing.actor + 1,), cv2.LINE_8, 3)
    seen = np.bincount(owner.ravel(), minlength=max(whole, default=0) + 2)
    # Pixels of cameras with different focal lengths become comparable.
    weight = 1.0 / float(view.intrinsic[0, 0]) ** 2
    return {actor: (seen[actor + 1] * weight, count * weight) for actor, count in whole.items() if count}
