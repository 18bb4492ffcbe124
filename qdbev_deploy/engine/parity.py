"""The proof of an engine: beside ONNX Runtime on the file, over a sequence, each with its state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import onnx

from qdbev_deploy.agreement import BoxParity, larger
from qdbev_deploy.boxes import Boxes, decode
from qdbev_deploy.contract import CLASSES, VariantSpec
from qdbev_deploy.data.stream_frames import StreamFrame
from qdbev_deploy.engine.documents import PARITY_SCHEMA, parity_summary
from qdbev_deploy.engine.interface import Array, Engine, Stream
from qdbev_deploy.files import jsonable
from qdbev_deploy.reference import Feeds, session_of
from qdbev_deploy.streaming import StreamingSession

MATCH_M = 1.0  # one of nuScenes' matching distances
MATCH_SCORE = 0.1
STATE_CHECKS = 3  # carried frames on which the handle's road and the copied road of the state are compared
STATE_TOLERANCE = 1e-3  # of the largest value: kernels may sum in another order from run to run

Arithmetic = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Tolerance:
    """What is asked of an engine, from the reference's own state frame by frame.

    `relative`: root mean square of an output's difference over that of the output. `detections`: share of the
    reference's detections, weighted by their scores, that have a partner of their class within MATCH_M metres whose
    score is within MATCH_SCORE. `center_m`: largest distance of any query's centre; None: not asked.
    """

    relative: float
    detections: float
    center_m: float | None = None


# In float32 only the order of sums differs. FP16 has eleven bits. In int8 a last bit before a rounding becomes a whole
# step of the grid behind it, so that a few elements of each activation are one step off whatever the kernel does.
TOLERANCES: dict[Arithmetic, Tolerance] = {
    "fp32": Tolerance(relative=1e-3, detections=0.999, center_m=1e-3),
    "fp16": Tolerance(relative=0.03, detections=0.95),
    "int8": Tolerance(relative=0.15, detections=0.90),
}


@dataclass
class Gap:
    """How far the engine is from the reference, over the frames: the worst of each."""

    outputs_max_abs: dict[str, float] = field(default_factory=dict)
    outputs_relative: dict[str, float] = field(default_factory=dict)
    boxes: BoxParity = field(default_factory=BoxParity)
    detections: float = 1.0

    def add(self, names: list[str], ours: list[Array], theirs: list[Array], spec: VariantSpec) -> float:
        """Count a frame in; `theirs` is the reference. Returns its largest relative difference."""
        worst = 0.0
        for name, left, right in zip(names, ours, theirs, strict=True):
            a, b = left.astype(np.float64), right.astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                gap = a - b
                relative = np.sqrt(np.mean(gap**2)) / max(float(np.sqrt(np.mean(b**2))), 1e-12)
                self.outputs_max_abs[name] = larger(self.outputs_max_abs.get(name, 0.0), np.abs(gap).max())
            self.outputs_relative[name] = larger(self.outputs_relative.get(name, 0.0), relative)
            worst = larger(worst, relative)
        self.boxes.add(theirs, ours, spec)
        # Among twice as many, as the last of the best are near ties that any rounding exchanges with the next.
        more = dataclasses.replace(spec, max_boxes=min(2 * spec.max_boxes, spec.queries * len(CLASSES)))
        found = _matched(decode(theirs[1], theirs[2], spec), decode(ours[1], ours[2], more))
        self.detections = float(np.minimum(self.detections, found))
        return worst


def _matched(reference: Boxes, found: Boxes) -> float:
    """Share of the reference's detections with a partner, weighted by score; 1 where there are none on either side."""
    if not len(reference):
        return 1.0 if not len(found) else 0.0
    if not len(found):
        return 0.0
    apart = np.linalg.norm(reference.center[:, None, :2] - found.center[None, :, :2], axis=-1)
    apart[reference.label[:, None] != found.label[None]] = np.inf
    apart[np.abs(reference.score[:, None] - found.score[None]) > MATCH_SCORE] = np.inf
    has_partner = apart.min(axis=1) <= MATCH_M
    return float(reference.score[has_partner].sum() / reference.score.sum())


@dataclass
class EngineParity:
    """What was compared, how far it was apart, and what was asked."""

    frames_are: str
    arithmetic: Arithmetic
    reference: str
    frames: int = 0
    resets: list[str] = field(default_factory=list)
    same_state: Gap = field(default_factory=Gap)  # the engine is given the reference's state before each frame
    own_state: Gap = field(default_factory=Gap)  # each carries its own
    state_gap: float = 0.0  # the engine's state by its handle and copied in, relative to the largest value
    state_checks: int = 0
    failures: list[str] = field(default_factory=list)
    worst_feeds: dict[str, Array] | None = field(default=None, repr=False)  # inputs of the frame that differed most

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def asked(self) -> Tolerance:
        return TOLERANCES[self.arithmetic]

    def judge(self) -> None:
        """Say in sentences what is not as it was asked. Every comparison is one that a NaN fails."""
        self.failures = []
        for name, value in self.same_state.outputs_relative.items():
            if not value <= self.asked.relative:
                self.failures.append(
                    f"output '{name}' differs by {value:.2g} of its size; {self.asked.relative:g} may be"
                )
        if not self.same_state.detections >= self.asked.detections:
            self.failures.append(
                f"{self.same_state.detections:.1%} of the detections are found again, not {self.asked.detections:.1%}"
            )
        if self.asked.center_m is not None and not self.same_state.boxes.center_m <= self.asked.center_m:
            self.failures.append(f"box centres differ by up to {self.same_state.boxes.center_m:.2g} m")
        if not self.state_gap <= STATE_TOLERANCE:
            self.failures.append(
                f"a state carried on the device differs by {self.state_gap:.2g} from the same copied in"
            )
        for name, value in self.own_state.outputs_max_abs.items():
            if not np.isfinite(value):
                self.failures.append(f"output '{name}' is not finite when the engine carries its own state")
        if sum(map(bool, self.resets)) < 2 or not self.state_checks:
            self.failures.append("the sequence does not both carry the state and drop it after its first frame")

    def summary(self) -> dict[str, Any]:
        """The few numbers of the manifest."""
        return parity_summary(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        document = asdict(dataclasses.replace(self, worst_feeds=None))
        del document["worst_feeds"]
        return {
            "schema": PARITY_SCHEMA,
            "passed": self.passed,
            **{name: jsonable(value) for name, value in document.items()},
            "asked": {**asdict(self.asked), "state": STATE_TOLERANCE, "match_m": MATCH_M, "match_score": MATCH_SCORE},
        }


def prove(
    engine: Engine,
    reference: onnx.ModelProto | str,
    spec: VariantSpec,
    frames: Iterable[StreamFrame],
    frames_are: str,
    arithmetic: Arithmetic,
    *,
    reference_is: str = "ONNX Runtime on the file, unfused",
    progress: Callable[[int], object] = lambda done: None,
) -> EngineParity:
    """Run the sequence through the engine and through ONNX Runtime on the CPU, and compare.

    Judged from the same state, frame by frame: rounding is a threshold, so that two quantised runs drift apart by whole
    steps once their sums differ in the last bit. How far they are apart with a state of their own is reported beside.
    """
    report = EngineParity(frames_are, arithmetic, reference_is)
    runtime = session_of(reference)
    feeds, names = Feeds(engine.inputs), [output.name for output in engine.outputs]
    own, given = engine.stream(), engine.stream()
    try:
        driven = _Driven(runtime, feeds, names, given, own, spec, engine, report)
        session = StreamingSession(driven.step)
        for frame in frames:
            output = session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
            report.resets.append(output.reset_reason)
            report.frames += 1
            progress(report.frames)
    finally:
        own.close()
        given.close()
    report.judge()
    return report


class _Driven:
    """The reference's step, which takes the engine along: once from its own state, once from the reference's."""

    def __init__(self, runtime: Any, feeds: Feeds, names: list[str], given: Stream, own: Stream, spec: VariantSpec,
                 engine: Engine, report: EngineParity) -> None:  # fmt: skip
        self.runtime, self.feeds, self.names, self.spec, self.report = runtime, feeds, names, spec, report
        self.given, self.own = given, own
        self.specs, self.state_name = tuple(engine.outputs), engine.inputs[1].name
        self.handle: Any = None
        self.worst = 0.0

    def _run(self, stream: Stream, prev_bev: Any, arguments: tuple[Any, ...]) -> tuple[Any, list[Array]]:
        """(handle, copies of the outputs)."""
        image, *rest = arguments
        handle, classes, coords = stream.step(image, prev_bev, *rest)
        arrays = [stream.read_state(handle), np.array(classes), np.array(coords)]
        return handle, [array.reshape(spec.shape) for array, spec in zip(arrays, self.specs, strict=True)]

    def step(self, image: Array, prev_bev: Any, *rest: Any) -> tuple[Array, Array, Array]:
        arguments = (image, *rest)
        feeds = self.feeds(image, prev_bev, *rest)
        expected = list(self.runtime.run(self.names, feeds))
        carried = prev_bev is not None
        own_before = self.own.read_state(self.handle) if carried else None
        self.handle, own = self._run(self.own, self.handle if carried else None, arguments)
        self.report.own_state.add(self.names, own, expected, self.spec)
        # On a first frame that is no number: whoever reads what must not be read is caught, not served with zeros.
        _, same = self._run(self.given, feeds[self.state_name], arguments)
        worst = self.report.same_state.add(self.names, same, expected, self.spec)
        if not worst <= self.worst:  # a NaN is worse than anything
            self.worst, self.report.worst_feeds = worst, {name: array.copy() for name, array in feeds.items()}
        if carried and self.report.state_checks < STATE_CHECKS:
            _, copied = self._run(self.given, own_before, arguments)
            for left, right in zip(own, copied, strict=True):
                a, b = left.astype(np.float64), right.astype(np.float64)
                gap = np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-12)
                self.report.state_gap = larger(self.report.state_gap, gap)
            self.report.state_checks += 1
        bev_embed, classes, coords = expected
        return bev_embed, classes, coords
