"""The system under test: a stream of an engine with its state, from a frame in host memory to boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from qdbev_deploy.bench.clock import Clock
from qdbev_deploy.bench.recording import Recording
from qdbev_deploy.bench.samples import Samples
from qdbev_deploy.boxes import Boxes, decode
from qdbev_deploy.contract import TensorSpec, VariantSpec
from qdbev_deploy.data.preprocess import preprocess
from qdbev_deploy.engine.interface import Engine, Layer, Stream, StreamOptions
from qdbev_deploy.streaming import StreamingSession


class Subject(Protocol):
    """What of a bundle is measured and named; `engine.Bundle` is one."""

    @property
    def path(self) -> Path: ...

    @property
    def manifest(self) -> Mapping[str, Any]: ...

    @property
    def spec(self) -> VariantSpec: ...

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...

    @property
    def layers(self) -> Sequence[Layer]: ...

    def engine(self) -> Engine: ...


class System:
    """Runs the n-th frame of a drive that starts over when it ends; the state is dropped where it does."""

    def __init__(
        self, engine: Engine, spec: VariantSpec, samples: Samples, options: StreamOptions, clock: Clock
    ) -> None:
        self._spec = spec
        self._samples = samples
        self._now_ns = clock.now_ns
        self._timed = options.timed
        self._lap = 0
        self.stream: Stream = engine.stream(options)
        self._session = StreamingSession(self.stream.step)
        self.boxes: Boxes | None = None  # of the last frame

    def __enter__(self) -> System:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def restart(self) -> None:
        """Begin the drive anew: the next frame is a first frame."""
        self._session.reset()
        self._lap = 0

    def run(self, index: int, recording: Recording) -> int:
        """One frame from host memory to boxes; returns when it was done."""
        lap, place = divmod(index, len(self._samples.frames))
        if lap != self._lap:
            self._session.reset()
            self._lap = lap
        frame = self._samples.frames[place]
        taken = self._now_ns()
        image = frame.image
        if self._samples.native:
            image = preprocess(image[0], self._spec.preprocess)[None]
        prepared = self._now_ns()
        output = self._session.step(image, frame.lidar2img, frame.ego, frame.scene)
        stepped = self._now_ns()
        self.boxes = decode(output.classes, output.coords, self._spec)
        done = self._now_ns()
        recording.add(index, (taken, prepared, stepped, done), self.stream.times if self._timed else None, output.reset)
        return done
