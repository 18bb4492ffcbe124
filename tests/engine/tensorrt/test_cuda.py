"""The seam by either package, on modules with the calls of the real ones; graphs on a driver that keeps count."""

# ruff: noqa: N802, N815 - the names are CUDA's

from __future__ import annotations

import ctypes
import importlib.util
import sys
import types
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
import pytest

from qdbev_deploy.engine.tensorrt import cuda as seam
from qdbev_deploy.engine.tensorrt import cuda_graph
from qdbev_deploy.engine.tensorrt.cuda import Cuda, nbytes_of
from qdbev_deploy.engine.tensorrt.cuda_by_cuda_python import CudaPython
from qdbev_deploy.engine.tensorrt.cuda_by_pycuda import PyCuda
from qdbev_deploy.errors import ExitCode, QdbevError

# ----------------------------------------------------------------------------------------------------------------------
# cuda-python: functions that return their error first, over memory of this process


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorNotReady = 600


class FakeRuntime(types.ModuleType):
    """cuda.bindings.runtime, its device memory being this process' own."""

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.blocks: dict[int, Any] = {}
        self.kinds: list[str] = []
        self.flags: list[int] = []
        self.destroyed: list[Any] = []
        self.ready = True
        self.fail = ""
        self.devices: list[int] = []
        self.cudaMemcpyKind = IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        body: Callable[..., tuple[Any, ...]] = object.__getattribute__(self, f"_{name}")

        def call(*arguments: Any) -> tuple[Any, ...]:
            if name == self.fail:
                return (Error.cudaErrorMemoryAllocation, None)
            return body(*arguments)

        return call

    def _cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        self.devices.append(device)
        return (Error.cudaSuccess,)

    def _cudaMalloc(self, size: int) -> tuple[Any, ...]:
        block = (ctypes.c_uint8 * size)(*([0xCD] * min(size, 64)))
        self.blocks[ctypes.addressof(block)] = block
        return Error.cudaSuccess, ctypes.addressof(block)

    def _cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._cudaMalloc(size)

    def _cudaFree(self, address: int) -> tuple[Any, ...]:
        self.blocks.pop(address, None)
        return (Error.cudaSuccess,)

    _cudaFreeHost = _cudaFree

    def _cudaMemcpyAsync(self, target: int, source: int, count: int, kind: Any, stream: Any) -> tuple[Any, ...]:
        assert stream == 77
        self.kinds.append(kind.name)
        ctypes.memmove(target, source, count)
        return (Error.cudaSuccess,)

    def _cudaMemsetAsync(self, address: int, value: int, count: int, stream: Any) -> tuple[Any, ...]:
        ctypes.memset(address, value, count)
        return (Error.cudaSuccess,)

    def _cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        self.flags.append(flags)
        return Error.cudaSuccess, 77

    def _cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        self.flags.append(flags)
        return Error.cudaSuccess, 100 + flags

    def _cudaEventQuery(self, event: Any) -> tuple[Any, ...]:
        return (Error.cudaSuccess if self.ready else Error.cudaErrorNotReady,)

    def _cudaEventElapsedTime(self, start: Any, end: Any) -> tuple[Any, ...]:
        return Error.cudaSuccess, float(end - start)

    def _done(self, *arguments: Any) -> tuple[Any, ...]:
        self.destroyed.append(arguments)
        return (Error.cudaSuccess,)

    _cudaStreamSynchronize = _cudaStreamDestroy = _cudaEventDestroy = _cudaEventRecord = _cudaEventSynchronize = _done

    def _cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return Error.cudaSuccess, b"out of memory"


# ----------------------------------------------------------------------------------------------------------------------
# PyCUDA: objects that raise


class FakeDriver(types.ModuleType):
    """pycuda.driver, its device memory being this process' own."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.depth = 0
        self.fail = False
        self.flags: list[int] = []
        self.blocks: dict[int, Any] = {}
        self.event_flags = types.SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1)
        driver = self

        class Context:
            def push(self) -> None:
                driver.depth += 1

            def pop(self) -> None:
                driver.depth -= 1

        class Allocation:
            def __init__(self, nbytes: int) -> None:
                self.block = (ctypes.c_uint8 * nbytes)()
                driver.blocks[int(self)] = self.block

            def __int__(self) -> int:
                return ctypes.addressof(self.block)

            def free(self) -> None:
                del driver.blocks[int(self)]

        class Stream:
            def __init__(self, flags: int = 0) -> None:
                driver.flags.append(flags)
                self.handle = 77

            def synchronize(self) -> None:
                assert driver.depth

        class Event:
            def __init__(self, flags: int = 0) -> None:
                driver.flags.append(flags)
                self.at = 100 + flags

            def record(self, stream: Any) -> None:
                assert stream.handle == 77

            def query(self) -> bool:
                return True

            def synchronize(self) -> None:
                assert driver.depth

            def time_since(self, earlier: Any) -> float:
                return float(self.at - earlier.at)

        def mem_alloc(nbytes: int) -> Allocation:
            assert driver.depth, "PyCUDA wants a context"
            if driver.fail:
                raise FakeDriver.Error("cuMemAlloc failed: out of memory")
            return Allocation(nbytes)

        class Base:
            freed = False

            def free(self) -> None:
                Base.freed = True

        def pagelocked_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            class Owned(np.ndarray):
                @property
                def base(self) -> Any:
                    return Base()

            return np.zeros(shape, dtype).view(Owned)

        def check(array: np.ndarray) -> None:
            assert array.flags.c_contiguous

        def memcpy_htod_async(address: int, source: np.ndarray, stream: Any) -> None:
            check(source)
            ctypes.memmove(address, source.ctypes.data, source.nbytes)

        def memcpy_dtoh_async(into: np.ndarray, address: int, stream: Any) -> None:
            check(into)
            ctypes.memmove(into.ctypes.data, address, into.nbytes)

        def memset_d8_async(address: int, value: int, count: int, stream: Any) -> None:
            ctypes.memset(address, value, count)

        self.Stream, self.Event, self.mem_alloc, self.pagelocked_empty = Stream, Event, mem_alloc, pagelocked_empty
        self.memcpy_htod_async, self.memcpy_dtoh_async = memcpy_htod_async, memcpy_dtoh_async
        self.memset_d8_async, self.base = memset_d8_async, Base
        self.Device = lambda index: types.SimpleNamespace(retain_primary_context=Context)

    def init(self) -> None:
        pass


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    return fake


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    return fake


@pytest.fixture(params=["cuda-python", "pycuda"])
def cuda(request: pytest.FixtureRequest, runtime: FakeRuntime, driver: FakeDriver) -> Cuda:
    return CudaPython() if request.param == "cuda-python" else PyCuda()


def test_there_and_back(cuda: Cuda) -> None:
    with cuda.current():
        stream, memory = cuda.stream(), cuda.memory(24)
        assert stream.handle == 77
        pinned = cuda.pinned((2, 3), np.float32)
        pinned.array[...] = np.arange(6).reshape(2, 3)
        assert pinned.array.shape == (2, 3)
        assert pinned.array.dtype == np.float32
        stream.upload(pinned.array, memory.address)
        back = np.zeros((2, 3), np.float32)
        stream.download(memory.address, back)
        stream.synchronize()
        assert np.array_equal(back, np.arange(6).reshape(2, 3))
        stream.clear(memory)
        stream.download(memory.address, back)
        assert not back.any()
        for resource in (pinned, memory, stream):
            resource.free()


def test_a_scalar_has_room(cuda: Cuda) -> None:
    with cuda.current():
        pinned = cuda.pinned((), np.float32)
        pinned.array[...] = 1.0
        assert pinned.array.shape == ()
        assert float(pinned.array) == 1.0
    assert nbytes_of((), np.float32) == 4
    assert nbytes_of((0,), np.float32) == 1


def test_events(cuda: Cuda) -> None:
    with cuda.current():
        stream = cuda.stream()
        spinning, blocking = cuda.event(blocking=False), cuda.event()
        for event in (spinning, blocking):
            event.record(stream)
            event.wait()
            assert event.done()
        assert blocking.ms_since(spinning) == 1.0  # the doubles' clocks tell the flags apart
        blocking.free()


def test_flags(runtime: FakeRuntime, driver: FakeDriver) -> None:
    for cuda, flags in ((CudaPython(), runtime.flags), (PyCuda(), driver.flags)):
        with cuda.current():
            cuda.stream()
            cuda.event(blocking=True)
            cuda.event(blocking=False)
        assert flags == [1, 1, 0]


def test_no_context_is_left_behind(driver: FakeDriver) -> None:
    """PyCUDA ends a process whose stack of contexts is not empty."""
    cuda = PyCuda()
    with cuda.current(), cuda.current():
        cuda.memory(4)
    assert driver.depth == 0
    with pytest.raises(ValueError, match="inside"), cuda.current():
        raise ValueError("inside")
    assert driver.depth == 0


def test_freed_memory_is_gone(runtime: FakeRuntime, driver: FakeDriver) -> None:
    for cuda, blocks in ((CudaPython(), runtime.blocks), (PyCuda(), driver.blocks)):
        with cuda.current():
            memory = cuda.memory(8)
            assert memory.address in blocks
            assert memory.nbytes == 8
            memory.free()
            assert not blocks
    with PyCuda().current():
        PyCuda().pinned((1,), np.float32).free()
    assert driver.base.freed


def test_errors_are_sentences(runtime: FakeRuntime, driver: FakeDriver) -> None:
    cuda: Any = CudaPython()
    runtime.fail = "cudaMalloc"
    with pytest.raises(QdbevError, match=r"failed to call cudaMalloc: out of memory \(2\)") as caught, cuda.current():
        cuda.memory(1 << 40)
    assert caught.value.exit_code == ExitCode.MISSING
    runtime.fail = "cudaSetDevice"
    with pytest.raises(QdbevError, match="cudaSetDevice"):
        CudaPython()
    cuda, driver.fail = PyCuda(), True
    with pytest.raises(QdbevError, match="cuMemAlloc failed: out of memory"), cuda.current():
        cuda.memory(1 << 40)
    assert driver.depth == 0


def test_an_event_that_is_not_done_yet(runtime: FakeRuntime) -> None:
    cuda = CudaPython()
    with cuda.current():
        event = cuda.event(blocking=False)
        runtime.ready = False
        assert not event.done()
        runtime.fail = "cudaEventQuery"
        with pytest.raises(QdbevError, match="run what was enqueued"):
            event.done()


def test_the_older_name_of_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRuntime()
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)  # it may have been imported for good before
    monkeypatch.setitem(sys.modules, "cuda.cudart", fake)
    assert CudaPython().name == "cuda-python"
    assert fake.devices == [0]


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"pycuda", "cuda", "cuda.bindings"}, "pycuda"),
        ({"cuda", "cuda.bindings"}, "cuda-python"),
        ({"cuda", "cuda.cudart"}, "cuda-python"),
        ({"cuda"}, None),
        (set(), None),
    ],
)
def test_which_package(monkeypatch: pytest.MonkeyPatch, there: set[str], chosen: str | None) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in there else None)
    assert seam.package() == chosen
    if chosen is None:
        with pytest.raises(QdbevError, match="neither PyCUDA nor cuda-python"):
            seam.cuda.__wrapped__()


def test_the_seam_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime, driver: FakeDriver
) -> None:
    for found, cls in (("pycuda", PyCuda), ("cuda-python", CudaPython)):
        monkeypatch.setattr(seam, "package", lambda found=found: found)
        assert isinstance(seam.cuda.__wrapped__(), cls)


def test_the_calls_are_those_of_the_real_package() -> None:
    """Where cuda-python is installed: every function that is called by name is there."""
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed here")
    for name in vars(FakeRuntime):
        if name.startswith("_cuda"):
            assert hasattr(real, name[1:]), name
    assert int(real.cudaMemcpyKind.cudaMemcpyHostToDevice) == 1
    assert int(real.cudaError_t.cudaErrorNotReady) == 600


# ----------------------------------------------------------------------------------------------------------------------
# Graphs


class GraphDriver:
    """libcuda, as far as graphs go: what was called, and handles that count up."""

    def __init__(self, fail: str = "") -> None:
        self.calls: list[str] = []
        self.fail, self.alive = fail, 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu") or name == "cuAbsent":
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cuGetErrorName":
                arguments[1]._obj.value = b"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
                return 0
            if name == self.fail:
                return 901
            if name == "cuStreamBeginCapture_v2":
                assert (arguments[0].value, arguments[1].value) == (77, 1)
            if name == "cuStreamEndCapture":
                arguments[1]._obj.value = 5
                self.alive += 1
            if name == "cuGraphInstantiateWithFlags":
                assert (arguments[1].value, arguments[2].value) == (5, 0)
                arguments[0]._obj.value = 6
                self.alive += 1
            if name == "cuGraphLaunch":
                assert (arguments[0].value, arguments[1].value) == (6, 77)
            if name in ("cuGraphDestroy", "cuGraphExecDestroy"):
                self.alive -= 1
            return 0

        return call


def on_driver(monkeypatch: pytest.MonkeyPatch, fail: str = "") -> GraphDriver:
    driver = GraphDriver(fail)
    monkeypatch.setattr(cuda_graph, "_driver", lambda: driver)
    return driver


def test_a_graph_is_captured_launched_and_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, done = on_driver(monkeypatch), []
    graph = cuda_graph.capture(77, lambda: done.append(list(driver.calls)))
    assert done == [["cuStreamBeginCapture_v2"]]
    graph.launch(77)
    graph.launch(77)
    assert driver.calls.count("cuGraphLaunch") == 2
    graph.free()
    graph.free()
    assert driver.alive == 0


@pytest.mark.parametrize("fail", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_a_capture_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, fail: str) -> None:
    driver = on_driver(monkeypatch, fail)
    with pytest.raises(QdbevError, match=f"call {fail}: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        cuda_graph.capture(77, lambda: None)
    assert driver.alive == 0


def test_what_fails_inside_a_capture_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = on_driver(monkeypatch)

    def enqueue() -> None:
        raise QdbevError("TensorRT did not run", "", "")

    with pytest.raises(QdbevError, match="TensorRT did not run"):
        cuda_graph.capture(77, enqueue)
    assert driver.calls == ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphDestroy"]
    assert driver.alive == 0


def test_a_driver_without_graphs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    on_driver(monkeypatch)
    with pytest.raises(QdbevError, match="the driver has no cuAbsent"):
        cuda_graph._call("cuAbsent")
