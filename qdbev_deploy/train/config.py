"""Everything that decides a training run; kept beside its results and compared on resume."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from qdbev_deploy.data.nuscenes import Scene
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.train.distill import Distillation

Precision = Literal["fp32", "bf16", "fp16"]


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "queue", "batch", "query_groups", "calibration_frames", "processes"), (1, math.inf)),
    **dict.fromkeys(("backbone_lr_factor", "scale_lr_factor", "weight_decay", "dense_weight"), (0, math.inf)),
    **dict.fromkeys(("warmup_steps", "freeze_norm_from"), (0, math.inf)),
    "dropout": (0, 1),
    "seed": (0, 2**32 - 1),
}
_FINITE = ("lr", "backbone_lr_factor", "scale_lr_factor", "weight_decay", "clip_norm", "dense_weight")
# How a resumed run is told of a difference that nobody could read.
_ANOTHER = {
    "recipe_digest": "other rules in its recipe",
    "init_digest": "another --init, or none",
    "teacher_digest": "another --teacher",
    "frames_digest": "other frames in its data root",
}


def frames_digest(scenes: Sequence[Scene]) -> str:
    """Identifies what is trained on: the frames, in their order."""
    tokens = [frame.token for scene in scenes for frame in scene.frames]
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()


def _out_of_range(name: str, value: object, needed: str) -> QdbevError:
    return QdbevError(f"{name} {value}", needed, f"pass another --{name.replace('_', '-')}")


@dataclass(frozen=True)
class TrainConfig:
    """Sizes, rates and seeds."""

    variant: str = "micro"
    steps: int = 10_000
    queue: int = 3  # frames a sample: all but the last run without gradients
    batch: int = 2  # samples a step and process; their gradients are averaged
    lr: float = 4e-4
    backbone_lr_factor: float = 1.0  # 0.1 where the backbone is pretrained
    scale_lr_factor: float = 10.0  # learned scales are logarithms and move on a larger unit than weights
    weight_decay: float = 0.01
    warmup_steps: int = 200
    clip_norm: float = 35.0
    dense_weight: float = 1.0  # of the auxiliary heatmap and boxes on the BEV; 0 turns them off
    query_groups: int = 1  # of object queries; all but the first exist in training alone
    dropout: float | None = None  # None: the variant's
    freeze_norm_from: int | None = None  # step from which batch norms keep their statistics; None: never
    mirror: bool = True
    precision: Precision = "fp32"
    seed: int = 0
    # Quantisation: what identifies the recipe, and whether its parts join one after another or at once.
    recipe: str | None = None
    recipe_digest: str | None = None  # of its rules
    schedule: dict[str, float] | None = None  # its shares of the steps
    progressive: bool = True
    calibration_frames: int = 24
    distillation: Distillation | None = None
    # Where it begins and what it reads.
    init_digest: str | None = None  # of the weights of --init
    teacher_digest: str | None = None
    data_version: str | None = None
    split: str | None = None
    frames_digest: str | None = None  # of the names of all frames to train on
    processes: int = 1

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # NaN is in no range
                raise _out_of_range(name, value, f"at least {low}" if high == math.inf else f"{low} to {high}")
        for name in _FINITE:
            if not math.isfinite(getattr(self, name)):
                raise _out_of_range(name, getattr(self, name), "a finite number")
        for name in ("lr", "clip_norm"):
            if not getattr(self, name) > 0:
                raise _out_of_range(name, getattr(self, name), "a positive number")
        if self.dropout == 1.0:
            raise _out_of_range("dropout", self.dropout, "less than 1, which would leave nothing")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise _out_of_range("precision", self.precision, "fp32, bf16 or fp16")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def require_same(self, saved: dict[str, Any], where: str) -> None:
        """A run is resumed with what it was begun with."""
        ours = self.to_dict()
        unknown = [key for key in ours if key not in saved]
        if unknown:
            raise QdbevError(
                f"{where} was begun by an earlier qdbev-deploy, which did not note its {unknown[0]}",
                "a run that says all it was begun with",
                "begin a new run with another --out",
            )
        differing = [key for key in ours if ours[key] != saved[key]]
        if differing:
            key = differing[0]
            difference = _ANOTHER.get(key) or f"{key} = {saved[key]!r}, not {ours[key]!r}"
            raise QdbevError(
                f"{where} was begun with {difference}",
                "the same settings to resume it",
                "repeat the command it was begun with, or choose another --out",
            )
