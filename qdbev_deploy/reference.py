"""ONNX Runtime, the reference that everything else is held against: its sessions and their feeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from qdbev_deploy.contract import TensorSpec
from qdbev_deploy.streaming import StreamingSession

Array = npt.NDArray[Any]

# Without this, ONNX Runtime fuses Q/DQ on its own account and rounds biases to int32, which TensorRT does not.
UNFUSED: Mapping[str, str] = {"session.disable_quant_qdq": "1"}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def session_of(
    model: onnx.ModelProto | bytes | str,
    config: Mapping[str, str] = UNFUSED,
    *,
    provider: str = CPU,
    threads: int | None = None,
    spin: bool = False,
    share_arena: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """A quiet session on one provider; `threads` None leaves their number to ONNX Runtime.

    Without `spin` its threads sleep between operators, so that others of this process have the cores. Sessions that
    `share_arena` compute in the same memory, which stays with the process. `settings` are further attributes of its
    SessionOptions.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    if share_arena:
        _register_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    for key, value in (settings or {}).items():
        setattr(options, key, value)
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    # What CUDA has no kernel for runs on the CPU, as ONNX Runtime has it; on the CPU there is nothing else.
    return onnxruntime.InferenceSession(content, options, providers=list(dict.fromkeys([provider, CPU])))


@cache
def _register_arena() -> None:
    """One for all: sessions else have an arena each, and never give back what their largest frame took."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    try:
        onnxruntime.create_and_register_allocator(memory, None)
    except Exception as error:  # 1.18 refuses a second one; whose the first is, is all the same
        if "already been registered" not in str(error):
            raise


class Feeds:
    """The step's arguments as arrays of the types and shapes that a graph's inputs ask for."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._specs = tuple(inputs)

    def __call__(self, image: Array, prev_bev: Any, use_prev: bool, can_bus: Array, lidar2img: Array) -> dict[str, Any]:
        state = self._specs[1]
        # A first frame's state may hold anything; what must not be read is not a number.
        previous = np.full(state.shape, np.nan, state.dtype) if prev_bev is None else prev_bev
        values = (image, previous, float(use_prev), can_bus, lidar2img)
        return {
            spec.name: np.ascontiguousarray(value, dtype=spec.dtype).reshape(spec.shape)
            for spec, value in zip(self._specs, values, strict=True)
        }


def stream_of(runtime: Any, inputs: Sequence[TensorSpec]) -> StreamingSession:
    """A stream on a session of a file with these inputs and the contract's outputs, its state fed back."""
    feeds = Feeds(inputs)
    return StreamingSession(lambda *arguments: tuple(runtime.run(None, feeds(*arguments))))
