"""What the harness itself costs a frame: in those that were measured, and with an engine that does nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qdbev_deploy.bench.clock import Clock, reading_cost_us
from qdbev_deploy.bench.measure import without_garbage_collection
from qdbev_deploy.bench.recording import STAGES, Recording
from qdbev_deploy.bench.samples import Samples
from qdbev_deploy.bench.scenarios import back_to_back
from qdbev_deploy.bench.system import System
from qdbev_deploy.bench.watch import Sensors
from qdbev_deploy.contract import TensorSpec, VariantSpec, stream_inputs, stream_outputs
from qdbev_deploy.engine.interface import Array, Float, Memory, StageTimes, Stream, StreamOptions

FRAMES = 100
_EVICTED_BYTES = 32 << 20  # read between frames: a network's frame leaves nothing of the harness in the caches


class NullStream:
    """Returns what it made once; reads nothing."""

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        self.times = StageTimes(0.0, 0.0, 0.0, 0.0, 0.0)
        rng = np.random.default_rng(0)
        self._state = object()
        self._classes, self._coords = (rng.standard_normal(o.shape).astype(np.float32) for o in outputs[1:])

    def step(
        self, image: Array, prev_bev: Any, use_prev_bev: bool, can_bus: Float, lidar2img: Float
    ) -> tuple[Any, Array, Array]:
        return self._state, self._classes, self._coords

    def read_state(self, handle: Any) -> Array:
        return np.zeros(0, np.float32)

    def close(self) -> None:
        return


class NullEngine:
    """An engine of such streams."""

    def __init__(self, spec: VariantSpec) -> None:
        self.inputs, self.outputs = stream_inputs(spec), stream_outputs(spec)

    def stream(self, options: StreamOptions | None = None) -> NullStream:
        return NullStream(self.outputs)

    def memory(self) -> Memory:
        return Memory()

    def profile(self, feeds: Callable[[Stream], None]) -> dict[str, float]:
        return {}

    def close(self) -> None:
        return


def measure_overhead(
    spec: VariantSpec, samples: Samples, options: StreamOptions, clock: Clock, sensors: Sensors, latency: Recording,
    frames: int = FRAMES,
) -> dict[str, Any]:  # fmt: skip
    """`overhead_us`: medians over null frames, which bound from below what real ones cost; and what `latency` shows."""
    plain = Samples(samples.kind, samples.source, samples.frames, native=False)  # preprocessing is no harness
    recording = Recording(frames)
    other_data = np.ones(_EVICTED_BYTES // 8)
    evicting_ns: list[int] = []

    def evict(next_arrival_ns: int | None) -> None:
        began = clock.now_ns()
        other_data.sum()
        evicting_ns.append(clock.now_ns() - began)

    with System(NullEngine(spec), spec, plain, options, clock) as system:
        for index in range(min(len(plain.frames), frames)):
            system.run(index, recording)
        recording.rewind()
        system.restart()
        with without_garbage_collection():
            back_to_back(system.run, recording, frames, evict, lambda: False)
    step_us, decode_us = (float(np.median(recording.column(name))) * 1e3 for name in ("step", "decode"))
    # From taking a frame to taking the next: what is neither the step nor decoding nor ours is the harness.
    between_us = (np.diff(recording.column("taken_ns")) - np.array(evicting_ns[:-1])) / 1e3
    inside_us = (recording.column("step") + recording.column("decode"))[:-1] * 1e3
    harness_us = max(float(np.median(between_us - inside_us)), 0.0) if frames > 1 else 0.0
    real = _in_measured_frames(latency)
    p50_ms = float(np.median(latency.column("total")))
    largest_us = max(step_us + harness_us, real["rest"] or 0.0)
    return {
        "session": step_us,
        "harness": harness_us,
        "beyond_step": step_us + harness_us,
        "decode": decode_us,
        "sensors": _a_reading_us(sensors, clock),
        "timer": reading_cost_us(clock),
        "frames": frames,
        "in_measured_frames": real,
        "share_of_p50": largest_us / 1e3 / p50_ms if p50_ms > 0 else None,
    }


def _in_measured_frames(latency: Recording) -> dict[str, float | None]:
    """Medians of what the host did in the frames that were measured; None where the engine does not tell."""
    stages = {name: latency.column(name) for name in STAGES}
    known = {name: values for name, values in stages.items() if np.isfinite(values).all()}
    told = bool(len(latency.column("total"))) and any(name in known for name in ("compute", "enqueue"))
    rest = latency.column("total") - sum(known.values(), np.zeros(latency.count)) if told else None
    return {
        "rest": None if rest is None else float(np.median(rest)) * 1e3,
        **{name: float(np.median(known[name])) * 1e3 if name in known else None for name in ("host_prep", "decode")},
    }


def _a_reading_us(sensors: Sensors, clock: Clock) -> float:
    """Of all sensors once, as between frames every 100 ms; no frame's time holds it."""
    costs = []
    for _ in range(5):
        began = clock.now_ns()
        for sensor in sensors.present:
            sensor.read()
        costs.append((clock.now_ns() - began) / 1e3)
    return float(np.median(costs))
