"""How far two runs of one network are apart: its outputs, every query's box, the detections that remain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.boxes import decode
from qdbev_deploy.contract import VariantSpec

Array = npt.NDArray[Any]

CENTER_TOLERANCE_M = 1e-3


def larger(old: float, new: Any) -> float:
    """The larger of two differences; a NaN stays, where Python's own max may lose it."""
    return float(np.maximum(old, new))


@dataclass
class BoxParity:
    """Every query's box, and the detections that remain after decoding."""

    center_m: float = 0.0
    size_m: float = 0.0
    score: float = 0.0
    detections: int = 0
    detections_moved: int = 0  # of them, those without a partner of the same class within the tolerance

    def add(self, ours: list[Array], theirs: list[Array], spec: VariantSpec) -> None:
        a, b = (outputs[2].reshape(-1, outputs[2].shape[-1]).astype(np.float64) for outputs in (ours, theirs))
        with np.errstate(over="ignore", invalid="ignore"):  # an untrained or broken model may say any logarithm
            sizes = [np.exp(codes[:, [2, 3, 5]]) for codes in (a, b)]
            scores = [1 / (1 + np.exp(-outputs[1].astype(np.float64))) for outputs in (ours, theirs)]
            self.center_m = larger(self.center_m, np.abs(a[:, [0, 1, 4]] - b[:, [0, 1, 4]]).max())
            self.size_m = larger(self.size_m, np.abs(sizes[0] - sizes[1]).max())
            self.score = larger(self.score, np.abs(scores[0] - scores[1]).max())
        first, second = (decode(outputs[1], outputs[2], spec) for outputs in (ours, theirs))
        self.detections += len(first)
        if len(first) and len(second):
            apart = np.abs(first.center[:, None] - second.center[None]).max(axis=-1)
            apart[first.label[:, None] != second.label[None]] = np.inf
            self.detections_moved += int((apart.min(axis=1) > CENTER_TOLERANCE_M).sum())
        else:
            self.detections_moved += len(first)
