"""A stand-in for TensorRT and for the device: it builds and runs on the CPU, and has no name that the real one lacks.

`module(version)` is the tensorrt module of that release, as far as this package uses it; surface.json, taken from the
real one, says what it may have. `Device` is a GPU whose memory is numpy arrays by address; a stream runs at once,
unless it is being captured. An engine runs its ONNX file by ONNX Runtime on what lies at the addresses it was given.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from qdbev_deploy.contract import OP_DOMAIN, OPS
from qdbev_deploy.graph.index import standard_opset
from qdbev_deploy.graph.targets import target_named
from qdbev_deploy.ops.functions import op_function
from qdbev_deploy.reference import session_of
from tests.engine.tensorrt.plugin_casts import with_casts_around_plugins

SURFACE: dict[str, dict[str, list[str]]] = json.loads(
    Path(__file__).with_name("surface.json").read_text(encoding="utf-8")
)
RELEASES = tuple(SURFACE)  # 8.6.0, 10.3.0, 11.1.0


# ----------------------------------------------------------------------------------------------------------------------
# The device


class Device:
    """A GPU's memory, its streams, and the contexts that are current."""

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.streams: dict[int, DoubleStream] = {}
        self.next = 0x1000
        self.alive = 0  # things allocated and not freed
        self.current = 0
        self.copied_to_host: list[int] = []  # bytes of each copy
        self.waits: list[str] = []

    def at(self, address: int, nbytes: int) -> np.ndarray:
        assert self.current, "the device was used without a current context"
        block = self.memory[address]
        assert nbytes <= block.nbytes, f"{nbytes} bytes of a block of {block.nbytes}"
        return block[:nbytes]

    def take(self) -> int:
        self.next += 0x1000
        return self.next


class DoubleCuda:
    """The seam on such a device."""

    name = "double"

    def __init__(self, device: Device) -> None:
        self.device = device

    @contextmanager
    def current(self) -> Iterator[None]:
        self.device.current += 1
        try:
            yield
        finally:
            self.device.current -= 1

    def memory(self, nbytes: int) -> DoubleMemory:
        return DoubleMemory(self.device, nbytes)

    def pinned(self, shape: Sequence[int], dtype: Any) -> DoublePinned:
        return DoublePinned(self.device, np.zeros(tuple(shape), dtype))

    def stream(self) -> DoubleStream:
        return DoubleStream(self.device)

    def event(self, *, blocking: bool = True) -> DoubleEvent:
        return DoubleEvent(self.device, blocking)


class _Owned:
    def __init__(self, device: Device) -> None:
        assert device.current
        self.device, self.freed = device, False
        device.alive += 1

    def free(self) -> None:
        assert not self.freed
        assert self.device.current
        self.freed = True
        self.device.alive -= 1


class DoubleMemory(_Owned):
    def __init__(self, device: Device, nbytes: int) -> None:
        super().__init__(device)
        self.address, self.nbytes = device.take(), nbytes
        device.memory[self.address] = np.full(nbytes, 0xCD, np.uint8)  # whatever was there before

    def free(self) -> None:
        super().free()
        del self.device.memory[self.address]


class DoublePinned(_Owned):
    def __init__(self, device: Device, array: np.ndarray) -> None:
        super().__init__(device)
        self.array = array


class DoubleStream(_Owned):
    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.handle = device.take()
        self.captured: list[Callable[[], None]] | None = None
        device.streams[self.handle] = self

    def submit(self, work: Callable[[], None]) -> None:
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def upload(self, source: np.ndarray, address: int) -> None:
        content = np.frombuffer(source.tobytes(), np.uint8)
        self.submit(lambda: np.copyto(self.device.at(address, content.nbytes), content))

    def download(self, address: int, into: np.ndarray) -> None:
        def work() -> None:
            self.device.copied_to_host.append(into.nbytes)
            raw = self.device.at(address, into.nbytes).tobytes()
            into[...] = np.frombuffer(raw, into.dtype).reshape(into.shape)

        self.submit(work)

    def clear(self, memory: DoubleMemory) -> None:
        self.submit(lambda: self.device.at(memory.address, memory.nbytes).fill(0))

    def synchronize(self) -> None:
        assert self.captured is None, "a captured stream cannot be waited for"


class DoubleEvent(_Owned):
    ticks = 0

    def __init__(self, device: Device, blocking: bool) -> None:
        super().__init__(device)
        self.blocking, self.at = blocking, -1

    def record(self, stream: DoubleStream) -> None:
        assert stream.captured is None
        DoubleEvent.ticks += 1
        self.at = DoubleEvent.ticks

    def done(self) -> bool:
        self.device.waits.append("asked")
        return True

    def wait(self) -> None:
        self.device.waits.append("slept" if self.blocking else "waited")

    def ms_since(self, earlier: DoubleEvent) -> float:
        assert self.at > earlier.at >= 0
        return float(self.at - earlier.at)


class DoubleGraph:
    def __init__(self, work: list[Callable[[], None]]) -> None:
        self.work, self.launches, self.freed = work, 0, False

    def launch(self, stream_handle: int) -> None:
        assert not self.freed
        self.launches += 1
        for work in self.work:
            work()

    def free(self) -> None:
        self.freed = True


def capturing(device: Device) -> Callable[[int, Callable[[], None]], DoubleGraph]:
    """`cuda_graph.capture` on such a device."""

    def capture(stream_handle: int, enqueue: Callable[[], None]) -> DoubleGraph:
        stream = device.streams[stream_handle]
        stream.captured = []
        try:
            enqueue()
            return DoubleGraph(stream.captured)
        finally:
            stream.captured = None

    return capture


# ----------------------------------------------------------------------------------------------------------------------
# TensorRT


class Strict:
    """Only what the real class of this release has can be set on it, and only that can it have."""

    real = ""
    trt: Any

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in SURFACE[self.trt.__version__][self.real]:
            raise AttributeError(f"TensorRT {self.trt.__version__} has no {self.real}.{name}")
        object.__setattr__(self, name, value)


def _type_of(trt: Any, number: int) -> Any:
    names = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.INT8: "INT8",
             TensorProto.UINT8: "UINT8", TensorProto.BOOL: "BOOL", TensorProto.INT32: "INT32",
             TensorProto.INT64: "INT32" if trt.__version__.startswith("8") else "INT64"}  # fmt: skip
    return trt.DataType[names[number]]


_LAYERS = {"Add": "ELEMENTWISE", "Mul": "ELEMENTWISE", "Sub": "ELEMENTWISE", "Div": "ELEMENTWISE", "Sin": "UNARY",
           "Cos": "UNARY", "Conv": "CONVOLUTION", "MatMul": "MATRIX_MULTIPLY", "Sigmoid": "ACTIVATION",
           "Relu": "ACTIVATION", "GridSample": "GRID_SAMPLE", "Cast": "CAST", "QuantizeLinear": "QUANTIZE",
           "DequantizeLinear": "DEQUANTIZE", "Concat": "CONCATENATION", "Where": "SELECT"}  # fmt: skip


def _runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """What plugins would do is done by the ops' functions."""
    model = with_casts_around_plugins(model)
    ops = {node.op_type for node in model.graph.node if node.domain == OP_DOMAIN}
    model.functions.extend(op_function(op, standard_opset(model)) for op in sorted(ops))
    return model


def module(version: str, device: Device) -> Any:
    """The tensorrt module of that release on that device. `behaviour` on it makes things fail."""
    surface = SURFACE[version]
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = version
    major = int(version.split(".")[0])
    trt.behaviour = types.SimpleNamespace(
        parser_errors=[], build_fails=False, enqueue_fails_at=-1, rejects_cache=False, no_context=False,
        inspector=None, on_step=None, tactic=0, dla_cores=2, no_gpu=False, refuses_library=False,
    )  # fmt: skip
    trt.built = []  # every config that was built with, and its network
    for name in ("BuilderFlag", "NetworkDefinitionCreationFlag", "TacticSource", "ProfilingVerbosity", "MemoryPoolType",
                 "DeviceType", "HardwareCompatibilityLevel", "TensorIOMode", "DataType", "LayerInformationFormat",
                 "LayerType", "EngineStat"):  # fmt: skip
        if name in surface:
            setattr(trt, name, IntEnum(name, surface[name], start=0))

    class ILogger:
        Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    class IProfiler:
        def report_layer_time(self, layer_name: str, ms: float) -> None:
            raise NotImplementedError

    trt.ILogger, trt.IProfiler = ILogger, IProfiler
    if "IProgressMonitor" in surface:
        trt.IProgressMonitor = type("IProgressMonitor", (), {})

    class Of(Strict):
        pass

    Of.trt = trt

    def error(logger: Any, text: str) -> None:
        logger.log(ILogger.Severity.WARNING, "a warning that is nobody's reason")
        logger.log(ILogger.Severity.ERROR, text)

    class Tensor(Of):
        real = "ITensor"

        def __init__(self, name: str, dtype: Any) -> None:
            self.name, self.dtype = name, dtype

    class Layer(Of):
        real = "ILayer"

        def __init__(self, node: onnx.NodeProto, dtypes: list[Any]) -> None:
            self.name = node.name
            self.metadata = f"[ONNX Layer: {node.name}]"
            self.type = trt.LayerType[_LAYERS.get(node.op_type, "SHUFFLE")]
            self.num_outputs = len(node.output)
            self._outputs = [Tensor(name, dtype) for name, dtype in zip(node.output, dtypes, strict=True)]

        def get_output(self, index: int) -> Any:
            return self._outputs[index]

    if major < 11:

        def set_output_type(self: Any, index: int, dtype: Any) -> None:
            self._typed = {**getattr(self, "_typed", {}), index: dtype}

        Layer.set_output_type = set_output_type

    class Network(Of):
        real = "INetworkDefinition"

        def __init__(self, flags: int) -> None:
            self._flags, self._layers, self._model = flags, [], None

        @property
        def num_layers(self) -> int:
            return len(self._layers)

        def get_layer(self, index: int) -> Any:
            return self._layers[index]

    class ParserError(Of):
        real = "ParserError"

        def __init__(self, node: int, name: str, text: str) -> None:
            self._node, self._name, self._text = node, name, text

        def desc(self) -> str:
            return self._text

        def node(self) -> int:
            return self._node

    if major >= 10:
        ParserError.node_name = lambda self: self._name

    class OnnxParser(Of):
        real = "OnnxParser"

        def __init__(self, network: Any, logger: Any) -> None:
            self._network, self._logger, self._errors = network, logger, []

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return self._errors[index]

        def parse(self, content: bytes) -> bool:
            model = onnx.ModelProto.FromString(content)
            known = target_named({8: "trt8.6", 10: "trt10.3", 11: "trt11"}[major]).ops
            nodes = list(model.graph.node)
            for index, node in enumerate(nodes):
                if node.domain == OP_DOMAIN and node.op_type in OPS and trt.registered:
                    continue
                if node.domain or node.op_type not in known:
                    self._errors.append(ParserError(index, node.name, f"no importer for {node.op_type}."))
            self._errors += [ParserError(*item) for item in trt.behaviour.parser_errors]
            if self._errors:
                error(self._logger, "the parser gave up")
                return False
            types_ = {value.name: value.type.tensor_type.elem_type for value in
                      (*model.graph.value_info, *model.graph.input, *model.graph.output)}  # fmt: skip
            for node in nodes:
                dtypes = [_type_of(trt, types_.get(name, TensorProto.FLOAT)) for name in node.output]
                self._network._layers.append(Layer(node, dtypes))
            self._network._model = model
            return True

    class TimingCache(Of):
        real = "ITimingCache"

        def __init__(self, content: bytes) -> None:
            self._tactics: dict[str, int] = json.loads(content) if content else {}

        def serialize(self) -> memoryview:
            return memoryview(json.dumps(self._tactics).encode())

    class Config(Of):
        real = "IBuilderConfig"

        def __init__(self, logger: Any) -> None:
            self._flags, self._pools, self._tactics, self._cache = {trt.BuilderFlag.TF32}, {}, None, TimingCache(b"")
            self._logger = logger

        def set_flag(self, flag: Any) -> None:
            assert isinstance(flag, trt.BuilderFlag)
            self._flags.add(flag)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(flag)

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            assert (type(pool), type(pool_size)) == (trt.MemoryPoolType, int)
            self._pools[pool] = pool_size

        def set_tactic_sources(self, tactic_sources: int) -> bool:
            assert type(tactic_sources) is int
            self._tactics = tactic_sources
            return True

        def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
            try:
                return TimingCache(bytes(memoryview(serialized_timing_cache)))
            except ValueError:
                error(self._logger, "the timing cache is damaged")
                return None

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert ignore_mismatch is False
            if trt.behaviour.rejects_cache:
                error(self._logger, "the cache was made on another device")
                return False
            self._cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._cache

    class Builder(Of):
        real = "Builder"

        def __init__(self, logger: Any) -> None:
            self._logger = logger
            if trt.behaviour.no_gpu:
                logger.log(ILogger.Severity.WARNING, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        @property
        def num_DLA_cores(self) -> int:  # noqa: N802
            return int(trt.behaviour.dla_cores)

        def create_network(self, flags: int = 0) -> Any:
            assert type(flags) is int
            return Network(flags)

        def create_builder_config(self) -> Any:
            return Config(self._logger)

        def build_serialized_network(self, network: Any, config: Any) -> memoryview | None:
            trt.built.append((config, network))
            monitor = getattr(config, "progress_monitor", None)
            if monitor is not None:
                monitor.phase_start("Building Engine", None, 3)
            for step in range(3):
                if trt.behaviour.on_step is not None:
                    trt.behaviour.on_step(step)
                if monitor is not None and not monitor.step_complete("Building Engine", step):
                    return None
            if monitor is not None:
                monitor.phase_finish("Building Engine")
            if trt.behaviour.build_fails:
                error(self._logger, "could not find any implementation for node X.")
                return None
            # What was timed before is chosen again; what was not depends on the weather of the day.
            trt.behaviour.tactic += 1
            tactics = {
                layer.name: config._cache._tactics.setdefault(layer.name, trt.behaviour.tactic)
                for layer in network._layers
            }
            head = json.dumps({"version": version, "tactics": tactics}).encode()
            return memoryview(head + b"\n" + network._model.SerializeToString())

    class Context(Of):
        real = "IExecutionContext"

        def __init__(self, engine: Any) -> None:
            self._engine, self._addresses, self._count = engine, {}, 0

        def set_tensor_address(self, name: str, memory: int) -> bool:
            assert (type(name), type(memory)) == (str, int)
            self._addresses[name] = memory
            return name in self._engine._tensors

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert type(stream_handle) is int
            if self._count == trt.behaviour.enqueue_fails_at:
                error(self._engine._logger, "an illegal address, say")
                return False
            self._count += 1
            assert set(self._addresses) == set(self._engine._tensors)
            addresses = dict(self._addresses)  # a captured launch keeps those of its capture
            device.streams[stream_handle].submit(lambda: self._engine._run(addresses))
            profiler = getattr(self, "profiler", None)
            if profiler is not None:
                for index, name in enumerate(self._engine._names):
                    profiler.report_layer_time(name, float(index + self._count))
            return True

    class Inspector(Of):
        real = "EngineInspector"

        def __init__(self, engine: Any) -> None:
            self._engine = engine

        def get_engine_information(self, format_: Any) -> str:
            assert format_ == trt.LayerInformationFormat.JSON
            if trt.behaviour.inspector is not None:
                return str(trt.behaviour.inspector)
            layers = zip(self._engine._names, self._engine._nodes, strict=True)
            return json.dumps({"Layers": [self._entry(name, node) for name, node in layers]})

        def _entry(self, layer: str, node: onnx.NodeProto) -> dict[str, Any]:
            """8.6 tells weights and joins names; from 10 on weights are an input, and the metadata has the names."""
            if major < 10:
                return {"Name": layer, "LayerType": "Convolution", "Weights": {"Type": "Float", "Count": 10},
                        "Inputs": [{"Name": "x", "Dimensions": [1], "Format/Datatype": "Row major linear FP32"}],
                        "TacticName": "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32"}  # fmt: skip
            product = node.op_type in ("Conv", "MatMul")
            return {"Name": layer, "LayerType": "gemm" if product else "kgen",
                    "Metadata": f"[ONNX Layer: {node.name}]",
                    "Inputs": [{"Name": name, "Dimensions": [1], "Format/Datatype": "Float"} for name in node.input],
                    "Outputs": [{"Name": name, "Dimensions": [1], "Format/Datatype": "Float"} for name in node.output],
                    "TacticName": "sm80_xmma_gemm_f32f32_f32f32_f32_nn" if product else f"__myl_{node.op_type}_0x1",
                    }  # fmt: skip

    class Engine(Of):
        real = "ICudaEngine"

        def __init__(self, model: onnx.ModelProto, logger: Any) -> None:
            self._logger = logger
            self._nodes = list(model.graph.node)
            self._names = [  # of its layers, for inspector and profiler
                node.name if major < 10 else f"__myl_{node.op_type}_myl0_{index}"
                for index, node in enumerate(self._nodes)
            ]
            self._tensors = {value.name: (mode, value) for mode, values in (
                (trt.TensorIOMode.INPUT, model.graph.input), (trt.TensorIOMode.OUTPUT, model.graph.output),
            ) for value in values}  # fmt: skip
            self._session = session_of(_runnable(model), threads=1)

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self._tensors)[index]

        def get_tensor_mode(self, name: str) -> Any:
            return self._tensors[name][0]

        def get_tensor_dtype(self, name: str) -> Any:
            return _type_of(trt, self._tensors[name][1].type.tensor_type.elem_type)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(dim.dim_value for dim in self._tensors[name][1].type.tensor_type.shape.dim)

        def create_execution_context(self) -> Any:
            return None if trt.behaviour.no_context else Context(self)

        def create_engine_inspector(self) -> Any:
            return Inspector(self)

        def _run(self, addresses: dict[str, int]) -> None:
            feeds = {}
            for name, (mode, value) in self._tensors.items():
                if mode == trt.TensorIOMode.INPUT:
                    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                    shape = self.get_tensor_shape(name)
                    count = int(np.prod(shape)) * dtype.itemsize
                    feeds[name] = device.at(addresses[name], count).view(dtype).reshape(shape).copy()
            names = [name for name, (mode, _) in self._tensors.items() if mode == trt.TensorIOMode.OUTPUT]
            for name, array in zip(names, self._session.run(names, feeds), strict=True):
                raw = np.frombuffer(array.tobytes(), np.uint8)
                np.copyto(device.at(addresses[name], raw.nbytes), raw)

    sizes = {8: ("device_memory_size",), 10: ("device_memory_size", "device_memory_size_v2"),
             11: ("device_memory_size_v2",)}[major]  # fmt: skip
    for name in sizes:
        setattr(Engine, name, 4096)
    if "get_engine_stat" in surface["ICudaEngine"]:
        Engine.get_engine_stat = lambda self, stat: 777 if stat == trt.EngineStat.TOTAL_WEIGHTS_SIZE else 0

    class Runtime(Of):
        real = "Runtime"

        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            head, _, content = bytes(memoryview(serialized_engine)).partition(b"\n")
            try:
                found = json.loads(head)["version"]
            except ValueError:
                found = "none"
            if found != version:
                error(self._logger, f"the plan is of version {found}, not {version}.")
                return None
            trt.opened = self
            return Engine(onnx.ModelProto.FromString(content), self._logger)

    trt.registered = set()
    trt.libraries = []

    class Registry(Of):
        real = "IPluginRegistry"

        def load_library(self, plugin_path: str) -> Any:
            assert type(plugin_path) is str
            trt.libraries.append(plugin_path)
            if trt.registered or trt.behaviour.refuses_library:
                return None  # as the real one, where a plugin of that name is there already
            trt.registered.update(OPS)
            return object()

    look_up = "get_creator" if major >= 10 else "get_plugin_creator"
    setattr(Registry, look_up, lambda self, name, version, namespace: object() if name in trt.registered else None)
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    trt.Builder, trt.OnnxParser, trt.Runtime = Builder, OnnxParser, Runtime
    trt.classes = [Tensor, Layer, Network, ParserError, OnnxParser, TimingCache, Config, Builder, Context, Inspector,
                   Engine, Runtime, Registry]  # fmt: skip
    return trt
