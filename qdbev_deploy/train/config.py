"""Everything that decides a training run; kept beside its results and compared on resume."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.train.distill import Distillation

Precision = Literal["fp32", "bf16", "fp16"]


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
    # Quantisation: the digest of the recipe, and whether its parts join one after another or at once.
    recipe: str | None = None
    recipe_digest: str | None = None
    progressive: bool = True
    calibration_frames: int = 24
    distillation: Distillation | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "queue", "batch", "query_groups", "calibration_frames"):
            if getattr(self, name) < 1:
                raise QdbevError(
                    f"{name} {getattr(self, name)}", "at least 1", f"pass another --{name.replace('_', '-')}"
                )
        if not self.lr > 0:
            raise QdbevError(f"a learning rate of {self.lr}", "a positive number", "pass another --lr")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise QdbevError(f"precision '{self.precision}'", "fp32, bf16 or fp16", "pass another --precision")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def require_same(self, saved: dict[str, Any], where: str) -> None:
        """A run is resumed with what it was begun with."""
        ours = self.to_dict()
        differing = [key for key in ours if ours[key] != saved.get(key)]
        if differing:
            key = differing[0]
            raise QdbevError(
                f"{where} was begun with {key} = {saved.get(key)!r}, not {ours[key]!r}",
                "the same settings to resume it",
                "repeat the command it was begun with, or choose another --out",
            )
