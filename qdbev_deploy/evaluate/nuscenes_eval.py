"""The official nuScenes detection evaluator, unmodified and quiet."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.results_file import check_tokens, read_results
from qdbev_deploy.evaluate.scores import Scores

CONFIG = "detection_cvpr_2019"

# Splits the devkit scores, by what the version's name ends with; the first is the default.
SPLITS_OF_VERSION = {
    "mini": ("mini_val", "mini_train"),
    "trainval": ("val", "train", "train_detect", "train_track"),
}


def _splits(version: str) -> tuple[str, ...]:
    for ending, splits in SPLITS_OF_VERSION.items():
        if version.endswith(ending):
            return splits
    raise QdbevError(
        f"the nuScenes version '{version}'",
        "a version with public annotations: " + " or ".join(f"v1.0-{ending}" for ending in SPLITS_OF_VERSION),
        "pass --version with one of them",
    )


def choose_split(version: str, split: str | None = None) -> str:
    """`split` if the devkit can score it on that version; None means mini_val for mini, val for trainval."""
    splits = _splits(version)
    if split is None:
        return splits[0]
    if split not in splits:
        raise QdbevError(
            f"the split '{split}' with nuScenes version '{version}'",
            "one of " + ", ".join(splits),
            "pass --split with one of these, or another --version",
        )
    return split


def split_tokens(nusc: Any, split: str) -> dict[str, list[str]]:
    """Scene name -> its sample tokens in order, for the scenes of the split that this data root holds.

    Which is what the devkit scores: it takes the split's scenes that the database knows.
    """
    from nuscenes.utils.splits import create_splits_scenes

    names = set(create_splits_scenes()[split])
    tokens: dict[str, list[str]] = {}
    for scene in nusc.scene:
        if scene["name"] in names:
            sequence, token = [], scene["first_sample_token"]
            while token:
                sequence.append(token)
                token = nusc.get("sample", token)["next"]
            tokens[scene["name"]] = sequence
    if not tokens:
        raise QdbevError(
            f"no scene of the split '{split}' among the {len(nusc.scene)} scenes of {nusc.dataroot}",
            "at least one scene of the split",
            "pass another --split, or see what is there with: qdbev-deploy data info " + str(nusc.dataroot),
        )
    return tokens


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The devkit prints progress bars whatever `verbose` says."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield


def detection_config() -> Any:
    """The challenge's configuration: class ranges, distances, clipping."""
    from nuscenes.eval.common.config import config_factory

    return config_factory(CONFIG)


def score_boxes(truth: Any, predictions: Any) -> Scores:
    """Scores of EvalBoxes that are filtered already, by the official accumulation."""
    from nuscenes.eval.detection.evaluate import DetectionEval

    # Its constructor reads files and a database; `evaluate` itself needs only what is set here.
    evaluation = DetectionEval.__new__(DetectionEval)
    evaluation.cfg = detection_config()
    evaluation.gt_boxes, evaluation.pred_boxes, evaluation.verbose = truth, predictions, False
    with quiet():
        return Scores.from_metrics(evaluation.evaluate()[0])


def _where_else(nusc: Any, tokens: dict[str, list[str]]) -> dict[str, str]:
    known = {token for sequence in tokens.values() for token in sequence}
    said = {
        sample["token"]: f"a sample of {nusc.get('scene', sample['scene_token'])['name']}, which is not in this split"
        for sample in nusc.sample
        if sample["token"] not in known
    }
    for data in nusc.sample_data:
        said.setdefault(data["token"], "a frame between key frames (12 Hz results are scored with --streaming)")
    return said


def official_scores(nusc: Any, results_path: str | os.PathLike[str], split: str) -> Scores:
    """What the official DetectionEval says of a results file on the scenes of `split` in the data root."""
    from nuscenes.eval.detection.evaluate import DetectionEval

    results = read_results(results_path)
    tokens = split_tokens(nusc, split)
    expected = [token for sequence in tokens.values() for token in sequence]
    check_tokens(results_path, results, expected, f"the split '{split}'", _where_else(nusc, tokens))
    if not any(nusc.get("sample", token)["anns"] for token in expected):
        raise QdbevError(f"no annotations in the split '{split}'", "ground truth", "pass another --split")
    with tempfile.TemporaryDirectory(prefix="qdbev-eval-") as scratch, quiet():
        evaluation = DetectionEval(nusc, detection_config(), os.fspath(results_path), split, scratch, verbose=False)
        metrics, _ = evaluation.evaluate()
    return Scores.from_metrics(metrics)
