"""Short sequences of frames for training and calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qdbev_deploy.data.nuscenes import Frame, Scene
from qdbev_deploy.errors import QdbevError


@dataclass(frozen=True)
class FrameQueue:
    """Consecutive frames of one scene; the last one is what the sequence is drawn for."""

    frames: tuple[Frame, ...]

    @property
    def target(self) -> Frame:
        return self.frames[-1]

    @property
    def starts_scene(self) -> bool:
        """Whether its first frame is a scene's first: then having no previous BEV is the truth, not a shortcut."""
        return self.frames[0].index == 0


class SequenceSampler:
    """Every frame once an epoch, each with up to `length - 1` frames before it, in an order that `seed` decides.

    A queue never reaches into another scene: near a scene's beginning it is shorter, and a first frame comes alone.
    `ranks` > 1 deals the same number of queues to each of that many processes, repeating a few where needed.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        length: int = 4,
        *,
        seed: int = 0,
        shuffle: bool = True,
        first_frames: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """`first_frames` False leaves out queues that are shorter than `length`."""
        if length < 1:
            raise QdbevError(f"queues of {length} frames", "at least one", "pass another length; 3 or 4 are usual")
        if not 0 <= rank < ranks:
            raise QdbevError(f"rank {rank} of {ranks}", "a rank from 0 to ranks - 1", "pass this process's own rank")
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.ranks = rank, ranks
        self.epoch = 0
        self._queues = [
            FrameQueue(scene.frames[max(0, last - length + 1) : last + 1])
            for scene in scenes
            for last in range(0 if first_frames else length - 1, len(scene.frames))
        ]
        if not self._queues:
            raise QdbevError(
                f"no queue of {length} frames in {len(scenes)} scenes",
                "a scene that is long enough",
                "pass another split",
            )

    def __len__(self) -> int:
        return -(-len(self._queues) // self.ranks)

    def set_epoch(self, epoch: int) -> None:
        """Another order; the same one again for the same epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[FrameQueue]:
        order = np.arange(len(self._queues))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        padded = np.resize(order, len(self) * self.ranks)
        for index in padded[self.rank :: self.ranks]:
            yield self._queues[index]

    def choose(self, count: int) -> list[FrameQueue]:
        """`count` queues for calibration: spread evenly over the scenes, scenes' beginnings among them."""
        if not 1 <= count <= len(self._queues):
            raise QdbevError(
                f"{count} calibration queues",
                f"1 to {len(self._queues)}, what these scenes hold",
                "pass another number",
            )
        rng = np.random.default_rng([self.seed, self.epoch, 1])
        by_scene: dict[str, list[FrameQueue]] = {}
        for index in rng.permutation(len(self._queues)):
            queue = self._queues[index]
            by_scene.setdefault(queue.target.scene, []).append(queue)
        # The first frame runs without a previous BEV, another distribution: one in `length` sequences meets it.
        for number, queues in enumerate(by_scene.values()):
            if number % max(self.length, 1) == 0:
                queues.sort(key=lambda queue: not queue.starts_scene)
        chosen: list[FrameQueue] = []
        depth = 0
        while len(chosen) < count:
            chosen += [queues[depth] for queues in by_scene.values() if depth < len(queues)]
            depth += 1
        return chosen[:count]
