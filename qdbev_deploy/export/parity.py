"""The proof: torch and ONNX Runtime side by side over a sequence, each carrying its own state."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch.nn.utils import parametrize

from qdbev_deploy.agreement import CENTER_TOLERANCE_M, BoxParity, larger, relative_gap
from qdbev_deploy.data.stream_frames import PARITY_FRAMES, StreamFrame
from qdbev_deploy.export.accuracy import Accuracy, RunScores
from qdbev_deploy.export.debug_copy import FORCED, RecordedIntegers, forced_copy, recording_integers
from qdbev_deploy.export.streaming_graph import DTYPES, StreamingGraph, graph_inputs, graph_outputs
from qdbev_deploy.quant.quantise import activation_quantizers
from qdbev_deploy.reference import Feeds, session_of, stream_of
from qdbev_deploy.streaming import StreamingSession

Array = npt.NDArray[Any]

INTEGER_SHARE_TOLERANCE = 1e-4  # of an activation's elements may differ, by one step: ties of float arithmetic
OUTPUT_TOLERANCE = 3e-4  # root mean square of an output's difference over that of the output
# Of every query's box, in what the network says: metres, a share of the size, sine and cosine, metres per second.
BOX_TOLERANCES = {
    "center_m": CENTER_TOLERANCE_M,
    "size_share": 1e-3,
    "yaw_sin_cos": 1e-3,
    "velocity_mps": 1e-3,
    "score": 1e-3,
}
# What is reported beside runs over the first frames: it judges nothing, and the proof of a large model takes minutes.
CONTROL_FRAMES = 3
DEFAULT_MODE_FRAMES = PARITY_FRAMES // 2  # the first scene
_SAID = {
    "center_m": ("box centres", " m"),
    "size_share": ("box sizes", " of themselves"),
    "yaw_sin_cos": ("sines and cosines of yaw", ""),
    "velocity_mps": ("velocities", " m/s"),
    "score": ("scores", ""),
}


@dataclass
class ActivationParity:
    """Integers of one quantised activation over all frames."""

    elements: int = 0
    different: int = 0
    largest_step: int = 0
    beyond: int = 0  # integers of the file outside the k bits, where the file was asked to have no Clip

    def add(self, ours: Array, theirs: Array, bounds: tuple[int, int] | None = None) -> None:
        """Count a frame in; of `theirs`, what is out of `bounds` is counted and brought back before it is compared."""
        if bounds is not None:
            self.beyond += int(np.count_nonzero((theirs < bounds[0]) | (theirs > bounds[1])))
            theirs = theirs.clip(*bounds)
        apart = ours != theirs
        steps = np.abs(ours[apart].astype(np.int16) - theirs[apart].astype(np.int16))
        self.elements += ours.size
        self.different += steps.size
        self.largest_step = max(self.largest_step, int(steps.max(initial=0)))


@dataclass
class BesideRun:
    """A run that is reported beside the proof, over its first frames. It is held to torch, as the file is."""

    asked: int  # frames, where there are as many
    frames: int = 0
    boxes: BoxParity = field(default_factory=BoxParity)
    file_boxes: BoxParity = field(default_factory=BoxParity)  # of the file as it is proved, over the same frames
    # Of the default mode, the file and torch over the same frames; torch's control, of fewer frames, is not scored.
    scores: dict[str, RunScores] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "boxes": vars(self.boxes),
            "file_boxes_over_these_frames": vars(self.file_boxes),
            "scores_over_these_frames": (
                None if self.scores is None else {run: vars(scores) for run, scores in self.scores.items()}
            ),
        }


@dataclass
class ParityReport:
    """What was compared, how far it was apart, and what was asked."""

    frames_are: str
    frames: int = 0
    resets: list[str] = field(default_factory=list)
    outputs: dict[str, float] = field(default_factory=dict)  # largest absolute difference, each with its own state
    outputs_relative: dict[str, float] = field(default_factory=dict)  # the share of its size, of the worst frame
    boxes: BoxParity = field(default_factory=BoxParity)
    step_boxes: BoxParity | None = None  # of a quantised model: from torch's integers and state, step by step
    step_outputs_relative: dict[str, float] = field(default_factory=dict)
    control: BesideRun | None = None  # torch with other convolution kernels
    weights: int = 0
    weight_integers: int = 0
    weight_integers_different: int = 0
    activations: dict[str, ActivationParity] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)  # activations that torch quantises and the file does not
    unlike: list[str] = field(default_factory=list)  # whose forward gives other numbers than what is compared
    default_mode: BesideRun | None = None  # ONNX Runtime's own fusion of Q/DQ, which rounds biases to int32
    default_mode_error: str | None = None  # where that mode refuses the file
    # NDS and mAP of "torch" and "onnxruntime", each with its own state; few frames, so only a hint.
    scores: dict[str, RunScores] = field(default_factory=dict)
    scored_frames: int = 0
    weights_used: set[str] = field(default_factory=set)  # modules whose quantised weights a step reads
    onnxruntime: str = onnxruntime.__version__
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def judged(self) -> tuple[str, dict[str, float], BoxParity]:
        """(how both sides were run, outputs, boxes): a quantised model from the same integers, a float one as used."""
        if self.step_boxes is not None:
            return "from the same integers", self.step_outputs_relative, self.step_boxes
        return "own state", self.outputs_relative, self.boxes

    def judge(self) -> None:
        """Say in sentences what is not as it was asked. Every comparison is one that a NaN fails."""
        self.failures = []
        for name in self.lost:
            self.failures.append(f"activation '{name}' is quantised in torch and has no QuantizeLinear in the file")
        for name in self.unlike:
            self.failures.append(f"activation '{name}': its quantiser gives other numbers than scale times integers")
        if self.weight_integers_different:
            self.failures.append(f"{self.weight_integers_different} of {self.weight_integers} weight integers differ")
        for name, item in self.activations.items():
            if item.largest_step > 1 or item.different > INTEGER_SHARE_TOLERANCE * item.elements:
                self.failures.append(
                    f"activation '{name}': {item.different} of {item.elements} integers differ, by up to "
                    f"{item.largest_step}"
                )
        unseen = [name for name, item in self.activations.items() if not item.elements]
        if unseen:
            self.failures.append(f"activation '{unseen[0]}' is in the file and was never quantised in torch")
        how, outputs, boxes = self.judged
        for name, value in outputs.items():
            if not value <= OUTPUT_TOLERANCE:
                self.failures.append(f"output '{name}', {how}, differs by {value:.2e} of its size")
        for name, tolerance in BOX_TOLERANCES.items():
            value, (what, unit) = getattr(boxes, name), _SAID[name]
            if not value <= tolerance:
                self.failures.append(f"{what}, {how}, differ by up to {value:.2e}{unit}")
        if boxes.detections_moved:
            self.failures.append(
                f"{boxes.detections_moved} of {boxes.detections} detections, {how}, have no partner in the file"
            )
        for name, value in self.outputs.items():
            if not np.isfinite(value):
                self.failures.append(f"output '{name}' with its own state is not finite")
        if len([reason for reason in self.resets if reason]) < 2:
            self.failures.append("the sequence holds no reset after its first frame")

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "failures": self.failures,
            "onnxruntime": self.onnxruntime,
            "frames_are": self.frames_are,
            "frames": self.frames,
            "resets": self.resets,
            "outputs_max_abs_difference": self.outputs,
            "outputs_relative_difference": self.outputs_relative,
            "outputs_relative_difference_from_same_integers": self.step_outputs_relative or None,
            "boxes": vars(self.boxes),
            "boxes_from_same_integers": vars(self.step_boxes) if self.step_boxes else None,
            "torch_against_itself": self.control.to_dict() if self.control else None,
            "weights": {
                "tensors": self.weights,
                "integers": self.weight_integers,
                "different": self.weight_integers_different,
            },
            "activations": {name: vars(item) for name, item in self.activations.items()},
            "activations_lost": self.lost,
            "activations_unlike_their_quantiser": self.unlike,
            "default_mode": self.default_mode.to_dict() if self.default_mode else None,
            "default_mode_error": self.default_mode_error,
            "scores": {run: vars(scores) for run, scores in self.scores.items()},
            "scored_frames": self.scored_frames,
            "asked": {
                "frames": PARITY_FRAMES,
                "output_relative": OUTPUT_TOLERANCE,
                **{f"box_{name}": tolerance for name, tolerance in BOX_TOLERANCES.items()},
                "detections_moved": 0,
                "activation_integers_different": INTEGER_SHARE_TOLERANCE,
                "activation_steps": 1,
                "weight_integers_different": 0,
            },
        }


def prove(
    graph: StreamingGraph,
    model: onnx.ModelProto,
    taps: dict[str, str],
    frames: Iterable[StreamFrame],
    frames_are: str,
    progress: Any = None,
) -> ParityReport:
    """Run the sequence through both and compare.

    Outputs and boxes: each side feeds back its own state, through all frames. A quantised model is also compared
    stretch by stretch, from the same integers and the same state, and that is what is judged: rounding is a threshold,
    so that two runs whose float sums differ in the last bit drift apart by whole steps. How far torch so drifts from
    itself with other convolution kernels is reported beside, over the first frames, and so is ONNX Runtime's default
    mode. `taps` names the tensor of integers of each quantiser.
    """
    report = ParityReport(frames_are)
    names = [item.name for item in graph_outputs(graph.spec, graph.options)]
    report.outputs, report.outputs_relative = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    report.activations = {name: ActivationParity() for name in taps}
    inputs = graph_inputs(graph.spec, graph.options)
    reference = _Reference(graph, Feeds(inputs), names, taps, report, model)
    expected_stream = StreamingSession(reference.step)
    ours = stream_of(session_of(model, share_arena=True), inputs)
    accuracy = Accuracy(graph.spec)
    beside: list[tuple[BesideRun, StreamingSession]] = []
    default_accuracy = Accuracy(graph.spec)
    if taps:
        report.step_boxes, report.step_outputs_relative = BoxParity(), dict.fromkeys(names, 0.0)
        report.control = BesideRun(CONTROL_FRAMES)
        beside = [(report.control, StreamingSession(reference.control_step))]
        try:
            beside.append(
                (
                    default_mode := BesideRun(DEFAULT_MODE_FRAMES),
                    stream_of(session_of(model, {}, share_arena=True), inputs),
                )
            )
            report.default_mode = default_mode
        except Exception as error:  # ONNX Runtime's own classes, which derive from nothing narrower
            report.default_mode_error = str(error).strip().splitlines()[0]
    with torch.inference_mode(), parametrize.cached(), recording_integers(graph.model) as reference.recorded:
        for frame in frames:
            arguments = (frame.image, frame.lidar2img, frame.ego, frame.scene)
            expected = expected_stream.step(*arguments)
            arrays = [expected.bev_embed, expected.classes, expected.coords]
            output = ours.step(*arguments)
            found = [output.bev_embed, output.classes, output.coords]
            for name, left, right in zip(names, arrays, found, strict=True):
                gap = np.abs(left.astype(np.float64) - right.astype(np.float64)).max()
                report.outputs[name] = larger(report.outputs[name], gap)
                relative = relative_gap(right, left)
                report.outputs_relative[name] = larger(report.outputs_relative[name], relative)
            report.boxes.add(arrays, found, graph.spec)
            said = {"torch": arrays, "onnxruntime": found}
            accuracy.add_all(frame, said)
            for to, stream in beside:
                if to.frames == to.asked:
                    continue
                other = stream.step(*arguments)
                theirs = [other.bev_embed, other.classes, other.coords]
                to.frames += 1
                to.boxes.add(arrays, theirs, graph.spec)
                to.file_boxes.add(arrays, found, graph.spec)
                if to is report.default_mode:
                    default_accuracy.add_all(frame, {**said, "default mode": theirs})
            report.resets.append(expected.reset_reason)
            report.frames += 1
            if progress is not None:
                progress(report.frames)
    report.scores, report.scored_frames = accuracy.scores(), len(accuracy.frames)
    if report.default_mode is not None:
        report.default_mode.scores = default_accuracy.scores()
    report.weights_used, report.lost = reference.recorded.weights_used, sorted(reference.recorded.lost)
    report.unlike = sorted(reference.recorded.unlike)
    return report


class _Reference:
    """torch's step; where the model is quantised, each frame is also run through the copy that is cut at quantisers."""

    def __init__(
        self,
        graph: StreamingGraph,
        feeds: Feeds,
        names: list[str],
        taps: dict[str, str],
        report: ParityReport,
        model: onnx.ModelProto,
    ) -> None:
        self.graph, self.feeds, self.names, self.taps, self.report = graph, feeds, names, taps, report
        self.recorded, self.model = RecordedIntegers(), model
        self.forced: Any = None  # made at the first step, which tells which quantisers run
        self.bounds = (
            {name: (item.grid.qmin, item.grid.qmax) for name, item in activation_quantizers(graph.model).items()}
            if graph.options.clip == "relaxed"
            else {}
        )

    def _run(self, feed: dict[str, Any]) -> tuple[Array, Array, Array]:
        inputs = graph_inputs(self.graph.spec, self.graph.options)
        first, second, third = self.graph(
            *(torch.from_numpy(feed[item.name]).to(DTYPES[item.dtype]) for item in inputs)
        )
        return first.numpy(), second.numpy(), third.numpy()

    def step(self, *arguments: Any) -> tuple[Array, Array, Array]:
        feed = self.feeds(*arguments)
        outputs = self._run(feed)
        integers = self.recorded.take(self.taps)
        if integers and self.report.step_boxes is not None:
            if self.forced is None:
                cut = forced_copy(self.model, {name: self.taps[name] for name in integers})
                self.forced = session_of(cut, share_arena=True)
            given = {self.taps[name] + FORCED: array for name, array in integers.items()}
            tensors = list(dict.fromkeys(self.taps[name] for name in integers))
            found = self.forced.run([*self.names, *tensors], {**feed, **given})
            computed = dict(zip(tensors, found[len(self.names) :], strict=True))
            for name, array in integers.items():
                self.report.activations[name].add(array, computed[self.taps[name]], self.bounds.get(name))
            self.report.step_boxes.add(list(outputs), found[: len(self.names)], self.graph.spec)
            for name, left, right in zip(self.names, outputs, found, strict=False):  # the integers come behind
                relative = relative_gap(right, left)
                self.report.step_outputs_relative[name] = larger(self.report.step_outputs_relative[name], relative)
        return outputs

    def control_step(self, *arguments: Any) -> tuple[Array, Array, Array]:
        """The same model with torch's own convolutions instead of oneDNN's: equal but for the order of sums."""
        self.recorded.paused = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that a GPU's flags, which the same switch sets, do nothing
            with torch.backends.mkldnn.flags(enabled=False):
                outputs = self._run(self.feeds(*arguments))
        self.recorded.paused = False
        return outputs
