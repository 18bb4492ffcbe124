"""What a backend offers: it builds a model into an engine file, and opens one as streams of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from qdbev_deploy.contract import TensorSpec
from qdbev_deploy.errors import QdbevError

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float32]
Precision = Literal["int8", "fp16", "fp32"]
Wait = Literal["spin", "block"]
MAX_THREADS = 1024  # of an operator: more is a slip of the finger, and some runtimes try
Say = Callable[[str, "int | None", "int | None"], None]  # (phase, done, total): what a progress bar shows


@dataclass(frozen=True)
class BuildOptions:
    """What a build is asked for. `precision` int8: the file's Q/DQ decide; fp16 and fp32 are baselines without it.

    What a backend has no such thing for, it refuses rather than ignores.
    """

    precision: Precision = "int8"
    workspace_mb: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    dla_core: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    tactic_sources: tuple[str, ...] | None = None
    profile_verbosity: Literal["none", "names", "detailed"] = "detailed"
    threads: int | None = None  # onnxruntime: of an operator
    fused: bool = False  # onnxruntime: let it fuse Q/DQ into integer arithmetic, which rounds biases to int32


@dataclass(frozen=True)
class TensorRecord:
    """A tensor that a layer reads or writes, as the engine holds it."""

    name: str
    dtype: str  # int8, float16, float32, int32, ...
    shape: tuple[int, ...]
    format: str = ""


@dataclass(frozen=True)
class Layer:
    """One layer of a built engine, as its inspector saw it; a line of layers.json."""

    name: str
    kind: str  # Convolution, QLinearConv, PluginV2, ...
    precision: str  # in which it computes: int8, float16, float32, int32, mixed; "" where it only moves data
    nodes: tuple[str, ...]  # names of the ONNX nodes it was made from
    inputs: tuple[TensorRecord, ...] = ()
    outputs: tuple[TensorRecord, ...] = ()
    tactic: str = ""
    weight_bytes: int = 0
    macs: int = 0
    time_ms: float | None = None  # median of a profile; None: not measured


@dataclass(frozen=True)
class BuildResult:
    """What a backend wrote into the bundle's folder, and what it learnt."""

    engine_file: str  # its name in the folder: engine.plan or model.onnx
    layers: tuple[Layer, ...]
    versions: dict[str, str]
    gpu: dict[str, Any] | None = None  # name and compute_capability; None where the engine is not tied to one
    notes: tuple[str, ...] = ()
    extra_files: tuple[str, ...] = ()  # further files it wrote, the plugin library say
    opens_with: dict[str, Any] = field(default_factory=dict)  # what `open` is told beside the build options


@dataclass(frozen=True)
class StreamOptions:
    """How frames are run."""

    cuda_graph: bool = False
    wait: Wait = "block"
    timed: bool = False  # fill `Stream.times`; costs a few events a frame


@dataclass
class StageTimes:
    """Milliseconds of the last step's stages; None where the backend has no such stage or cannot tell."""

    host_prep: float | None = None  # arrays made ready for the device
    h2d: float | None = None
    enqueue: float | None = None  # host time to launch
    compute: float | None = None  # from the first operation to the last, on the device that computes
    d2h: float | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes that an engine takes where it computes; None: the backend cannot tell."""

    weights: int | None = None
    context: int | None = None  # scratch and activations of one stream
    io: int | None = None  # inputs, outputs and both states of one stream


class Stream(Protocol):
    """One sequence's buffers. `step` has the shape of `streaming.Step`, so that a StreamingSession drives it.

    The first thing it returns, bev_embed, is a handle of the backend's own: the state stays on the device, in one of
    two buffers, and goes back in as the next step's prev_bev. It is valid until the step after the next one.
    `read_state` copies it out. prev_bev may also be None, before there is a state, or an array, which is copied in: so
    does parity. classes and coords are arrays that the next step overwrites.
    """

    times: StageTimes

    def step(
        self, image: Array, prev_bev: Any, use_prev_bev: bool, can_bus: Float, lidar2img: Float
    ) -> tuple[Any, Array, Array]: ...

    def read_state(self, handle: Any) -> Array: ...

    def close(self) -> None: ...


class Engine(Protocol):
    """A loaded engine. Streams of one engine share its weights."""

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...

    @property
    def outputs(self) -> Sequence[TensorSpec]: ...

    def stream(self, options: StreamOptions = StreamOptions()) -> Stream: ...

    def memory(self) -> Memory: ...

    def profile(self, feeds: Callable[[Stream], None]) -> dict[str, float]:
        """Median milliseconds of each layer by name, while `feeds` runs frames through a stream made for it."""
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """One way to run a model. Nothing of it is imported before it is asked for."""

    name: str  # "onnxruntime" or "tensorrt"

    def missing(self) -> QdbevError | None:
        """Why it cannot be used on this machine, as the error to raise (exit code 4); None where it can."""
        ...

    def target(self) -> str:
        """The name in `graph.targets` of what it parses."""
        ...

    def build(self, model: onnx.ModelProto, folder: Path, options: BuildOptions, say: Say) -> BuildResult:
        """Build the lowered model; write the engine into `folder`."""
        ...

    def open(self, engine_file: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec],
             options: dict[str, Any]) -> Engine:  # fmt: skip
        """Load an engine of a bundle whose files were verified; `options` are its manifest's build options."""
        ...


@dataclass(frozen=True)
class BackendChoice:
    """Which backend it became, and the sentence that says why."""

    backend: Backend
    says: str
