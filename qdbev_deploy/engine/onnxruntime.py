"""ONNX Runtime as a backend: the file as it is, its state in two buffers of the runtime's own device."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qdbev_deploy.contract import TensorSpec
from qdbev_deploy.engine.interface import (
    MAX_THREADS,
    Array,
    BuildOptions,
    BuildResult,
    Float,
    Memory,
    Say,
    StageTimes,
    StreamOptions,
    Wait,
)
from qdbev_deploy.engine.onnxruntime_layers import EVENT_SUFFIX, optimised_layers, tensor_type, tensor_types
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.graph.files import read_onnx, write_onnx
from qdbev_deploy.graph.index import name_nodes
from qdbev_deploy.graph.parts import tensor_bytes
from qdbev_deploy.reference import CPU, CUDA, UNFUSED, session_of

MODEL_FILE = "model.onnx"
_REBUILD = "copy the bundle again from where it was built, or build it again"
# What only a compiler has. ONNX Runtime optimises while it loads, and asks no questions.
_NO_SUCH_THING = {
    "workspace_mb": "--workspace", "optimization_level": "--opt-level", "timing_cache": "--timing-cache",
    "dla_core": "--dla", "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible", "tactic_sources": "--tactic-sources",
    "profile_verbosity": "--profile-verbosity",
}  # fmt: skip


def preferred_provider(available: Sequence[str]) -> str:
    """The execution provider for a new bundle: CUDA's where this ONNX Runtime has it."""
    return CUDA if CUDA in available else CPU


def _config(fused: bool) -> Mapping[str, str]:
    return {} if fused else UNFUSED


class OnnxRuntimeBackend:
    """Runs the ONNX file itself. `build` writes down what the runtime makes of it on this machine."""

    name = "onnxruntime"

    def missing(self) -> QdbevError | None:
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            return QdbevError(
                f"ONNX Runtime does not load: {error}",
                "the package onnxruntime",
                "pip install onnxruntime",
                exit_code=ExitCode.MISSING,
            )
        return None

    def target(self) -> str:
        return "ort"

    def build(self, model: onnx.ModelProto, folder: Path, options: BuildOptions, say: Say) -> BuildResult:
        import onnxruntime

        _refuse_what_it_has_not(options)
        provider = preferred_provider(onnxruntime.get_available_providers())
        write_onnx(model, folder / MODEL_FILE)
        say("ONNX Runtime optimises the graph", None, None)
        with _traced(folder / MODEL_FILE, provider, options.fused, options.threads) as traced:
            traced.session.run(None, _zeros(model))
            optimised, tensors = traced.optimised, tensor_types(traced.events())
        return BuildResult(
            engine_file=MODEL_FILE,
            layers=optimised_layers(model, optimised, tensors),
            versions={"onnxruntime": onnxruntime.__version__},
            notes=(
                f"runs on {provider}",
                "layers.json shows what ONNX Runtime made of the file on this machine; it does so again where it loads",
            ),
            opens_with={"provider": provider},
        )

    def open(
        self, engine_file: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], options: dict[str, Any]
    ) -> OnnxRuntimeEngine:
        import onnxruntime

        provider = options.get("provider", CPU)
        if provider not in onnxruntime.get_available_providers():
            raise QdbevError(
                f"the bundle was built for ONNX Runtime's {provider}, and the one here has "
                + ", ".join(onnxruntime.get_available_providers()),
                f"an ONNX Runtime with {provider}",
                "pip install onnxruntime-gpu, or build the bundle again on this machine",
                exit_code=ExitCode.MISSING,
            )
        return OnnxRuntimeEngine(engine_file, inputs, outputs, provider, options.get("fused", False),
                                 options.get("threads"))  # fmt: skip

    def outputs_of(self, model: onnx.ModelProto, options: BuildOptions, feeds: dict[str, Array]) -> dict[str, Array]:
        """All outputs of a model, computed as a bundle of it would: what a bisection asks for."""
        import onnxruntime

        provider = preferred_provider(onnxruntime.get_available_providers())
        session = session_of(model, _config(options.fused), provider=provider, threads=options.threads)
        wanted = {value.name for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        found = session.run(names, {name: array for name, array in feeds.items() if name in wanted})
        return dict(zip(names, found, strict=True))


def _refuse_what_it_has_not(options: BuildOptions) -> None:
    defaults = BuildOptions()
    for name, flag in _NO_SUCH_THING.items():
        if getattr(options, name) != getattr(defaults, name):
            raise QdbevError(
                f"{flag} with the backend onnxruntime",
                f"the backend tensorrt, which alone has it: ONNX Runtime is not told how to optimise by {flag}",
                f"leave {flag} out, or pass --backend tensorrt",
                exit_code=ExitCode.USAGE,
            )
    if options.precision == "fp16":
        raise QdbevError(
            "--fp16 with the backend onnxruntime",
            "--fp32 or --int8: ONNX Runtime computes in the types that the file is written in, and has no such switch",
            "pass --fp32 for a baseline here, or --backend tensorrt --fp16 on a machine with a GPU",
            exit_code=ExitCode.USAGE,
        )
    if options.threads is not None and not 1 <= options.threads <= MAX_THREADS:
        raise QdbevError(f"--threads {options.threads}", f"1 to {MAX_THREADS} threads",
                         "leave --threads out for all cores",
                         exit_code=ExitCode.USAGE)  # fmt: skip


@dataclass(frozen=True)
class _Traced:
    """What ONNX Runtime made of a file, with a name for every node, and a session that writes down each one's runs."""

    optimised: onnx.ModelProto
    session: Any

    def events(self) -> list[dict[str, Any]]:
        """The runs of nodes so far; there is no second time."""
        written = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        return [event for event in written if event.get("cat") == "Node" and event["name"].endswith(EVENT_SUFFIX)]


@contextlib.contextmanager
def _traced(model: Path, provider: str, fused: bool, threads: int | None) -> Iterator[_Traced]:
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="qdbev-trace-") as scratch:
        folder = Path(scratch)
        path = folder / "optimised.onnx"
        new = partial(session_of, config=_config(fused), provider=provider, threads=threads)
        new(str(model), settings={"optimized_model_filepath": str(path)})
        optimised = onnx.load(path)
        name_nodes(optimised)
        onnx.save(optimised, path)
        # The graph is optimised already: this session runs it as it stands.
        settings = {
            "graph_optimization_level": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
            "enable_profiling": True,
            "profile_file_prefix": str(folder / "profile"),
        }
        yield _Traced(optimised, new(str(path), settings=settings))


def _zeros(model: onnx.ModelProto) -> dict[str, Array]:
    """A first frame of nothing, by which a runtime shows what its tensors are."""
    stored = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        type_ = value.type.tensor_type
        if value.name not in stored:
            shape = [dim.dim_value for dim in type_.shape.dim]
            feeds[value.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(type_.elem_type))
    return feeds


@dataclass(frozen=True)
class _State:
    """A handle on a stream's state: which buffer holds it, and which step wrote it."""

    stream: OnnxRuntimeStream
    slot: int
    step: int


class OnnxRuntimeEngine:
    """A loaded model. Streams that wait alike share one session, and so its weights; each has buffers of its own."""

    def __init__(
        self,
        path: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        provider: str,
        fused: bool,
        threads: int | None,
    ) -> None:
        self._path, self._provider, self._fused, self._threads = path, provider, fused, threads
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._sessions: dict[Wait, Any] = {}
        self._closed = False
        self._check_tensors(self._session("block"))  # what does not load says so here, not at the first frame

    def _session(self, wait: Wait) -> Any:
        if self._closed:
            raise QdbevError("the engine is closed", "an open engine", "open the bundle again")
        if wait not in self._sessions:
            try:
                self._sessions[wait] = session_of(
                    str(self._path), _config(self._fused), provider=self._provider, threads=self._threads,
                    spin=wait == "spin",
                )  # fmt: skip
            except MemoryError:
                raise
            except Exception as error:  # of ONNX Runtime's own many kinds
                raise QdbevError(
                    f"ONNX Runtime cannot load {self._path.name}: {' '.join(str(error).split())}",
                    "the model as it was built",
                    _REBUILD,
                ) from error
        return self._sessions[wait]

    def _check_tensors(self, session: Any) -> None:
        """The model's tensors are those of the contract, whatever its file says of itself."""
        for kind, specs, tensors in (("input", self.inputs, session.get_inputs()),
                                     ("output", self.outputs, session.get_outputs())):  # fmt: skip
            wanted = {spec.name: (spec.dtype, tuple(spec.shape)) for spec in specs}
            found = {item.name: (tensor_type(item.type), tuple(item.shape)) for item in tensors}
            if differ := sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name)):
                raise QdbevError(
                    f"the model's {kind} {', '.join(differ)}: {[found.get(name) for name in differ]}",
                    f"what the bundle's contract says: {[wanted.get(name) for name in differ]}",
                    _REBUILD,
                )

    def stream(self, options: StreamOptions = StreamOptions()) -> OnnxRuntimeStream:
        if options.cuda_graph:
            raise QdbevError(
                "a CUDA graph with the backend onnxruntime",
                "the backend tensorrt: the BEV ops here gather by computed indices, which no graph captures",
                "leave the CUDA graph off",
            )
        return OnnxRuntimeStream(self._session(options.wait), self.inputs, self.outputs, self._provider, options)

    def memory(self) -> Memory:
        weights = sum(map(tensor_bytes, read_onnx(self._path).graph.initializer))
        return Memory(weights=weights, context=None, io=_io_bytes(self.inputs, self.outputs))

    def profile(self, feeds: Callable[[OnnxRuntimeStream], None]) -> dict[str, float]:
        """Median milliseconds of each node of the optimised graph, by the names that layers.json gives them."""
        times: dict[str, list[float]] = defaultdict(list)
        with _traced(self._path, self._provider, self._fused, self._threads) as traced:
            stream = OnnxRuntimeStream(traced.session, self.inputs, self.outputs, self._provider, StreamOptions())
            with contextlib.closing(stream):
                feeds(stream)
            for event in traced.events():
                times[event["name"].removesuffix(EVENT_SUFFIX)].append(event["dur"] / 1000)
        return {name: median(values) for name, values in times.items()}

    def close(self) -> None:
        self._sessions.clear()
        self._closed = True


def _io_bytes(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> int:
    """Both states are among them: one as an input, the other as an output."""
    return sum(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in (*inputs, *outputs))


class OnnxRuntimeStream:
    """One sequence: two buffers for the state, each input and output bound once, nothing allocated between frames."""

    def __init__(
        self,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        provider: str,
        options: StreamOptions,
    ) -> None:
        import onnxruntime

        self.times = StageTimes()
        self._session: Any = session
        self._on_gpu = provider != CPU
        self._timed = options.timed
        self._specs = {spec.name: spec for spec in inputs}
        self._names = tuple(spec.name for spec in inputs)
        state, *heads = outputs
        # What must not be read on a first frame is not a number.
        blank = np.full(state.shape, np.nan, state.dtype)
        device = "cuda" if self._on_gpu else "cpu"
        self._states = [onnxruntime.OrtValue.ortvalue_from_numpy(blank.copy(), device) for _ in range(2)]
        self._small = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in inputs[2:]}
        self._results = [np.zeros(spec.shape, spec.dtype) for spec in heads]
        self._image: Array | None = None
        self._bindings = [session.io_binding() for _ in range(2)]  # one for each buffer that is written
        for written, binding in enumerate(self._bindings):
            binding.bind_ortvalue_input(self._names[1], self._states[1 - written])
            binding.bind_ortvalue_output(state.name, self._states[written])
            for name, array in self._small.items():
                binding.bind_cpu_input(name, array)
            for spec, array in zip(heads, self._results, strict=True):
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cpu")
                binding.bind_ortvalue_output(spec.name, value)
        self._written = [-1, -1]  # by which step
        self._latest = 0
        self._step = 0

    def _ready_image(self, image: Array) -> Array:
        """The image as the graph asks for it; one that is so already is not copied."""
        spec = self._specs[self._names[0]]
        if image.dtype == spec.dtype and image.shape == spec.shape and image.flags.c_contiguous:
            return image
        if image.size != int(np.prod(spec.shape)) or (spec.dtype == "uint8") != (image.dtype == np.uint8):
            raise QdbevError(
                f"images {image.dtype} {image.shape}",
                f"{spec.dtype} {spec.shape}: {spec.meaning}",
                "prepare the frames as the bundle's contract.json says",
            )
        if self._image is None:
            self._image = np.empty(spec.shape, spec.dtype)
        np.copyto(self._image, image.reshape(spec.shape), casting="same_kind")
        return self._image

    def _slot_of(self, prev_bev: Any) -> int:
        """The buffer that holds the state to read."""
        if prev_bev is None:
            return self._latest  # is not read: use_prev_bev is 0; the latest state survives a step that raises
        if isinstance(prev_bev, _State):
            if prev_bev.stream is not self or self._written[prev_bev.slot] != prev_bev.step:
                raise QdbevError(
                    "a state that this stream no longer holds",
                    "the bev_embed of one of the last two steps of the same stream",
                    "pass on the last step's bev_embed, or copy it out in time with read_state",
                )
            return prev_bev.slot
        spec = self._specs[self._names[1]]
        array = np.ascontiguousarray(prev_bev, dtype=spec.dtype)
        if array.size != int(np.prod(spec.shape)):
            raise QdbevError(f"a state of shape {array.shape}", f"{spec.shape}", "pass the bev_embed of this model")
        self._states[self._latest].update_inplace(array.reshape(spec.shape))
        self._written[self._latest] = -1  # what a handle said of it is no longer there
        return self._latest

    def step(
        self, image: Array, prev_bev: Any, use_prev_bev: bool, can_bus: Float, lidar2img: Float
    ) -> tuple[_State, Array, Array]:
        if self._session is None:
            raise QdbevError("the stream is closed", "an open stream", "open another with engine.stream()")
        if use_prev_bev and prev_bev is None:
            raise QdbevError(
                "use_prev_bev without a prev_bev", "the state that the last step gave", "pass it, or False"
            )
        started = time.perf_counter() if self._timed else 0.0
        read = self._slot_of(prev_bev)
        write = 1 - read
        binding = self._bindings[write]
        binding.bind_cpu_input(self._names[0], self._ready_image(image))
        for array, value in zip(self._small.values(), (float(use_prev_bev), can_bus, lidar2img), strict=True):
            array[...] = np.asarray(value).reshape(array.shape)
        if self._on_gpu:  # to bind is to copy there; on the CPU what was bound once is read where it lies
            for name, array in self._small.items():
                binding.bind_cpu_input(name, array)
        ready = time.perf_counter() if self._timed else 0.0
        self._written[write] = -1  # a run that breaks off leaves half a state there
        self._session.run_with_iobinding(binding)
        if self._timed:
            # Copies to and from a GPU happen inside the run, where ONNX Runtime does not tell them apart.
            self.times = StageTimes(host_prep=(ready - started) * 1e3, compute=(time.perf_counter() - ready) * 1e3)
        self._step += 1
        self._written[write], self._latest = self._step, write
        classes, coords = self._results
        return _State(self, write, self._step), classes, coords

    def read_state(self, handle: Any) -> Array:
        array: Array = self._states[self._slot_of(handle)].numpy()
        return array.copy()

    def close(self) -> None:
        self._bindings.clear()
        self._states.clear()
        self._session = None
