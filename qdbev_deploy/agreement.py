"""How far two runs of one network are apart: its outputs, every query's box, the detections that remain."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.boxes import decode
from qdbev_deploy.contract import CLASSES, VariantSpec

Array = npt.NDArray[Any]

CENTER_TOLERANCE_M = 1e-3


def larger(old: float, new: Any) -> float:
    """The larger of two differences; a NaN stays, where Python's own max may lose it."""
    return float(np.maximum(old, new))


def relative_gap(ours: Array, theirs: Array) -> float:
    """Root mean square of the difference over that of `theirs`: the share of its size that an output differs by."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.sqrt(np.mean((a - b) ** 2)) / max(float(np.sqrt(np.mean(b**2))), 1e-12))


@dataclass
class BoxParity:
    """Every query's box, and the detections that remain after decoding."""

    center_m: float = 0.0
    size_m: float = 0.0
    size_share: float = 0.0  # of the size: the difference of its logarithms, which is what the network says
    yaw_sin_cos: float = 0.0  # of the sine and the cosine, which stay told apart where the angle itself is not
    velocity_mps: float = 0.0
    score: float = 0.0
    detections: int = 0
    # Of them, those without a partner of the same class within the tolerance. It may lie among twice as many and just
    # outside the range: the last of the best are near ties that the last bit of a score exchanges with the next.
    detections_moved: int = 0

    def add(self, ours: list[Array], theirs: list[Array], spec: VariantSpec) -> None:
        a, b = (outputs[2].reshape(-1, outputs[2].shape[-1]).astype(np.float64) for outputs in (ours, theirs))
        with np.errstate(over="ignore", invalid="ignore"):  # an untrained or broken model may say any logarithm
            sizes = [np.exp(codes[:, [2, 3, 5]]) for codes in (a, b)]
            scores = [1 / (1 + np.exp(-outputs[1].astype(np.float64))) for outputs in (ours, theirs)]
            self.center_m = larger(self.center_m, np.abs(a[:, [0, 1, 4]] - b[:, [0, 1, 4]]).max())
            self.size_m = larger(self.size_m, np.abs(sizes[0] - sizes[1]).max())
            self.size_share = larger(self.size_share, np.abs(a[:, [2, 3, 5]] - b[:, [2, 3, 5]]).max())
            self.yaw_sin_cos = larger(self.yaw_sin_cos, np.abs(a[:, [6, 7]] - b[:, [6, 7]]).max())
            self.velocity_mps = larger(self.velocity_mps, np.abs(a[:, [8, 9]] - b[:, [8, 9]]).max())
            self.score = larger(self.score, np.abs(scores[0] - scores[1]).max())
        low, high = np.split(np.asarray(spec.post_center_range, np.float64), 2)
        wider = dataclasses.replace(
            spec,
            max_boxes=min(2 * spec.max_boxes, spec.queries * len(CLASSES)),
            post_center_range=(*(low - CENTER_TOLERANCE_M), *(high + CENTER_TOLERANCE_M)),
        )
        first, second = decode(ours[1], ours[2], spec), decode(theirs[1], theirs[2], wider)
        self.detections += len(first)
        if len(first) and len(second):
            apart = np.abs(first.center[:, None] - second.center[None]).max(axis=-1)
            apart[first.label[:, None] != second.label[None]] = np.inf
            self.detections_moved += int((apart.min(axis=1) > CENTER_TOLERANCE_M).sum())
        else:
            self.detections_moved += len(first)
