"""What the harness itself costs a frame: the same code, with an engine that does nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qdbev_deploy.bench.clock import Clock, reading_cost_us
from qdbev_deploy.bench.measure import without_garbage_collection
from qdbev_deploy.bench.recording import Recording
from qdbev_deploy.bench.samples import Samples
from qdbev_deploy.bench.scenarios import back_to_back
from qdbev_deploy.bench.system import System
from qdbev_deploy.bench.watch import Sensors, Watch
from qdbev_deploy.contract import TensorSpec, VariantSpec, stream_inputs, stream_outputs
from qdbev_deploy.engine.interface import Array, Float, Memory, StageTimes, Stream, StreamOptions

FRAMES = 400


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
    spec: VariantSpec, samples: Samples, options: StreamOptions, clock: Clock, sensors: Sensors, p50_ms: float
) -> dict[str, Any]:
    """`overhead_us`: medians over FRAMES frames, back to back; what a frame costs beyond the engine's own step."""
    plain = Samples(samples.kind, samples.source, samples.frames, native=False)  # preprocessing is no harness
    recording = Recording(FRAMES)
    with System(NullEngine(spec), spec, plain, options, clock) as system:
        for index in range(len(plain.frames)):
            system.run(index, recording)
        recording.rewind()
        system.restart()
        watch = Watch(sensors.present, recording, clock)
        with without_garbage_collection():
            began = clock.now_ns()
            back_to_back(system.run, recording, FRAMES, watch.between, lambda: False)
            wall_us = (clock.now_ns() - began) / 1e3 / FRAMES
    step_us, decode_us = (float(np.median(recording.column(name))) * 1e3 for name in ("step", "decode"))
    taken_us = recording.column("taken_ns") / 1e3
    frame_us = float(np.median(np.diff(taken_us)))
    harness_us = max(frame_us - decode_us - step_us, 0.0)
    return {
        "session": step_us,
        "harness": harness_us,
        "beyond_step": step_us + harness_us,
        "decode": decode_us,
        "sensors": max(wall_us - frame_us, 0.0),
        "timer": reading_cost_us(clock),
        "frames": FRAMES,
        "share_of_p50": (step_us + harness_us) / 1e3 / p50_ms if p50_ms > 0 else None,
    }
