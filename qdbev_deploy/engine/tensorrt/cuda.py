"""The one seam to CUDA: memory, pinned arrays, streams and events, by PyCUDA or, where it is not there, cuda-python."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qdbev_deploy.errors import ExitCode, QdbevError

Array = npt.NDArray[Any]


class Memory(Protocol):
    """Device memory."""

    address: int
    nbytes: int

    def free(self) -> None: ...


class Pinned(Protocol):
    """A host array that the device reads and writes by itself."""

    array: Array

    def free(self) -> None: ...


class Event(Protocol):
    """A mark in a stream."""

    def record(self, stream: CudaStream) -> None: ...

    def done(self) -> bool: ...

    def wait(self) -> None:
        """Sleep until it is done; the processor has other work meanwhile where the event was made blocking."""
        ...

    def ms_since(self, earlier: Any) -> float: ...

    def free(self) -> None: ...


class CudaStream(Protocol):
    """Work in order. `handle` is a CUstream as a number, which TensorRT and graphs take."""

    handle: int

    def upload(self, source: Array, address: int) -> None: ...

    def download(self, address: int, into: Array) -> None: ...

    def clear(self, memory: Memory) -> None:
        """Set every byte to zero."""
        ...

    def synchronize(self) -> None: ...

    def free(self) -> None: ...


class Cuda(Protocol):
    """The first GPU and its primary context, which TensorRT uses too. Calls must stand within `current()`."""

    name: str  # of the package that it is made with

    def current(self) -> AbstractContextManager[None]:
        """The context is this thread's while it is open; errors of CUDA leave it as QdbevError."""
        ...

    def memory(self, nbytes: int) -> Memory: ...

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Pinned: ...

    def stream(self) -> CudaStream: ...

    def event(self, *, blocking: bool = True) -> Event: ...


def failed(what: str, why: str) -> QdbevError:
    """CUDA refused a call or the device gave up."""
    return QdbevError(
        f"CUDA failed to {what}: {why}",
        "a GPU that is free, sound and has the memory",
        "look at nvidia-smi (tegrastats on Jetson); end what else uses the GPU; then try again",
        exit_code=ExitCode.MISSING,
    )


def package() -> str | None:
    """The package that speaks to CUDA here; None where there is none. Nothing is imported."""
    if importlib.util.find_spec("pycuda") is not None:
        return "pycuda"
    if importlib.util.find_spec("cuda") is not None and any(
        importlib.util.find_spec(name) is not None for name in ("cuda.bindings", "cuda.cudart")
    ):
        return "cuda-python"
    return None


@cache
def cuda() -> Cuda:
    """The seam on this machine, made once."""
    found = package()
    if found == "pycuda":
        from qdbev_deploy.engine.tensorrt.cuda_by_pycuda import PyCuda

        return PyCuda()
    if found == "cuda-python":
        from qdbev_deploy.engine.tensorrt.cuda_by_cuda_python import CudaPython

        return CudaPython()
    raise QdbevError(
        "neither PyCUDA nor cuda-python is installed",
        "one of them, for memory and streams on the GPU",
        "pip install 'qdbev-deploy[trt]', or pip install cuda-python",
        exit_code=ExitCode.MISSING,
    )


def nbytes_of(shape: Sequence[int], dtype: npt.DTypeLike) -> int:
    """Bytes of a dense tensor; one at least, as no allocator gives none."""
    return max(1, int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
