"""Frames of noise on a curved drive, for tests that need a stream and no pictures; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.data.preprocess import preprocess, scale_lidar2img
from qdbev_deploy.data.stream_frames import StreamFrame
from qdbev_deploy.data.synth.rig import make_rig
from qdbev_deploy.streaming import EgoState


def frames(spec: VariantSpec, image_form: str = "float32", count: int = 20) -> Iterator[StreamFrame]:
    """What a nuScenes rig would see; the second half is another scene. `image_form` as in `contract.stream_inputs`."""
    rng = np.random.default_rng(0)
    rig = make_rig(rng)
    native = []
    for camera in rig.cameras:
        matrix = np.eye(4)
        matrix[:3, :3] = camera.intrinsic
        matrix[:2] *= spec.preprocess.source_hw[1] / 1600  # the rig sees 1600 pixels, our frames may be smaller
        native.append(matrix @ np.linalg.inv(camera.cam2ego) @ rig.lidar2ego)
    lidar2img = scale_lidar2img(np.stack(native), spec.preprocess)[None]
    for index in range(count):
        pixels = rng.integers(0, 256, (6, *spec.preprocess.source_hw, 3), dtype=np.uint8)
        image = pixels if image_form == "uint8" else preprocess(pixels, spec.preprocess)
        yaw = 0.3 + 0.02 * index
        ego = EgoState(
            1_000_000 + 500_000 * index,
            (100.0 + 4 * index, 50.0 + 0.3 * index**2, 0.0),
            (float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))),
        )
        yield StreamFrame(image[None], lidar2img, ego, "first" if index < count // 2 else "second")
