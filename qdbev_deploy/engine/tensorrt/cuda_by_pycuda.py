"""The seam by PyCUDA: the driver's interface."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from qdbev_deploy.engine.tensorrt.cuda import Array, CudaStream, Memory, failed

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class PyCuda:
    name = "PyCUDA"

    def __init__(self) -> None:
        self._driver: Any = importlib.import_module("pycuda.driver")
        try:
            self._driver.init()
            self._context = self._driver.Device(0).retain_primary_context()
        except self._driver.Error as error:
            raise failed("open the GPU", str(error)) from error

    @contextmanager
    def current(self) -> Iterator[None]:
        # Pushed and popped around every use: PyCUDA's stack of contexts is a thread's own and must be empty in the end.
        try:
            self._context.push()
        except self._driver.Error as error:
            raise failed("make the GPU's context current", str(error)) from error
        try:
            yield
        except self._driver.Error as error:
            raise failed("carry out a call", str(error)) from error
        finally:
            self._context.pop()

    def memory(self, nbytes: int) -> _Memory:
        return _Memory(self._driver.mem_alloc(nbytes), nbytes)

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> _Pinned:
        return _Pinned(self._driver.pagelocked_empty(tuple(shape), dtype))

    def stream(self) -> _Stream:
        return _Stream(self._driver)

    def event(self, *, blocking: bool = True) -> _Event:
        flags = self._driver.event_flags
        return _Event(self._driver.Event(flags.BLOCKING_SYNC if blocking else flags.DEFAULT))


class _Memory:
    def __init__(self, allocation: Any, nbytes: int) -> None:
        self._allocation, self.address, self.nbytes = allocation, int(allocation), nbytes

    def free(self) -> None:
        self._allocation.free()


class _Pinned:
    def __init__(self, array: Array) -> None:
        self.array = array

    def free(self) -> None:
        base: Any = self.array.base
        base.free()


class _Stream:
    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.stream = driver.Stream(_NON_BLOCKING)
        self.handle = int(self.stream.handle)

    def upload(self, source: Array, address: int) -> None:
        self._driver.memcpy_htod_async(address, source, self.stream)

    def download(self, address: int, into: Array) -> None:
        self._driver.memcpy_dtoh_async(into, address, self.stream)

    def clear(self, memory: Memory) -> None:
        self._driver.memset_d8_async(memory.address, 0, memory.nbytes, self.stream)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def free(self) -> None:
        self.stream = None  # the last reference destroys it


class _Event:
    def __init__(self, event: Any) -> None:
        self.event = event

    def record(self, stream: CudaStream) -> None:
        assert isinstance(stream, _Stream)
        self.event.record(stream.stream)

    def done(self) -> bool:
        return bool(self.event.query())

    def wait(self) -> None:
        self.event.synchronize()

    def ms_since(self, earlier: _Event) -> float:
        return float(self.event.time_since(earlier.event))

    def free(self) -> None:
        self.event = None
