"""The calibration cache: scales, and what they were made for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdbev_deploy.calibration.histogram import Method
from qdbev_deploy.calibration.recipe import Recipe
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import write_json

CACHE_FORMAT = "qdbev-deploy calibration cache"
CACHE_VERSION = 4


@dataclass(frozen=True)
class CalibrationCache:
    """Scales, and what they hold for: other weights, another recipe or method make it worthless."""

    model: str  # digest of the float weights
    recipe: str  # digest of the recipe
    method: Method
    percentile: float | None  # of the method of that name
    data: str  # which frames, in words
    frames: int  # how many were asked for,
    split: str  # of which scenes,
    version_of_data: str
    scales: dict[str, float]

    def save(self, path: Path) -> None:
        write_json(path, {"format": CACHE_FORMAT, "version": CACHE_VERSION, **self.__dict__})

    @classmethod
    def load(
        cls, path: Path, model: str, recipe: Recipe, method: Method, percentile: float | None = None, **data: Any
    ) -> CalibrationCache:
        """Read a cache and refuse it where it was made for something else.

        `data`: frames, split and version_of_data that are insisted on; None takes whatever the cache was made from.
        """
        again = f"pass --recalibrate to make it anew, or another --cache than {path}"
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != CACHE_FORMAT or content["version"] != CACHE_VERSION:
                raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
            cache = cls(
                str(content["model"]),
                str(content["recipe"]),
                content["method"],
                None if content["percentile"] is None else float(content["percentile"]),
                str(content["data"]),
                int(content["frames"]),
                str(content["split"]),
                str(content["version_of_data"]),
                {str(name): float(scale) for name, scale in content["scales"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise QdbevError(f"{path} is no calibration cache ({error!r})", "a cache of this release", again) from error
        for what, cached, current in (
            ("weights", cache.model, model),
            ("recipe", cache.recipe, recipe.digest),
            ("method", cache.method, method),
            ("percentile", cache.percentile, percentile),
            *(
                (name.replace("_", " "), getattr(cache, name), value)
                for name, value in data.items()
                if value is not None
            ),
        ):
            if cached != current:
                raise QdbevError(
                    f"{path} was made for other {what} ({str(cached)[:24]}, not {str(current)[:24]})",
                    "a cache of this model, recipe, method and data",
                    again,
                )
        return cache

    def require(self, activations: Iterable[str]) -> None:
        """Refuse a cache that has not one sound scale for each of these activations, and no other."""
        wrong = sorted(set(activations) ^ set(self.scales)) or [
            name for name, scale in self.scales.items() if not (math.isfinite(scale) and scale > 0)
        ]
        if wrong:
            raise QdbevError(
                f"a calibration cache that does not fit at '{wrong[0]}'",
                "one positive scale an activation",
                "pass --recalibrate",
            )
