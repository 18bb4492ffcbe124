"""One sequence on the device: the state stays in two buffers that change places every frame."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from qdbev_deploy.contract import TensorSpec
from qdbev_deploy.engine.interface import Array, Float, StageTimes, StreamOptions
from qdbev_deploy.engine.tensorrt.cuda import Cuda, Event, nbytes_of
from qdbev_deploy.engine.tensorrt.cuda_graph import CudaGraph, capture
from qdbev_deploy.engine.tensorrt.log import Log
from qdbev_deploy.errors import ExitCode, QdbevError

REBUILD = "qdbev-deploy build: it makes a plan of this TensorRT on this GPU"


@dataclass(frozen=True)
class State:
    """A bev_embed on the device: which buffer of which stream, and the step that wrote it."""

    stream: int
    buffer: int
    step: int


class TensorRTStream:
    """One sequence's buffers and its execution context. Not for two threads at once."""

    def __init__(
        self,
        trt: Any,
        cuda: Cuda,
        log: Log,
        context: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        options: StreamOptions,
    ) -> None:
        self.times = StageTimes()
        self._trt, self._cuda, self._log, self._options = trt, cuda, log, options
        self._context: Any = context
        state, *results = outputs
        fed = [spec for spec in inputs if spec.name != inputs[1].name]
        self._prev_name, self._next_name, self._state_spec = inputs[1].name, state.name, state
        self._flag_name = inputs[2].name
        self._specs = {spec.name: spec for spec in (*fed, *results)}
        self._fed, self._results = [spec.name for spec in fed], [spec.name for spec in results]
        self._written = [-1, -1]  # the step that wrote each state buffer; -1: no state is in it
        self._last = 1  # the buffer that was written last
        self._step = 0
        self._graphs: list[CudaGraph] = []
        self._resources = ExitStack()
        try:
            with cuda.current():
                self._allocate()
                if options.cuda_graph:
                    self._capture()
        except BaseException:
            self.close()
            raise

    def _own(self, resource: Any) -> Any:
        self._resources.callback(resource.free)
        return resource

    def _allocate(self) -> None:
        cuda = self._cuda
        self._stream = self._own(cuda.stream())
        spec = self._state_spec
        self._states = [self._own(cuda.memory(nbytes_of(spec.shape, spec.dtype))) for _ in range(2)]
        self._pinned: dict[str, Any] = {}
        self._device: dict[str, Any] = {}
        for name, item in self._specs.items():
            self._device[name] = self._own(cuda.memory(nbytes_of(item.shape, item.dtype)))
            self._pinned[name] = self._own(cuda.pinned(item.shape, item.dtype)).array
            self._bind(name, self._device[name].address)
        for state in self._states:
            self._stream.clear(state)
        blocking = self._options.wait == "block"
        self._marks: list[Event] = [self._own(cuda.event(blocking=blocking)) for _ in range(4)]
        self._stream.synchronize()

    def _bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise self._log.failure(f"TensorRT has no place for the tensor '{name}'", "a plan of this bundle", REBUILD)

    def _enqueue(self, into: int) -> None:
        """Run the network: the last state from one buffer, the next one into the other."""
        self._bind(self._prev_name, self._states[1 - into].address)
        self._bind(self._next_name, self._states[into].address)
        if not self._context.execute_async_v3(self._stream.handle):
            raise self._log.failure(
                "TensorRT did not run the network",
                "an enqueue without an error",
                "qdbev-deploy doctor --for tensorrt",
                exit_code=ExitCode.GUARD,
            )

    def _capture(self) -> None:
        """One graph for each way round. What a first enqueue sets up must not happen while capturing."""
        for name in self._fed:
            self._pinned[name][...] = 0
            self._stream.upload(self._pinned[name], self._device[name].address)
        for into in range(2):
            self._enqueue(into)
            self._stream.synchronize()
            graph = capture(self._stream.handle, lambda into=into: self._enqueue(into))  # type: ignore[misc]
            self._graphs.append(self._own(graph))
        for state in self._states:
            self._stream.clear(state)
        self._stream.synchronize()

    def profile_with(self, profiler: Any) -> None:
        """Report the time of every layer of every frame from now on."""
        self._context.profiler = profiler

    def step(
        self, image: Array, prev_bev: Any, use_prev_bev: bool, can_bus: Float, lidar2img: Float
    ) -> tuple[State, Array, Array]:
        if self._context is None:
            raise QdbevError("the stream is closed", "an open stream", "open another with engine.stream()")
        before, given = self._before(prev_bev)
        if use_prev_bev and prev_bev is None:
            raise QdbevError("use_prev_bev without a prev_bev", "the state of the last step", "pass it, or pass False")
        started = time.perf_counter()
        values = (image, use_prev_bev, can_bus, lidar2img)
        for name, value in zip(self._fed, values, strict=True):
            self._stage(name, value)
        prepared = time.perf_counter()
        into = 1 - before
        self._written[into] = -1  # until it is whole; the state that is read stays as it is
        with self._cuda.current():
            if given is not None:
                self._written[before] = -1
                self._stream.upload(given, self._states[before].address)
            enqueue_ms = self._run(into)
        self._step += 1
        self._written[into], self._last = self._step, into
        if self._options.timed:
            h2d, compute, d2h = (
                late.ms_since(early) for early, late in zip(self._marks, self._marks[1:], strict=False)
            )
            self.times = StageTimes((prepared - started) * 1e3, h2d, enqueue_ms, compute, d2h)
        return State(id(self), into, self._step), self._pinned[self._results[0]], self._pinned[self._results[1]]

    def _before(self, prev_bev: Any) -> tuple[int, Array | None]:
        """(the buffer that the state is read from, an array to be copied there first)."""
        if prev_bev is None:
            return self._last, None  # is not read, as use_prev_bev is 0; a step that fails leaves the last state whole
        if isinstance(prev_bev, State):
            return self._buffer_of(prev_bev), None
        array, shape = np.asarray(prev_bev), self._state_spec.shape
        if array.size != int(np.prod(shape)):
            raise QdbevError(f"a prev_bev of shape {array.shape}", f"{shape}", "pass the bev_embed of this model")
        return self._last, np.ascontiguousarray(array, dtype=self._state_spec.dtype)

    def _stage(self, name: str, value: Any) -> None:
        target, array = self._pinned[name], np.asarray(value)
        if array.size != target.size or (array.ndim == target.ndim and array.shape != target.shape):
            raise QdbevError(
                f"{name} of shape {array.shape}", f"{target.shape}", "feed what the bundle's contract.json says"
            )
        if not np.can_cast(array.dtype, target.dtype, "same_kind") and array.dtype != np.bool_:
            raise QdbevError(
                f"{name} of type {array.dtype}", f"{target.dtype}", "feed what the bundle's contract.json says"
            )
        np.copyto(target, array.reshape(target.shape), casting="unsafe")

    def _run(self, into: int) -> float:
        """Everything of a frame that the device does. Returns the milliseconds that launching the network took."""
        timed, stream, marks = self._options.timed, self._stream, self._marks
        if timed:
            marks[0].record(stream)
        for name in self._fed:
            stream.upload(self._pinned[name], self._device[name].address)
        if timed:
            marks[1].record(stream)
        started = time.perf_counter()
        if self._graphs:
            self._graphs[into].launch(stream.handle)
        else:
            self._enqueue(into)
        enqueue_ms = (time.perf_counter() - started) * 1e3
        if timed:
            marks[2].record(stream)
        for name in self._results:
            stream.download(self._device[name].address, self._pinned[name])
        marks[3].record(stream)
        if self._options.wait == "spin":
            while not marks[3].done():
                pass
        else:
            marks[3].wait()
        return enqueue_ms

    def _buffer_of(self, handle: Any) -> int:
        """Where a state lies; one that was overwritten, or is another stream's, is refused."""
        if not isinstance(handle, State) or handle.stream != id(self):
            raise QdbevError(
                "a state that is another stream's, or none",
                "the bev_embed that a step of this stream gave",
                "carry it from step to step; read_state copies it out for others",
            )
        if self._written[handle.buffer] != handle.step:
            raise QdbevError(
                f"the bev_embed of step {handle.step}, which step {self._step} has overwritten",
                "a state of the last two steps",
                "copy it out in time with read_state",
            )
        return handle.buffer

    @property
    def closed(self) -> bool:
        return self._context is None

    def read_state(self, handle: Any) -> Array:
        buffer = self._buffer_of(handle)
        copied = np.empty(self._state_spec.shape, self._state_spec.dtype)
        with self._cuda.current():
            self._stream.download(self._states[buffer].address, copied)
            self._stream.synchronize()
        return copied

    def close(self) -> None:
        if self._context is None:
            return
        with self._cuda.current():
            self._context = None
            self._resources.close()
