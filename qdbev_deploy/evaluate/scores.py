"""What the official evaluator says of a detector, as values, JSON and a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

# The devkit's name of each true-positive error -> the field's (with an m before it: the mean over classes).
ERROR_NAMES = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class ClassScores:
    """One class: AP, mean over the distances and at each, and five errors (NaN where the class has none)."""

    ap: float
    ap_at: dict[float, float]
    errors: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """NDS, mAP, the mean errors (mATE metres, mASE 1 - IoU, mAOE radians, mAVE m/s, mAAE 1 - accuracy), the classes."""

    nds: float
    map: float
    errors: dict[str, float]
    classes: dict[str, ClassScores]

    @classmethod
    def from_metrics(cls, metrics: Any) -> Scores:
        """From the devkit's DetectionMetrics."""
        said = metrics.serialize()
        return cls(
            nds=float(said["nd_score"]),
            map=float(said["mean_ap"]),
            errors={"m" + name: float(said["tp_errors"][key]) for key, name in ERROR_NAMES.items()},
            classes={
                class_name: ClassScores(
                    ap=float(ap),
                    ap_at={float(at): float(value) for at, value in said["label_aps"][class_name].items()},
                    errors={name: float(said["label_tp_errors"][class_name][key]) for key, name in ERROR_NAMES.items()},
                )
                for class_name, ap in said["mean_dist_aps"].items()
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what does not exist (the velocity error of a traffic cone) is null."""
        return {
            "nds": self.nds,
            "map": self.map,
            "errors": {name: _or_none(value) for name, value in self.errors.items()},
            "classes": {
                class_name: {
                    "ap": scores.ap,
                    "ap_at": {str(at): value for at, value in scores.ap_at.items()},
                    "errors": {name: _or_none(value) for name, value in scores.errors.items()},
                }
                for class_name, scores in self.classes.items()
            },
        }


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def class_table(scores: Scores, title: str, *notes: str) -> Table:
    """Rows are classes, the last one the mean; columns are AP and the errors; `notes` stand below."""
    from rich.table import Table

    units = {"ATE": "m", "ASE": "1-IoU", "AOE": "rad", "AVE": "m/s", "AAE": "1-acc"}
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("AP", justify="right")
    for name, unit in units.items():
        table.add_column(f"{name}\n[dim]{unit}[/dim]", justify="right")
    for class_name, row in scores.classes.items():
        table.add_row(class_name, _cell(row.ap), *(_cell(row.errors[name]) for name in units))
    table.add_section()
    table.add_row("mean", _cell(scores.map), *(_cell(scores.errors["m" + name]) for name in units), style="bold")
    table.caption = "\n".join((f"NDS {scores.nds:.4f}   mAP {scores.map:.4f}", *notes))
    return table
