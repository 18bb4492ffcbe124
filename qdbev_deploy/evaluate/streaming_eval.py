"""Streaming scores: an output counts when it is ready, against the ground truth of that moment (docs/evaluation.md)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qdbev_deploy.evaluate.annotations import Annotation, SceneAnnotations
from qdbev_deploy.evaluate.nuscenes_eval import detection_config, quiet, score_boxes
from qdbev_deploy.evaluate.schedule import Latency, simulate
from qdbev_deploy.evaluate.scores import Scores
from qdbev_deploy.evaluate.submission import Record, Results

if TYPE_CHECKING:
    from qdbev_deploy.data.nuscenes import Frame, Scene

# A scene is cut out of a longer drive. What was on display before its first output is ready nobody knows, so these
# moments are not scored, but never more than this: a slower processor is scored with nothing to show.
WARM_UP_US = 1_000_000


@dataclass(frozen=True)
class Moment:
    """One scored moment: the arrival of a frame, the objects around the car then, and whose output is on display."""

    frame: Frame
    annotations: list[Annotation]
    shown: Frame | None


@dataclass(frozen=True)
class StreamReport:
    """Scores of a stream. `offline` is the same moments with no latency: each frame's own output."""

    latency: str
    frames: int
    dropped: int
    warm_up: int  # moments before the first output of a scene
    unannotated: int  # moments before the first or after the last key frame
    scored: int
    rate_hz: float  # of the stream, median
    age_ms_mean: float  # of the outputs on display: moment minus arrival of their frame
    age_ms_max: float
    offline: Scores
    streaming: Scores
    offline_at_key_frames: Scores
    streaming_at_key_frames: Scores

    def to_dict(self) -> dict[str, Any]:
        counts = ("latency", "frames", "dropped", "warm_up", "unannotated", "scored", "rate_hz", "age_ms_mean",
                  "age_ms_max")  # fmt: skip
        scores = ("offline", "streaming", "offline_at_key_frames", "streaming_at_key_frames")
        return {name: getattr(self, name) for name in counts} | {name: getattr(self, name).to_dict() for name in scores}


class _MomentsAsSamples:
    """Answers the few questions that the devkit's filters ask of a database, with moments in place of samples."""

    def __init__(self, moments: Sequence[Moment]) -> None:
        self._moments = {moment.frame.token: moment for moment in moments}

    def get(self, table: str, token: Any) -> dict[str, Any]:
        if table == "sample_annotation":
            moment, index = token
            annotation = self._moments[moment].annotations[index]
            return {
                "category_name": annotation.category_name,
                "translation": list(annotation.translation),
                "size": list(annotation.size),
                "rotation": list(annotation.rotation),
            }
        moment = self._moments[token]
        if table == "sample":
            tokens = [(token, index) for index in range(len(moment.annotations))]
            return {"anns": tokens, "data": {"LIDAR_TOP": token}}
        if table == "sample_data":
            return {"ego_pose_token": token}
        assert table == "ego_pose", table
        return {"translation": list(moment.frame.ego.translation)}


def _truth_box(annotation: Annotation, token: str) -> Any:
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.detection.utils import category_to_detection_name

    name = category_to_detection_name(annotation.category_name)
    return name and DetectionBox(
        sample_token=token,
        translation=annotation.translation,
        size=annotation.size,
        rotation=annotation.rotation,
        velocity=annotation.velocity,
        num_pts=annotation.num_points,
        detection_name=name,
        attribute_name=annotation.attribute_name,
    )


def _scores(moments: Sequence[Moment], outputs: Results, *, own: bool) -> Scores:
    """Official scores of the outputs on display (`own`: of each moment's own frame) at the moments."""
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes
    from nuscenes.eval.detection.data_classes import DetectionBox

    truth, predictions = EvalBoxes(), EvalBoxes()
    for moment in moments:
        token = moment.frame.token
        truth.add_boxes(token, list(filter(None, (_truth_box(a, token) for a in moment.annotations))))
        source = moment.frame if own else moment.shown
        # What was published stays where it was published, in the global frame; only the moment it is held against
        # changes.
        records: list[Record] = [] if source is None else outputs[source.token]
        predictions.add_boxes(
            token, [DetectionBox.deserialize({**record, "sample_token": token}) for record in records]
        )
    database = _MomentsAsSamples(moments)
    config = detection_config()
    for boxes in (truth, predictions):
        add_center_dist(database, boxes)
        if boxes.all:  # the devkit's filter needs at least one box to know what it filters
            with quiet():
                filter_eval_boxes(database, boxes, config.class_range)
    return score_boxes(truth, predictions)


@dataclass(frozen=True)
class _SceneResult:
    moments: list[Moment]
    dropped: int
    warm_up: int
    unannotated: int


def _run_scene(scene: Scene, annotations: SceneAnnotations, latency: Latency) -> _SceneResult:
    arrivals = [frame.ego.timestamp_us for frame in scene.frames]
    schedule = simulate(arrivals, latency.cycle_us())
    moments: list[Moment] = []
    warm_up = unannotated = 0
    for frame, shown in zip(scene.frames, schedule.shown, strict=True):
        objects = annotations.at(frame)
        if objects is None:
            unannotated += 1
        elif shown is None and frame.ego.timestamp_us - arrivals[0] < WARM_UP_US:
            warm_up += 1
        else:
            moments.append(Moment(frame, objects, None if shown is None else scene.frames[shown]))
    return _SceneResult(moments, len(schedule.dropped), warm_up, unannotated)


def evaluate_stream(nusc: Any, scenes: Sequence[Scene], outputs: Results, latency: Latency) -> StreamReport:
    """Score a stream: `outputs` holds the boxes of every frame of `scenes`, as if each had been processed."""
    results = [_run_scene(scene, SceneAnnotations(nusc, scene), latency) for scene in scenes]
    # Equal scores are matched in the order of the file, here as in the official evaluator.
    position = {token: index for index, token in enumerate(outputs)}
    moments = sorted((m for result in results for m in result.moments), key=lambda m: position[m.frame.token])
    key_moments = [moment for moment in moments if moment.frame.is_key_frame]
    gaps_us = [
        after.ego.timestamp_us - before.ego.timestamp_us
        for scene in scenes
        for before, after in zip(scene.frames, scene.frames[1:], strict=False)
    ]
    ages_ms = [(m.frame.ego.timestamp_us - m.shown.ego.timestamp_us) / 1000 for m in moments if m.shown is not None]
    return StreamReport(
        latency=latency.source,
        frames=sum(len(scene.frames) for scene in scenes),
        dropped=sum(result.dropped for result in results),
        warm_up=sum(result.warm_up for result in results),
        unannotated=sum(result.unannotated for result in results),
        scored=len(moments),
        rate_hz=1e6 / statistics.median(gaps_us) if gaps_us else 0.0,
        age_ms_mean=statistics.fmean(ages_ms) if ages_ms else 0.0,
        age_ms_max=max(ages_ms, default=0.0),
        offline=_scores(moments, outputs, own=True),
        streaming=_scores(moments, outputs, own=False),
        offline_at_key_frames=_scores(key_moments, outputs, own=True),
        streaming_at_key_frames=_scores(key_moments, outputs, own=False),
    )
