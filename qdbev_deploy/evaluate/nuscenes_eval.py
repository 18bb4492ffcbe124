"""The official nuScenes detection evaluator, unmodified and quiet."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdbev_deploy.data.splits import splits_of
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.results_file import check_tokens, read_results
from qdbev_deploy.evaluate.scores import Scores
from qdbev_deploy.evaluate.submission import Results

if TYPE_CHECKING:
    from qdbev_deploy.data.nuscenes import Scene

CONFIG = "detection_cvpr_2019"

_DEFAULT_SPLIT = {"mini": "mini_val", "trainval": "val"}  # by what the version's name ends with


def is_custom(split: str) -> bool:
    """Whether a split comes from a user's splits.json."""
    from nuscenes.utils.splits import is_predefined_split

    return not is_predefined_split(split_name=split)


def choose_split(version: str, folder: Path, split: str | None = None) -> str:
    """`split` if the devkit can score it on that version; None means mini_val for mini, val for trainval.

    `folder` holds the tables, and beside them, perhaps, splits.json with splits of the user's own.
    """
    from nuscenes.utils.splits import create_splits_scenes

    official, splits = create_splits_scenes(), splits_of(version, folder)
    if split is None:
        default = next((name for ending, name in _DEFAULT_SPLIT.items() if version.endswith(ending)), None)
        if default is None:
            raise QdbevError(
                f"no --split, and the nuScenes version '{version}' has none that is usual",
                "--split NAME, or " + " or ".join(f"v1.0-{ending}" for ending in _DEFAULT_SPLIT),
                "pass --split with one of " + (", ".join(splits) or f"those you name in {folder / 'splits.json'}"),
            )
        split = default
    if split not in splits:
        raise QdbevError(
            f"the split '{split}' with nuScenes version '{version}'",
            "one of " + ", ".join(splits) if splits else f"a split of {folder / 'splits.json'}",
            "pass --split with one of these, or another --version",
        )
    if split in official and set(splits[split]) != set(official[split]):
        raise QdbevError(
            f"{folder / 'splits.json'} gives the official split '{split}' other scenes",
            "names of your own: the evaluator scores the official scenes under this one",
            f"rename '{split}' in that file",
        )
    return split


def split_tokens(nusc: Any, split: str) -> dict[str, list[str]]:
    """Scene name -> its sample tokens in order, for the scenes of the split that this data root holds.

    Which is what the devkit scores: it takes the split's scenes that the database knows.
    """
    names = set(splits_of(nusc.version, Path(nusc.dataroot) / nusc.version)[split])
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


def in_order_of_tables(nusc: Any, scenes: Sequence[Scene], results: Results) -> Results:
    """The results in the order of the sample table, in which the devkit reads those of a custom split.

    It takes those of an official split in the order of the file; the order decides which of equal scores comes first.
    """
    place = {sample["token"]: index for index, sample in enumerate(nusc.sample)}
    frames = sorted(
        (frame for scene in scenes for frame in scene.frames), key=lambda f: (place[f.sample_token], f.index)
    )
    return {frame.token: results[frame.token] for frame in frames}


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
