"""A deserialised plan: held against the contract, opened as streams, measured."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from qdbev_deploy.contract import TensorSpec
from qdbev_deploy.engine.interface import Memory, StreamOptions
from qdbev_deploy.engine.tensorrt.cuda import Cuda, nbytes_of
from qdbev_deploy.engine.tensorrt.log import Log
from qdbev_deploy.engine.tensorrt.stream import REBUILD, TensorRTStream
from qdbev_deploy.errors import ExitCode, QdbevError

# TensorRT's names of the types that cross its border.
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32", "INT64": "int64",
           "BOOL": "bool"}  # fmt: skip
_PLAIN = StreamOptions()


def dtype_name(data_type: Any) -> str:
    """A TensorRT data type as numpy names it."""
    return _DTYPES.get(data_type.name, str(data_type.name).lower())


def described(trt: Any, engine: Any) -> str:
    """What the inspector says of an engine, as JSON."""
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


class TensorRTEngine:
    """A deserialised plan, held against the contract."""

    def __init__(
        self, trt: Any, cuda: Cuda, log: Log, engine: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        self._trt, self._cuda, self._log = trt, cuda, log
        self._engine: Any = engine
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._streams: list[TensorRTStream] = []
        self._check_tensors()

    def _check_tensors(self) -> None:
        """The plan's tensors are those of the contract."""
        found = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            mode = self._engine.get_tensor_mode(name)
            shape = tuple(int(extent) for extent in self._engine.get_tensor_shape(name))
            found[name] = (mode == self._trt.TensorIOMode.INPUT, dtype_name(self._engine.get_tensor_dtype(name)), shape)
        wanted = {spec.name: (True, spec.dtype, tuple(spec.shape)) for spec in self.inputs}
        wanted |= {spec.name: (False, spec.dtype, tuple(spec.shape)) for spec in self.outputs}
        if found != wanted:
            differ = sorted(name for name in set(found) | set(wanted) if found.get(name) != wanted.get(name))
            raise QdbevError(
                f"the plan's {', '.join(differ)}: {[found.get(name) for name in differ]}",
                f"what the bundle's contract says: {[wanted.get(name) for name in differ]}",
                REBUILD,
            )

    def _open(self) -> Any:
        if self._engine is None:
            raise QdbevError("the engine is closed", "an open engine", "open the bundle again")
        return self._engine

    def stream(self, options: StreamOptions = _PLAIN) -> TensorRTStream:
        stream = TensorRTStream(self._trt, self._cuda, self._log, self._context(), self.inputs, self.outputs, options)
        self._streams = [*(other for other in self._streams if not other.closed), stream]
        return stream

    def _context(self) -> Any:
        with self._cuda.current():
            context = self._open().create_execution_context()
        if context is None:
            raise self._log.failure(
                "TensorRT made no execution context",
                f"{self._context_bytes() or 0:,} bytes of free device memory",
                "end what else uses the GPU, or open fewer streams",
                exit_code=ExitCode.MISSING,
            )
        return context

    def _context_bytes(self) -> int | None:
        for name in ("device_memory_size_v2", "device_memory_size"):  # 10 and later; 8.6
            if hasattr(self._engine, name):
                return int(getattr(self._engine, name))
        return None

    def _weight_bytes(self) -> int | None:
        """The engine's own number where the release has it, as 11 does; the inspector lists only some of them."""
        if hasattr(self._engine, "get_engine_stat"):
            return int(self._engine.get_engine_stat(self._trt.EngineStat.TOTAL_WEIGHTS_SIZE))
        return None

    def memory(self) -> Memory:
        self._open()
        io = sum(nbytes_of(spec.shape, spec.dtype) for spec in (*self.inputs, *self.outputs))  # both states among them
        return Memory(self._weight_bytes(), self._context_bytes(), io)

    def profile(self, feeds: Callable[[Any], None]) -> dict[str, float]:
        """Median milliseconds of each layer. Launches wait for one another: their sum exceeds a frame."""
        times: dict[str, list[float]] = defaultdict(list)
        trt = self._trt

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times[layer_name].append(ms)

        stream = self.stream(StreamOptions())
        try:
            stream.profile_with(Profiler())
            feeds(stream)
        finally:
            stream.close()
        return {name: float(statistics.median(values)) for name, values in times.items()}

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        self._streams.clear()
        if self._engine is not None:
            with self._cuda.current():
                self._engine = None
