"""CUDA graphs by the driver itself: PyCUDA has none, and to the driver a stream is a stream, whoever made it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from qdbev_deploy.engine.tensorrt.cuda import failed

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile


@cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _call(function: str, *arguments: Any) -> None:
    try:
        entry = getattr(_driver(), function)
    except (AttributeError, OSError) as error:
        raise failed("use CUDA graphs", f"the driver has no {function}") from error
    status = entry(*arguments)
    if status != 0:
        name = ctypes.c_char_p()
        _driver().cuGetErrorName(ctypes.c_int(status), ctypes.byref(name))
        raise failed(f"call {function}", name.value.decode() if name.value else f"error {status}")


class CudaGraph:
    """What was captured, ready to be launched again and again with one call."""

    def __init__(self, executable: ctypes.c_void_p) -> None:
        self._executable: ctypes.c_void_p | None = executable

    def launch(self, stream_handle: int) -> None:
        _call("cuGraphLaunch", self._executable, ctypes.c_void_p(stream_handle))

    def free(self) -> None:
        if self._executable is not None:
            _call("cuGraphExecDestroy", self._executable)
            self._executable = None


def capture(stream_handle: int, enqueue: Callable[[], None]) -> CudaGraph:
    """What `enqueue` puts into the stream, kept instead of run."""
    stream, graph, executable = ctypes.c_void_p(stream_handle), ctypes.c_void_p(), ctypes.c_void_p()
    _call("cuStreamBeginCapture_v2", stream, ctypes.c_int(_THREAD_LOCAL))
    try:
        enqueue()
    except BaseException:
        # The stream must leave its capture; whether that succeeds no longer matters.
        _driver().cuStreamEndCapture(stream, ctypes.byref(graph))
        if graph.value:
            _driver().cuGraphDestroy(graph)
        raise
    _call("cuStreamEndCapture", stream, ctypes.byref(graph))
    try:
        _call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
    finally:
        _call("cuGraphDestroy", graph)
    return CudaGraph(executable)
