"""The frames on which a file is proved: two scenes of a nuScenes data root, or of a synthetic one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.streaming import EgoState

if TYPE_CHECKING:
    from qdbev_deploy.data.nuscenes import Frame

PARITY_FRAMES = 20


@dataclass(frozen=True)
class StreamFrame:
    """One frame as the streaming graph takes it; the session adds the state."""

    image: npt.NDArray[Any]  # as the exported graph's input asks: float32 network input, or uint8 native frames
    lidar2img: npt.NDArray[np.float32]  # [1, 6, 4, 4], to the resized image
    ego: EgoState
    scene: str
    origin: Frame | None = None  # where it comes from a data set,
    nusc: Any = None  # with that data set, which knows its ground truth


@contextmanager
def parity_frames(
    spec: VariantSpec, image: str, dataroot: str | os.PathLike[str] | None, count: int = PARITY_FRAMES
) -> Iterator[tuple[str, Iterator[StreamFrame]]]:
    """(what the frames are, the frames), half of them from one scene and half from another, so that the state resets.

    `image` as in `contract.stream_inputs`. Without a data root a synthetic nuScenes of two scenes is drawn into a
    temporary folder.
    """
    if dataroot is not None:
        yield f"two scenes of {Path(dataroot).name}", _frames(spec, image, dataroot, count)
        return
    from qdbev_deploy.data.synth.write import synthesise

    with tempfile.TemporaryDirectory(prefix="qdbev-parity-") as folder:
        root = Path(folder) / "synthetic"
        # One process: a caller's script without a main guard would be run again by every other one.
        synthesise(root, scenes=2, frames=max((count + 1) // 2, 2), sweeps="none", workers=1)
        yield "two scenes of a synthetic nuScenes", _frames(spec, image, root, count)


def _frames(spec: VariantSpec, image_form: str, dataroot: str | os.PathLike[str], count: int) -> Iterator[StreamFrame]:
    from qdbev_deploy.data.nuscenes import NuScenesSequences

    sequences = NuScenesSequences(dataroot)
    names = sequences.scene_names[:2]
    scenes = sequences.scenes(names)
    if len(scenes) < 2 or sum(len(scene.frames) for scene in scenes) < count:
        raise QdbevError(
            f"{dataroot} holds {len(scenes)} of the two scenes that parity needs, "
            f"with {sum(len(scene.frames) for scene in scenes)} key frames",
            f"two scenes with {count} key frames together, so that the state is carried and dropped",
            "leave --dataroot out to prove it on a synthetic drive",
        )
    first = max(count // 2, count - len(scenes[1].frames))
    chosen = [*scenes[0].frames[:first], *scenes[1].frames]
    for frame in chosen[:count]:
        yield stream_frame(frame, spec, image_form, sequences.nusc)


def stream_frame(frame: Frame, spec: VariantSpec, image_form: str, nusc: Any = None) -> StreamFrame:
    """A frame of a data set with its pictures, in the form that the graph's image input asks for."""
    native = native_images(frame)
    if native.shape[1:3] != spec.preprocess.source_hw:
        raise QdbevError(
            f"frames of {native.shape[1]}x{native.shape[2]} pixels in {frame.image_paths[0].parent}",
            f"{spec.preprocess.source_hw[0]}x{spec.preprocess.source_hw[1]}, which variant '{spec.name}' takes",
            "use the images as nuScenes ships them",
        )
    return with_images(frame, native, frame.lidar2img, spec, image_form, nusc)


def native_images(frame: Frame) -> npt.NDArray[np.uint8]:
    """The six pictures as they lie in the data set."""
    from qdbev_deploy.data.preprocess import read_image

    return np.stack([read_image(path) for path in frame.image_paths])


def with_images(
    frame: Frame, native: npt.NDArray[np.uint8], lidar2img: npt.NDArray[Any], spec: VariantSpec, image_form: str,
    nusc: Any = None,
) -> StreamFrame:  # fmt: skip
    """The frame with pictures of the size that the variant takes, and the projection into them."""
    from qdbev_deploy.data.preprocess import preprocess, scale_lidar2img

    image = native if image_form == "uint8" else preprocess(native, spec.preprocess)
    return StreamFrame(
        image[None], scale_lidar2img(lidar2img, spec.preprocess)[None], frame.ego, frame.scene, frame, nusc
    )
