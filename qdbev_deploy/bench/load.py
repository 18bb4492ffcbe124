"""A synthetic load beside what is measured: matrix products on a core, or copies in a GPU's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from qdbev_deploy.errors import ExitCode, QdbevError

On = Literal["cpu", "gpu"]
_COPY_BYTES = 256 << 20
_COPIES = 8  # in flight at a time
_SIDE = 512  # of the matrices: they leave the first caches


def burn(on: On, ready: Callable[[], None], stop: Callable[[], bool]) -> None:
    """Be a load until `stop`."""
    if on == "gpu":
        copy_in_gpu_memory(ready, stop)
    else:
        multiply(ready, stop)


def multiply(ready: Callable[[], None], stop: Callable[[], bool]) -> None:
    matrix = np.random.default_rng(0).standard_normal((_SIDE, _SIDE)).astype(np.float32)
    product = matrix @ matrix
    ready()
    while not stop():
        np.matmul(matrix, matrix, out=product)


def copy_in_gpu_memory(ready: Callable[[], None], stop: Callable[[], bool], cuda: Any = None) -> None:
    """Copies from one half of a buffer to the other, by the driver alone: they keep the memory's bus busy."""
    if cuda is None:
        try:
            cuda = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise _no_gpu("libcuda.so.1 is not there") from None

    def call(name: str, *arguments: Any) -> None:
        code = getattr(cuda, name)(*arguments)
        if code != 0:
            raise _no_gpu(f"{name} returned {code}")

    device, context = ctypes.c_int(), ctypes.c_void_p()
    source, target = ctypes.c_uint64(), ctypes.c_uint64()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    size = ctypes.c_size_t(_COPY_BYTES)
    call("cuMemAlloc_v2", ctypes.byref(source), size)
    call("cuMemAlloc_v2", ctypes.byref(target), size)
    try:
        ready()
        while not stop():
            for _ in range(_COPIES):
                call("cuMemcpyDtoDAsync_v2", target, source, size, None)
            call("cuCtxSynchronize")
    finally:
        cuda.cuMemFree_v2(source)
        cuda.cuMemFree_v2(target)
        cuda.cuDevicePrimaryCtxRelease_v2(device)


def _no_gpu(what: str) -> QdbevError:
    return QdbevError(
        f"no load on a GPU: {what}", "an NVIDIA GPU with its driver", "pass --load cpu, or leave --load out",
        exit_code=ExitCode.MISSING,
    )  # fmt: skip
