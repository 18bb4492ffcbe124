"""Queues of frames as training reads them: addressed by number, cached, mirrored at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qdbev_deploy.boxes import Boxes
from qdbev_deploy.contract import CAMERAS, VariantSpec
from qdbev_deploy.data.nuscenes import Frame, NuScenesSequences, Scene
from qdbev_deploy.data.preprocess import load_frame
from qdbev_deploy.data.sampling import FrameQueue, SequenceSampler
from qdbev_deploy.streaming import EgoState, can_bus_vector
from qdbev_deploy.train.matching import Targets, targets_of

Float = npt.NDArray[np.float32]


def _other_side(name: str) -> str:
    return name.replace("LEFT", "RIGHT") if "LEFT" in name else name.replace("RIGHT", "LEFT")


# Which camera's picture stands in each place of a mirrored world.
_MIRRORED_CAMERAS = [CAMERAS.index(_other_side(name)) for name in CAMERAS]


@dataclass(frozen=True)
class TrainFrame:
    """One frame of a queue, as tensors of the streaming contract."""

    images: Tensor  # [1, 6, 3, H, W]
    lidar2img: Tensor  # [1, 6, 4, 4]
    can_bus: Tensor  # [18]
    has_past: bool


@dataclass(frozen=True)
class TrainSample:
    """A queue and the objects of its last frame."""

    frames: tuple[TrainFrame, ...]
    targets: Targets


def mirror_boxes(boxes: Boxes) -> Boxes:
    """The same objects left for right: x changes sign in the LiDAR frame."""
    return replace(
        boxes,
        center=boxes.center * np.array([-1, 1, 1], np.float32),
        yaw=np.float32(np.pi) - boxes.yaw,
        velocity=boxes.velocity * np.array([-1, 1], np.float32),
    )


def mirror_ego(ego: EgoState) -> EgoState:
    """The same drive left for right: global y, yaw and roll change sign."""
    x, y, z = ego.translation
    w, i, j, k = ego.rotation
    ax, ay, az = ego.acceleration
    roll, pitch, yaw = ego.rotation_rate
    vx, vy, vz = ego.velocity
    return EgoState(ego.timestamp_us, (x, -y, z), (w, -i, j, -k), (ax, -ay, az), (-roll, pitch, -yaw), (vx, -vy, vz))


def mirror_images(images: Float, lidar2img: Float, content_width: int) -> tuple[Float, Float]:
    """Flip each image within its content (padding stays at the right), exchange sides, keep the projection true.

    images [1, 6, 3, H, W]; lidar2img [1, 6, 4, 4] -> the same of the mirrored world
    """
    flipped = images.copy()
    flipped[..., :content_width] = images[..., :content_width][..., ::-1]
    flip_u = np.eye(4, dtype=np.float32)
    flip_u[0, 0], flip_u[0, 2] = -1.0, content_width
    flip_x = np.diag(np.array([-1, 1, 1, 1], np.float32))
    matrices = flip_u @ lidar2img @ flip_x
    return flipped[:, _MIRRORED_CAMERAS], matrices[:, _MIRRORED_CAMERAS]


class QueueDataset:
    """Training samples by number: number g is always the same sample, whatever came before it.

    Epochs run through all queues in an order of their own, so that a resumed run needs nothing but its step number.
    """

    def __init__(
        self,
        data: NuScenesSequences,
        scenes: Sequence[Scene],
        spec: VariantSpec,
        *,
        length: int,
        seed: int,
        mirror: bool = True,
        cache_gib: float = 4.0,
    ) -> None:
        self._data, self._spec, self._seed, self._mirror = data, spec, seed, mirror
        self._queues = list(SequenceSampler(scenes, length, shuffle=False))
        self._cache: dict[str, tuple[npt.NDArray[np.float16], Float]] = {}
        self._cache_left = int(cache_gib * 2**30)

    def __len__(self) -> int:
        return len(self._queues)

    def queue(self, number: int) -> FrameQueue:
        epoch, place = divmod(number, len(self._queues))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._queues))
        return self._queues[int(order[place])]

    def sample(self, number: int) -> TrainSample:
        queue = self.queue(number)
        mirror = self._mirror and bool(np.random.default_rng([self._seed, 1, number]).integers(2))
        boxes = self._data.ground_truth(queue.target).boxes
        frames, previous = [], None
        for frame in queue.frames:
            frames.append(self._frame(frame, previous, mirror))
            previous = frame
        return TrainSample(tuple(frames), targets_of(mirror_boxes(boxes) if mirror else boxes, self._spec))

    def _frame(self, frame: Frame, previous: Frame | None, mirror: bool) -> TrainFrame:
        images, lidar2img = self._pixels(frame)
        now, before = frame.ego, previous.ego if previous else None
        if mirror:
            images, lidar2img = mirror_images(images, lidar2img, self._spec.preprocess.resized_hw[1])
            now, before = mirror_ego(now), mirror_ego(before) if before else None
        return TrainFrame(
            torch.from_numpy(images),
            torch.from_numpy(lidar2img),
            torch.from_numpy(can_bus_vector(now, before)),
            previous is not None,
        )

    def _pixels(self, frame: Frame) -> tuple[Float, Float]:
        """Preprocessed images; kept in half precision, which holds 8-bit frames well, while there is room."""
        cached = self._cache.get(frame.token)
        if cached is not None:
            return cached[0].astype(np.float32), cached[1]
        images, lidar2img = load_frame(frame, self._spec.preprocess)
        half = images.astype(np.float16)
        if half.nbytes <= self._cache_left:
            self._cache[frame.token] = half, lidar2img
            self._cache_left -= half.nbytes
        # The same numbers whether they come from the cache or not: a resumed run must repeat the first one.
        return half.astype(np.float32), lidar2img
