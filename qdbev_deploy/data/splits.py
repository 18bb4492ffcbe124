"""Splits of nuScenes scenes: the official ones that go with a version, and a user's own."""

from __future__ import annotations

import json
from pathlib import Path

from qdbev_deploy.errors import QdbevError

# The devkit's evaluator refuses a split of another version, although the scenes of mini are in train and val, too.
_SPLITS_OF_VERSION = {
    "mini": ("mini_train", "mini_val"),
    "trainval": ("train", "val", "train_detect", "train_track"),
    "test": ("test",),
}


def training_split(version: str) -> str:
    """The split that training and calibration take where nobody names one."""
    return "mini_train" if version == "v1.0-mini" else "train"


def splits_of(version: str, folder: Path) -> dict[str, list[str]]:
    """Scene names by split: official splits of that version, then those of `splits.json` beside the tables."""
    from nuscenes.utils.splits import create_splits_scenes

    official = create_splits_scenes()
    splits = {
        name: list(official[name])
        for ending, names in _SPLITS_OF_VERSION.items()
        if version.endswith(ending)
        for name in names
    }
    custom = folder / "splits.json"  # where the devkit, too, looks for a user's splits
    if custom.is_file():
        try:
            splits.update(
                {name: [str(scene) for scene in scenes] for name, scenes in json.loads(custom.read_text()).items()}
            )
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise QdbevError(
                f"{custom} is not a map of split names to lists of scene names ({error})",
                'a JSON object such as {"mine": ["scene-0061"]}',
                "correct the file or remove it",
            ) from error
    return splits
