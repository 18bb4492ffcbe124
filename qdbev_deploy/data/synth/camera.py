"""Pictures of a world: sky, ground, and objects from far to near."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.geometry import inverse
from qdbev_deploy.data.synth.backdrop import draw_ground, sky
from qdbev_deploy.data.synth.draw import draw_shadow, draw_thing
from qdbev_deploy.data.synth.ground import Ground
from qdbev_deploy.data.synth.order import far_to_near, seen, visible_shares
from qdbev_deploy.data.synth.rig import Camera
from qdbev_deploy.data.synth.things import ego_pose, things_at
from qdbev_deploy.data.synth.view import View
from qdbev_deploy.data.synth.world import World

Image = npt.NDArray[np.uint8]

_SUN = np.array([0.45, 0.35, 0.82]) / np.linalg.norm([0.45, 0.35, 0.82])


@dataclass(frozen=True)
class Picture:
    """An image, and for each actor in it: visible and whole area as solid-angle-like shares."""

    image: Image
    visible: dict[int, tuple[float, float]]


def take_picture(world: World, ground: Ground, camera: Camera, time_s: float, count_visible: bool) -> Picture:
    """What the camera sees at that time."""
    ego2global = ego_pose(world, time_s)
    cam2global = ego2global @ camera.cam2ego
    global2cam = inverse(cam2global)
    view = View(camera.intrinsic, global2cam, cam2global[:3, 3], global2cam[:3, :3] @ _SUN, ego2global)
    image = sky(world, view)
    draw_ground(image, world, ground, view)
    visible = seen(things_at(world, time_s), view)
    order = far_to_near(visible, view)
    if world.weather.name != "night":
        for thing in order:
            draw_shadow(image, thing, view, world)
    for thing in order:
        draw_thing(image, thing, view, world)
    counts = visible_shares(order, view) if count_visible else {}
    # The lens: a real one has no edges sharper than this, and it hides the renderer's stairs.
    return Picture(cv2.GaussianBlur(image, (3, 3), 0.7).astype(np.uint8, copy=False), counts)
