"""The seam by cuda-python: the runtime's interface, under either name that the package gave it."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.engine.tensorrt.cuda import Array, CudaStream, Memory, failed, nbytes_of

_EVENT_DEFAULT, _EVENT_BLOCKING = 0, 1  # cudaEventDefault, cudaEventBlockingSync
_HOST_ALLOC_DEFAULT, _STREAM_NON_BLOCKING = 0, 1
_NOT_READY = 600  # cudaErrorNotReady


def _runtime() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return importlib.import_module("cuda.cudart")  # before 12.6


class CudaPython:
    name = "cuda-python"

    def __init__(self) -> None:
        self._runtime = _runtime()
        with self.current():
            self.call("cudaFree", 0)  # makes the primary context

    def call(self, function: str, *arguments: Any) -> Any:
        """What the function returns after its error code, which must be none."""
        error, *results = getattr(self._runtime, function)(*arguments)
        if int(error) != 0:
            _, text = self._runtime.cudaGetErrorString(error)
            says = text.decode() if isinstance(text, bytes) else str(text)
            raise failed(f"call {function}", f"{says} ({int(error)})")
        return results[0] if results else None

    def is_ready(self, event: Any) -> bool:
        (error, *_) = self._runtime.cudaEventQuery(event)
        if int(error) in (0, _NOT_READY):
            return int(error) == 0
        raise failed("run what was enqueued", f"error {int(error)}")

    def copy(self, target: int, source: int, nbytes: int, kind: str, stream: Any) -> None:
        kinds = self._runtime.cudaMemcpyKind
        self.call("cudaMemcpyAsync", target, source, nbytes, getattr(kinds, f"cudaMemcpy{kind}"), stream)

    @contextmanager
    def current(self) -> Iterator[None]:
        self.call("cudaSetDevice", 0)
        yield

    def memory(self, nbytes: int) -> _Memory:
        return _Memory(self, nbytes)

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> _Pinned:
        return _Pinned(self, shape, dtype)

    def stream(self) -> _Stream:
        return _Stream(self)

    def event(self, *, blocking: bool = True) -> _Event:
        return _Event(self, blocking)


class _Memory:
    def __init__(self, cuda: CudaPython, nbytes: int) -> None:
        self._cuda, self.nbytes = cuda, nbytes
        self.address = int(cuda.call("cudaMalloc", nbytes))

    def free(self) -> None:
        self._cuda.call("cudaFree", self.address)


class _Pinned:
    def __init__(self, cuda: CudaPython, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        self._cuda = cuda
        nbytes = nbytes_of(shape, dtype)
        self._address = int(cuda.call("cudaHostAlloc", nbytes, _HOST_ALLOC_DEFAULT))
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self._address))
        self.array: Array = raw.view(dtype).reshape(shape)

    def free(self) -> None:
        self._cuda.call("cudaFreeHost", self._address)


class _Stream:
    def __init__(self, cuda: CudaPython) -> None:
        self._cuda = cuda
        self.stream = cuda.call("cudaStreamCreateWithFlags", _STREAM_NON_BLOCKING)
        self.handle = int(self.stream)

    def upload(self, source: Array, address: int) -> None:
        self._cuda.copy(address, source.ctypes.data, source.nbytes, "HostToDevice", self.stream)

    def download(self, address: int, into: Array) -> None:
        self._cuda.copy(into.ctypes.data, address, into.nbytes, "DeviceToHost", self.stream)

    def clear(self, memory: Memory) -> None:
        self._cuda.call("cudaMemsetAsync", memory.address, 0, memory.nbytes, self.stream)

    def synchronize(self) -> None:
        self._cuda.call("cudaStreamSynchronize", self.stream)

    def free(self) -> None:
        self._cuda.call("cudaStreamDestroy", self.stream)


class _Event:
    def __init__(self, cuda: CudaPython, blocking: bool) -> None:
        self._cuda = cuda
        self.event = cuda.call("cudaEventCreateWithFlags", _EVENT_BLOCKING if blocking else _EVENT_DEFAULT)

    def record(self, stream: CudaStream) -> None:
        assert isinstance(stream, _Stream)
        self._cuda.call("cudaEventRecord", self.event, stream.stream)

    def done(self) -> bool:
        return self._cuda.is_ready(self.event)

    def wait(self) -> None:
        self._cuda.call("cudaEventSynchronize", self.event)

    def ms_since(self, earlier: _Event) -> float:
        return float(self._cuda.call("cudaEventElapsedTime", earlier.event, self.event))

    def free(self) -> None:
        self._cuda.call("cudaEventDestroy", self.event)
