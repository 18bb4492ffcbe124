"""NDS and mAP of each run over the parity frames, by the official evaluator: few frames, so a hint and no benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qdbev_deploy.boxes import decode
from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.data.nuscenes import Frame, Scene
from qdbev_deploy.data.stream_frames import StreamFrame
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.schedule import Latency
from qdbev_deploy.evaluate.streaming_eval import evaluate_stream
from qdbev_deploy.evaluate.submission import Results, boxes_to_records


@dataclass(frozen=True)
class RunScores:
    """One run's scores; None where it gave boxes that nobody can score, and `refused` says why."""

    nds: float | None
    map: float | None
    refused: str = ""


@dataclass
class Accuracy:
    """Collects the boxes of several runs over the same frames. Frames without a data set behind them do not count."""

    spec: VariantSpec
    frames: list[Frame] = field(default_factory=list)
    _nusc: Any = None
    _results: dict[str, Results] = field(default_factory=dict)
    _refused: dict[str, str] = field(default_factory=dict)

    def add_frame(self, frame: StreamFrame) -> None:
        if frame.origin is not None and frame.nusc is not None:
            self.frames.append(frame.origin)
            self._nusc = frame.nusc

    def add(self, run: str, frame: StreamFrame, classes: Any, coords: Any) -> None:
        """What a run gave for a frame."""
        if frame.origin is None:
            return
        results = self._results.setdefault(run, {})
        try:
            results[frame.origin.token] = boxes_to_records(decode(classes, coords, self.spec), frame.origin)
        except QdbevError as error:  # NaN, say: parity speaks of that itself, and must not end here
            self._refused[run] = error.found

    def add_all(self, frame: StreamFrame, outputs: Mapping[str, Sequence[Any]]) -> None:
        """A frame, and what each run gave for it: (bev_embed, classes, coords)."""
        self.add_frame(frame)
        for run, (_, classes, coords) in outputs.items():
            self.add(run, frame, classes, coords)

    def scores(self) -> dict[str, RunScores]:
        """The scores of each run; none at all where the frames have no ground truth."""
        if not any(self._nusc.get("sample", frame.sample_token)["anns"] for frame in self.frames):
            return {}
        by_scene: dict[str, list[Frame]] = {}
        for frame in self.frames:
            by_scene.setdefault(frame.scene, []).append(frame)
        scenes = [Scene(name, "", tuple(frames)) for name, frames in by_scene.items()]
        found = {}
        for run, results in self._results.items():
            if run in self._refused:
                found[run] = RunScores(None, None, self._refused[run])
                continue
            scores = evaluate_stream(self._nusc, scenes, results, Latency.constant(0)).offline
            found[run] = RunScores(scores.nds, scores.map)
        return found
