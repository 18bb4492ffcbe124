"""Post-training quantisation: activation scales from rolled-out sequences, and the cache that keeps them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qdbev_deploy.data.nuscenes import Frame, Scene
from qdbev_deploy.data.preprocess import load_frame
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import write_json
from qdbev_deploy.model import BEVFormer
from qdbev_deploy.quant import Recipe
from qdbev_deploy.quant.observers import Histogram, Method
from qdbev_deploy.quant.quantise import activation_quantizers, observing
from qdbev_deploy.streaming import wrapped_degrees

CACHE_FORMAT = "qdbev-deploy calibration cache"
CACHE_VERSION = 1


def choose_rollouts(scenes: Sequence[Scene], frames: int) -> list[tuple[Frame, ...]]:
    """Beginnings of scenes that together have `frames` frames, turning and straight drives in turn.

    Activations drift along a sequence: a first frame has no past, a turn rotates it. Frames drawn one by one would show
    the network a distribution that it never meets on the road.
    """
    if frames < 1 or not scenes:
        raise QdbevError(f"{frames} frames of {len(scenes)} scenes", "at least one of each", "pass another --frames")
    by_turning = sorted(scenes, key=_turning_deg)
    order = []
    while by_turning:
        order.append(by_turning.pop())  # the one that turns most of those left
        if by_turning:
            order.append(by_turning.pop(0))
    length = max(min(frames, 8), math.ceil(frames / len(order)))
    rollouts: list[tuple[Frame, ...]] = []
    left = frames
    for scene in order:
        if left <= 0:
            break
        rollouts.append(scene.frames[: min(length, left)])
        left -= len(rollouts[-1])
    return rollouts


def _turning_deg(scene: Scene) -> float:
    yaws = [frame.ego.yaw for frame in scene.frames]
    return sum(abs(wrapped_degrees(math.degrees(b - a))) for a, b in itertools.pairwise(yaws))


def observe(
    model: BEVFormer, rollouts: Sequence[Sequence[Frame]], on_frame: Callable[[], object] = lambda: None
) -> dict[str, Histogram]:
    """Stream the sequences through the model in float and count its activations."""
    with observing(model) as histograms:
        session = model.session()
        for frames in rollouts:
            session.reset()
            for frame in frames:
                images, lidar2img = load_frame(frame, model.spec.preprocess)
                session.step(images, lidar2img, frame.ego, frame.scene)
                on_frame()
    return histograms


@dataclass(frozen=True)
class CalibrationCache:
    """Scales, and what they hold for: other weights, another recipe or method make it worthless."""

    model: str  # digest of the float weights
    recipe: str  # digest of the recipe
    method: Method
    data: str  # which frames, in words
    scales: dict[str, float]

    def save(self, path: Path) -> None:
        write_json(path, {"format": CACHE_FORMAT, "version": CACHE_VERSION, **self.__dict__})

    @classmethod
    def load(cls, path: Path, model: str, recipe: Recipe, method: Method) -> CalibrationCache:
        """Read a cache and refuse it where it was made for something else."""
        again = f"pass --recalibrate to make it anew, or another --cache than {path}"
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != CACHE_FORMAT or content["version"] != CACHE_VERSION:
                raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
            cache = cls(
                str(content["model"]),
                str(content["recipe"]),
                content["method"],
                str(content["data"]),
                {str(name): float(scale) for name, scale in content["scales"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise QdbevError(f"{path} is no calibration cache ({error!r})", "a cache of this release", again) from error
        for what, cached, current in (
            ("weights", cache.model, model),
            ("recipe", cache.recipe, recipe.digest),
            ("method", cache.method, method),
        ):
            if cached != current:
                raise QdbevError(
                    f"{path} was made for other {what} ({cached[:12]}, not {current[:12]})",
                    "a cache of this model, recipe and method",
                    again,
                )
        return cache

    def apply(self, model: BEVFormer) -> None:
        quantizers = activation_quantizers(model)
        wrong = sorted(set(quantizers) ^ set(self.scales)) or [
            name for name, scale in self.scales.items() if not (math.isfinite(scale) and scale > 0)
        ]
        if wrong:
            raise QdbevError(f"a calibration cache that does not fit at '{wrong[0]}'",
                             "one positive scale an activation", "pass --recalibrate")  # fmt: skip
        for name, quantizer in quantizers.items():
            quantizer.set_scale(self.scales[name])


@torch.no_grad()
def scales_of(
    model: BEVFormer, histograms: dict[str, Histogram], method: Method, percentile: float
) -> dict[str, float]:
    """The scale of each activation by the method."""
    quantizers = activation_quantizers(model)
    return {name: histogram.scale(method, quantizers[name].grid, percentile) for name, histogram in histograms.items()}
