"""Ground truth at any moment of a scene: the annotations of the key frames, interpolated between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qdbev_deploy.evaluate.submission import records_to_boxes

if TYPE_CHECKING:
    from qdbev_deploy.boxes import Boxes
    from qdbev_deploy.data.nuscenes import Frame, Scene

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Annotation:
    """One annotated object at one moment, in the global frame."""

    instance_token: str
    category_name: str
    translation: Numbers  # x, y, z of the gravity centre, metres
    size: Numbers  # width, length, height, metres
    rotation: Numbers  # quaternion w, x, y, z
    velocity: Numbers  # x, y, metres per second; NaN where the data set cannot say
    num_points: int  # LiDAR and radar; the evaluator skips objects with none
    attribute_name: str


def _mix(first: Numbers, second: Numbers, share: float) -> Numbers:
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))


def interpolate(first: Annotation, second: Annotation, share: float) -> Annotation:
    """The object between two key frames; `share` runs from 0 at the first to 1 at the second.

    Position, size and velocity linear (a NaN velocity at either end stays NaN), rotation by slerp along the shorter
    way, attribute of the nearer end (the first on a tie), and as many points as the poorer end has, so that an object
    that the evaluator would skip at one end is skipped between, too.
    """
    from pyquaternion import Quaternion

    rotation = Quaternion.slerp(Quaternion(first.rotation), Quaternion(second.rotation), share)
    return replace(
        first if share <= 0.5 else second,
        translation=_mix(first.translation, second.translation, share),
        size=_mix(first.size, second.size, share),
        rotation=tuple(rotation.elements.tolist()),
        velocity=_mix(first.velocity, second.velocity, share),
        num_points=min(first.num_points, second.num_points),
    )


class SceneAnnotations:
    """The annotations of one scene, read once from the devkit."""

    def __init__(self, nusc: Any, scene: Scene) -> None:
        self._attribute_names = {attribute["token"]: attribute["name"] for attribute in nusc.attribute}
        self._keys: list[tuple[int, list[Annotation]]] = []  # moment in microseconds, objects; sorted by moment
        self._at_key: dict[str, list[Annotation]] = {}
        for frame in scene.frames:
            if frame.is_key_frame:
                objects = [self._read(nusc, token) for token in nusc.get("sample", frame.token)["anns"]]
                self._keys.append((frame.ego.timestamp_us, objects))
                self._at_key[frame.token] = objects

    def _read(self, nusc: Any, token: str) -> Annotation:
        record = nusc.get("sample_annotation", token)
        attributes = record["attribute_tokens"]
        velocity = nusc.box_velocity(token)[:2]
        return Annotation(
            instance_token=record["instance_token"],
            category_name=record["category_name"],
            translation=tuple(record["translation"]),
            size=tuple(record["size"]),
            rotation=tuple(record["rotation"]),
            velocity=(float(velocity[0]), float(velocity[1])),
            num_points=record["num_lidar_pts"] + record["num_radar_pts"],
            attribute_name=self._attribute_names[attributes[0]] if attributes else "",
        )

    def at(self, frame: Frame) -> list[Annotation] | None:
        """The objects at the moment of `frame`; None before the first and after the last key frame: nobody knows.

        A key frame has its own annotations, untouched. Between two key frames there are the objects that both know.
        """
        if frame.token in self._at_key:
            return self._at_key[frame.token]
        moment = frame.ego.timestamp_us
        for (first_us, first), (second_us, second) in zip(self._keys, self._keys[1:], strict=False):
            if first_us <= moment <= second_us:
                share = (moment - first_us) / (second_us - first_us)
                later = {annotation.instance_token: annotation for annotation in second}
                return [
                    interpolate(annotation, later[annotation.instance_token], share)
                    for annotation in first
                    if annotation.instance_token in later
                ]
        return None


def visible_boxes(annotations: list[Annotation], frame: Frame) -> Boxes:
    """Those of the ten classes that a sensor hit at least once, as boxes in the LiDAR frame: what is worth drawing."""
    from nuscenes.eval.detection.utils import category_to_detection_name

    records = [
        {
            "translation": annotation.translation,
            "size": annotation.size,
            "rotation": annotation.rotation,
            "velocity": annotation.velocity,
            "detection_score": 1.0,
            "detection_name": category_to_detection_name(annotation.category_name),
        }
        for annotation in annotations
        if annotation.num_points > 0 and category_to_detection_name(annotation.category_name)
    ]
    return records_to_boxes(records, frame)
