"""One measurement in this process: warm-up, the scenario, and again; everything it learnt, still as numbers."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from qdbev_deploy.bench.clock import Clock
from qdbev_deploy.bench.recording import Recording
from qdbev_deploy.bench.samples import Samples
from qdbev_deploy.bench.scenarios import StreamLog, StreamPlan, arriving, back_to_back
from qdbev_deploy.bench.system import Subject, System
from qdbev_deploy.bench.warmup import Warmup, warm_up
from qdbev_deploy.bench.watch import PERIOD_NS, Readings, Sensors, Watch
from qdbev_deploy.engine.interface import Engine, Memory, StreamOptions

ScenarioName = Literal["single", "stream", "co-located", "cold", "soak"]
Progress = Callable[[int, "int | None", str], None]  # (frames done, in all, note)

_MOST_ROWS = 4_000_000  # of a soak: 400 MB
_LOG_ARRAYS = ("arrives_ns", "done_ns", "overslept_ns")
_PROGRESS_NS = 200_000_000
_PROGRESS_ROOM_NS = 20_000_000  # a stream's next frame must be at least so far away


def silent(done: int, total: int | None, note: str) -> None:
    """A progress that nobody watches."""


@dataclass(frozen=True)
class Plan:
    """What is asked of a measurement."""

    scenario: ScenarioName = "single"
    frames: int = 300  # measured, all repeats together
    repeats: int = 3
    warmup_frames: int | None = None  # None: until it has settled
    duration_s: float | None = None  # of a soak, instead of frames
    stream: StreamPlan | None = None  # None: back to back
    options: StreamOptions = field(default_factory=lambda: StreamOptions(timed=True))
    confidence: float = 0.95
    keep_partial: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Plan:
        stream = None if value["stream"] is None else StreamPlan(**value["stream"])
        return cls(**{**value, "stream": stream, "options": StreamOptions(**value["options"])})

    def frames_of(self, repeat: int) -> int:
        """The frames, dealt out so that repeats differ by one at most."""
        return self.frames // self.repeats + (repeat < self.frames % self.repeats)


@dataclass
class Measurement:
    """What one measurement gave."""

    recording: Recording
    readings: Readings
    warmups: list[Warmup] = field(default_factory=list)
    streams: list[StreamLog] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    seconds: float = 0.0  # of the measured stretches together
    partial: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For another process."""
        recording = self.recording
        return {
            "rows": recording.rows[: recording.count].tolist(),
            "readings": {name: column.tolist() for name, column in self.readings.columns.items()},
            "warmups": [warmup.to_dict() for warmup in self.warmups],
            "streams": [{name: getattr(log, name).tolist() for name in _LOG_ARRAYS} | {"arrived": log.arrived}
                        for log in self.streams],
            "memory": asdict(self.memory),
            "seconds": self.seconds,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Measurement:
        return cls(
            Recording.of(np.asarray(value["rows"], np.float64)),
            Readings({name: np.asarray(column, np.float64) for name, column in value["readings"].items()}),
            [Warmup(**warmup) for warmup in value["warmups"]],
            [StreamLog(**{name: np.asarray(log[name]) for name in _LOG_ARRAYS}, arrived=int(log["arrived"]))
             for log in value["streams"]],
            Memory(**value["memory"]),
            value["seconds"],
        )  # fmt: skip


@dataclass(frozen=True)
class Hooks:
    """What those who run side by side do before and after the measured stretch: wait for each other, stay busy."""

    before: Callable[[], None] = lambda: None
    after: Callable[[System], None] = lambda system: None
    stop: Callable[[], bool] = lambda: False


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Python's cyclic collector stays out of the measured stretch; reference counting goes on."""
    gc.collect()
    gc.freeze()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def measure(
    subject: Subject, samples: Samples, plan: Plan, clock: Clock, sensors: Sensors, progress: Progress = silent,
    period_ns: int = PERIOD_NS, hooks: Hooks = Hooks(),
) -> Measurement:  # fmt: skip
    """Load the engine, then `plan.repeats` times: a fresh stream, warm-up, the scenario with its state."""
    engine = subject.engine()
    try:
        return measure_engine(engine, subject, samples, plan, clock, sensors, progress, period_ns, hooks)
    finally:
        engine.close()


def measure_engine(
    engine: Engine, subject: Subject, samples: Samples, plan: Plan, clock: Clock, sensors: Sensors, progress: Progress,
    period_ns: int = PERIOD_NS, hooks: Hooks = Hooks(),
) -> Measurement:  # fmt: skip
    """The same with an engine that others may share."""
    result: Measurement | None = None
    watch: Watch | None = None
    for repeat in range(plan.repeats):
        with System(engine, subject.spec, samples, plan.options, clock) as system:
            progress(result.recording.count if result else 0, None, "warming up")
            warmup = warm_up(system.run, clock, plan.warmup_frames)
            system.restart()
            if result is None or watch is None:
                recording = Recording(_capacity(plan, warmup))
                watch = Watch(sensors.present, recording, clock, period_ns)
                result = Measurement(recording, watch.readings())
            result.warmups.append(warmup)
            result.recording.repeat = repeat
            try:
                _stretch(system, plan, repeat, result, watch, clock, progress, hooks)
                system.restart()
                hooks.after(system)
            except KeyboardInterrupt:
                if not plan.keep_partial or result.recording.count == 0:
                    raise
                result.partial = True
                break
    assert result is not None
    assert watch is not None
    result.readings = watch.readings()
    result.memory = engine.memory()  # last: a backend may read the engine file for it
    return result


def _capacity(plan: Plan, warmup: Warmup) -> int:
    if plan.duration_s is None:
        return plan.frames
    if plan.stream is not None:
        return _count(plan)
    a_frame_s = max(warmup.seconds / max(warmup.frames, 1), 1e-6)
    return min(math.ceil(plan.duration_s / a_frame_s * 2) + 1000, _MOST_ROWS)


def _count(plan: Plan) -> int:
    assert plan.duration_s is not None
    assert plan.stream is not None
    return max(math.ceil(plan.duration_s * plan.stream.rate_hz), 1)


def _stretch(
    system: System, plan: Plan, repeat: int, result: Measurement, watch: Watch, clock: Clock, progress: Progress,
    hooks: Hooks,
) -> None:  # fmt: skip
    """The measured part of one repeat."""
    recording = result.recording
    count = plan.frames_of(repeat) if plan.duration_s is None else len(recording.rows)
    shown_ns = began = clock.now_ns()

    def between(next_arrival_ns: int | None) -> None:
        nonlocal shown_ns
        watch.between(next_arrival_ns)
        now = clock.now_ns()
        idle = next_arrival_ns is None or next_arrival_ns - now > _PROGRESS_ROOM_NS
        if now - shown_ns > _PROGRESS_NS and idle:
            shown_ns = now
            if plan.duration_s is None:
                progress(recording.count, plan.frames, f"repeat {repeat + 1} of {plan.repeats}")
            else:
                progress(int((now - began) / 1e9), math.ceil(plan.duration_s), "seconds")

    with without_garbage_collection():
        hooks.before()
        watch.read()
        began = clock.now_ns()
        ends = math.inf if plan.duration_s is None else began + plan.duration_s * 1e9
        try:
            if plan.stream is None:
                back_to_back(system.run, recording, count, between, lambda: hooks.stop() or clock.now_ns() >= ends)
            else:
                count = plan.frames_of(repeat) if plan.duration_s is None else _count(plan)
                log = StreamLog.for_arrivals(plan.stream, count, clock, repeat)
                result.streams.append(log)
                arriving(system.run, recording, plan.stream, log, clock, between)
        finally:
            result.seconds += (clock.now_ns() - began) / 1e9
            watch.read()
