"""A clock that moves only when told, an engine whose frames take what a script says, and a bundle of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qdbev_deploy.bench.measure import Measurement
from qdbev_deploy.bench.recording import Recording
from qdbev_deploy.bench.run import Tools
from qdbev_deploy.bench.samples import SampleRequest, Samples, make_samples
from qdbev_deploy.bench.watch import Readings, Sensors
from qdbev_deploy.contract import TensorSpec, VariantSpec, stream_inputs, stream_outputs
from qdbev_deploy.engine.interface import Layer, Memory, StageTimes, Stream, StreamOptions
from tests.model.reference import SPEC

MS = 1_000_000


class FakeClock:
    """Stands still between what is done to it."""

    def __init__(self) -> None:
        self.now = 1_000 * MS
        self.readings = 0

    def now_ns(self) -> int:
        self.readings += 1
        return self.now

    def sleep_until_ns(self, moment_ns: int) -> None:
        self.now = max(self.now, moment_ns)


class FakeStream:
    """Takes the next scripted time; remembers what it was fed."""

    def __init__(self, engine: FakeEngine) -> None:
        self.times = StageTimes()
        self._engine = engine
        rng = np.random.default_rng(0)
        self._results = [rng.standard_normal(spec.shape).astype(np.float32) for spec in engine.outputs[1:]]

    def step(self, image: Any, prev_bev: Any, use_prev_bev: bool, can_bus: Any, lidar2img: Any) -> tuple[Any, Any, Any]:
        engine = self._engine
        engine.fed.append((float(image.ravel()[0]), use_prev_bev, float(lidar2img.ravel()[0])))
        milliseconds = engine.latency(len(engine.fed) - 1)
        engine.clock.now += round(milliseconds * MS)
        self.times = StageTimes(host_prep=0.25 * milliseconds, compute=0.5 * milliseconds)
        return object(), *self._results

    def read_state(self, handle: Any) -> Any:
        return np.zeros(1, np.float32)

    def close(self) -> None:
        self._engine.closed_streams += 1


class FakeEngine:
    """Streams that share a script: the n-th step of all takes `latency(n)` milliseconds."""

    def __init__(self, spec: VariantSpec, clock: FakeClock, latency: Callable[[int], float]) -> None:
        self.inputs, self.outputs = stream_inputs(spec), stream_outputs(spec)
        self.clock, self.latency = clock, latency
        self.fed: list[tuple[float, bool, float]] = []
        self.closed_streams = 0
        self.closed = False

    def stream(self, options: StreamOptions | None = None) -> FakeStream:
        return FakeStream(self)

    def memory(self) -> Memory:
        return Memory(weights=1000, io=500)

    def profile(self, feeds: Callable[[Stream], None]) -> dict[str, float]:
        feeds(self.stream())
        return {"conv": 1.5}

    def close(self) -> None:
        self.closed = True


class FakeBundle:
    """A folder with as much of a bundle as the harness reads."""

    def __init__(self, path: Path, engine: FakeEngine, spec: VariantSpec = SPEC) -> None:
        path.mkdir(exist_ok=True)
        (path / "manifest.json").write_text("{}", encoding="utf-8")
        (path / "model.onnx").write_bytes(b"12345")
        self.path, self.spec, self._engine = path, spec, engine
        self.manifest: dict[str, Any] = {
            "backend": "onnxruntime", "engine_file": "model.onnx", "precision": {"precision": "int8", "emulated": True},
            "build": {"options": {}, "opens_with": {"provider": "CPUExecutionProvider"}},
        }  # fmt: skip
        self.inputs: Sequence[TensorSpec] = stream_inputs(spec)
        self.layers = (Layer("conv", "Conv", "int8", ("conv",), time_ms=None),)

    def engine(self) -> FakeEngine:
        return self._engine


def scripted(values: Iterable[float]) -> Callable[[int], float]:
    """Those, over and over."""
    listed = tuple(values)
    return lambda index: listed[index % len(listed)]


def drive(count: int = 4, spec: VariantSpec = SPEC) -> Samples:
    """Noise in the shape of a drive; the first pixel tells frames apart."""
    made = make_samples(SampleRequest("random", count=count), spec, "float32")
    for index, frame in enumerate(made.frames):
        frame.image[...] = 0
        frame.image.ravel()[0] = index
    return Samples("sequence", "a scripted drive", made.frames, native=False)


class FakeSensor:
    """Readings from a function of how often it was read."""

    name = "fake"

    def __init__(self, name: str, **readings: Callable[[int], float]) -> None:
        self.name = name
        self._readings, self.reads = readings, 0

    def missing(self) -> str | None:
        return None

    def read(self) -> dict[str, float]:
        self.reads += 1
        return {name: value(self.reads) for name, value in self._readings.items()}

    def close(self) -> None:
        return


def measured(latencies_ms: Iterable[float]) -> Measurement:
    """A measurement of those frames, one after the other, and of nothing else."""
    listed = list(latencies_ms)
    recording = Recording(len(listed))
    now = 0
    for index, latency in enumerate(listed):
        done = now + round(latency * MS)
        recording.add(index, (now, now, done, done), None, False)
        now = done
    return Measurement(recording, Readings({}), seconds=now / 1e9)


def tools(clock: FakeClock, samples: Samples, *sensors: Any, period_ns: int = 0) -> Tools:
    return Tools(clock, Sensors(list(sensors)), period_ns, samples, overhead_frames=2)
