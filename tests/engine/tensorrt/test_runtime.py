"""Streams on the double: the state and its two buffers, resets, graphs, what is refused, and what is left behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest

from qdbev_deploy.engine.interface import BuildOptions, StreamOptions
from qdbev_deploy.engine.tensorrt.backend import PLAN_FILE, TensorRTBackend
from qdbev_deploy.engine.tensorrt.runtime import TensorRTEngine
from qdbev_deploy.engine.tensorrt.stream import TensorRTStream
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.plugins import LIBRARY_NAME
from qdbev_deploy.reference import Feeds, session_of
from tests.engine.tensorrt.conftest import Bench
from tests.engine.tensorrt.toy import INPUTS, OUTPUTS, frame, lowered_for, toy

RESETS = (0, 3)  # frames that begin a scene


def quiet(phase: str, done: int | None, total: int | None) -> None:
    pass


def opened(bench: Bench, precision: Any = "fp32", *, quantised: bool = False) -> TensorRTEngine:
    backend = TensorRTBackend()
    result = backend.build(
        lowered_for(backend.target(), quantised=quantised), bench.folder, BuildOptions(precision=precision), quiet
    )
    return backend.open(bench.folder / PLAN_FILE, INPUTS, OUTPUTS, {"extra_files": list(result.extra_files)})


def expected(count: int, model: onnx.ModelProto | None = None) -> list[list[np.ndarray]]:
    session, feeds, state, results = session_of(model or toy(quantised=False), threads=1), Feeds(INPUTS), None, []
    for index in range(count):
        image, can_bus, lidar2img = frame(index)
        state = None if index in RESETS else state
        outputs = session.run(
            [spec.name for spec in OUTPUTS], feeds(image, state, state is not None, can_bus, lidar2img)
        )
        results.append(outputs)
        state = outputs[0]
    return results


def driven(stream: TensorRTStream, count: int) -> list[list[np.ndarray]]:
    handle, results = None, []
    for index in range(count):
        image, can_bus, lidar2img = frame(index)
        handle = None if index in RESETS else handle
        handle, classes, coords = stream.step(image, handle, handle is not None, can_bus, lidar2img)
        results.append([stream.read_state(handle), classes.copy(), coords.copy()])
    return results


def assert_same(ours: list[list[np.ndarray]], theirs: list[list[np.ndarray]], tolerance: float = 1e-5) -> None:
    for index, (left, right) in enumerate(zip(ours, theirs, strict=True)):
        for a, b, name in zip(left, right, ("state", "classes", "coords"), strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance, err_msg=f"frame {index}, {name}")


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["enqueued", "graph"])
def test_a_sequence_is_that_of_onnxruntime(bench: Bench, cuda_graph: bool) -> None:
    """Odd numbers of frames between resets: the state lies in either buffer when it is dropped."""
    engine = opened(bench)
    stream = engine.stream(StreamOptions(cuda_graph=cuda_graph))
    assert_same(driven(stream, 7), expected(7))
    stream.close()


def test_every_frame_matters_to_the_next(bench_of: Any) -> None:
    """What the tests above would not see if the toy forgot its state."""
    bench = bench_of("10.3.0")
    stream = opened(bench).stream()
    carried = driven(stream, 3)[2]
    image, can_bus, lidar2img = frame(2)
    handle, classes, _ = stream.step(image, None, False, can_bus, lidar2img)
    assert np.abs(stream.read_state(handle) - carried[0]).max() > 0.1
    assert np.abs(classes - carried[1]).max() > 0.01


def test_int8_is_near_its_reference(bench: Bench) -> None:
    """Flags on 8.6, types in the file on 10 and 11: the double computes what it was given."""
    engine = opened(bench, "int8", quantised=True)
    ours, theirs = driven(engine.stream(), 4), expected(4, toy())
    for left, right in zip(ours, theirs, strict=True):
        for a, b in zip(left, right, strict=True):
            assert np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)) < 0.05


def test_the_state_never_visits_the_host(bench: Bench) -> None:
    stream = opened(bench).stream()
    bench.device.copied_to_host.clear()
    handle = None
    for index in range(4):
        image, can_bus, lidar2img = frame(index)
        handle, _, _ = stream.step(image, handle, handle is not None, can_bus, lidar2img)
    results = [int(np.prod(spec.shape)) * 4 for spec in OUTPUTS[1:]]
    assert bench.device.copied_to_host == results * 4


def test_both_graphs_are_launched_in_turn(bench_of: Any) -> None:
    bench = bench_of("10.3.0")
    stream = opened(bench).stream(StreamOptions(cuda_graph=True))
    driven(stream, 6)
    assert [graph.launches for graph in stream._graphs] == [3, 3]
    # What warming up left in the buffers is no state of the first frame.
    fresh = opened(bench).stream(StreamOptions(cuda_graph=True))
    assert_same(driven(fresh, 1), expected(1))


def test_an_array_goes_in_as_a_state(bench: Bench) -> None:
    """So parity gives the reference's state to the engine."""
    stream, reference = opened(bench).stream(), expected(3)
    image, can_bus, lidar2img = frame(2)
    handle, classes, coords = stream.step(image, reference[1][0], True, can_bus, lidar2img)
    assert_same([[stream.read_state(handle), classes, coords]], reference[2:3])
    with pytest.raises(QdbevError, match="prev_bev of shape"):
        stream.step(image, np.zeros(3, np.float32), True, can_bus, lidar2img)


def test_the_state_before_the_last_one_still_serves(bench: Bench) -> None:
    stream = opened(bench).stream()
    handles = []
    handle = None
    for index in range(2):
        image, can_bus, lidar2img = frame(index)
        handle, _, _ = stream.step(image, handle, handle is not None, can_bus, lidar2img)
        handles.append(handle)
    image, can_bus, lidar2img = frame(1)
    again, _, _ = stream.step(image, handles[0], True, can_bus, lidar2img)
    assert_same([[stream.read_state(again)] * 3], [[expected(2)[1][0]] * 3])
    with pytest.raises(QdbevError, match="of step 2, which step 3 has overwritten"):
        stream.read_state(handles[1])
    with pytest.raises(QdbevError, match="another stream's"):
        opened(bench).stream().read_state(again)


def test_a_failure_leaves_the_state_as_it_was(bench: Bench) -> None:
    stream = opened(bench).stream()
    image, can_bus, lidar2img = frame(0)
    first, _, _ = stream.step(image, None, False, can_bus, lidar2img)
    image, can_bus, lidar2img = frame(1)
    bench.trt.behaviour.enqueue_fails_at = 1
    with pytest.raises(QdbevError, match="did not run the network: an illegal address, say") as caught:
        stream.step(image, first, True, can_bus, lidar2img)
    assert caught.value.exit_code == ExitCode.GUARD
    bench.trt.behaviour.enqueue_fails_at = -1
    second, classes, coords = stream.step(image, first, True, can_bus, lidar2img)
    assert_same([[stream.read_state(second), classes, coords]], expected(2)[1:])


def test_a_buffer_that_is_half_written_is_no_state(bench: Bench) -> None:
    stream = opened(bench).stream()
    image, can_bus, lidar2img = frame(0)
    first, _, _ = stream.step(image, None, False, can_bus, lidar2img)
    second, _, _ = stream.step(image, first, True, can_bus, lidar2img)
    bench.trt.behaviour.enqueue_fails_at = 2
    with pytest.raises(QdbevError, match="did not run"):
        stream.step(image, first, True, can_bus, lidar2img)  # into the buffer of the second
    with pytest.raises(QdbevError, match=r"of step 2, which .* has overwritten"):
        stream.read_state(second)
    stream.read_state(first)


def test_an_array_takes_the_place_of_a_state(bench: Bench) -> None:
    stream = opened(bench).stream()
    image, can_bus, lidar2img = frame(0)
    first, _, _ = stream.step(image, None, False, can_bus, lidar2img)
    stream.step(image, np.zeros(OUTPUTS[0].shape, np.float32), True, can_bus, lidar2img)
    with pytest.raises(QdbevError, match="of step 1, which step 2 has overwritten"):
        stream.read_state(first)


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["enqueued", "graph"])
def test_a_new_stream_holds_zeros(bench: Bench, cuda_graph: bool) -> None:
    """Not what the memory held before, nor what warming up left."""
    stream = opened(bench).stream(StreamOptions(cuda_graph=cuda_graph))
    assert len(stream._states) == 2
    for state in stream._states:
        assert not bench.device.memory[state.address].any()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", np.zeros((1, 6, 3, 8, 9), np.float32), r"image of shape \(1, 6, 3, 8, 9\)"),
        ("can_bus", np.zeros(17, np.float32), "can_bus of shape"),
        ("lidar2img", np.zeros((1, 6, 4, 4), complex), "lidar2img of type complex"),
    ],
)
def test_what_does_not_fit_is_refused(bench_of: Any, name: str, value: np.ndarray, message: str) -> None:
    stream = opened(bench_of("10.3.0")).stream()
    values = dict(zip(("image", "can_bus", "lidar2img"), frame(0), strict=True)) | {name: value}
    with pytest.raises(QdbevError, match=message):
        stream.step(values["image"], None, False, values["can_bus"], values["lidar2img"])
    with pytest.raises(QdbevError, match="use_prev_bev without"):
        stream.step(frame(0)[0], None, True, *frame(0)[1:])


def test_stages_are_timed_when_asked(bench: Bench) -> None:
    engine = opened(bench)
    plain = engine.stream()
    driven(plain, 1)
    assert plain.times.compute is None
    stream = engine.stream(StreamOptions(timed=True))
    driven(stream, 2)
    times = stream.times
    assert (times.h2d, times.compute, times.d2h) == (1.0, 1.0, 1.0)  # the double's clock ticks at every mark
    assert times.host_prep is not None
    assert times.host_prep > 0
    assert times.enqueue is not None
    assert times.enqueue > 0


@pytest.mark.parametrize(("wait", "how"), [("block", "slept"), ("spin", "asked")])
def test_waiting(bench_of: Any, wait: Any, how: str) -> None:
    bench = bench_of("10.3.0")
    stream = opened(bench).stream(StreamOptions(wait=wait))
    driven(stream, 2)
    assert bench.device.waits == [how] * 2
    events: list[Any] = stream._marks
    assert {event.blocking for event in events} == {wait == "block"}


def test_memory_is_told(bench: Bench) -> None:
    memory = opened(bench).memory()
    state = 9 * 32 * 4
    assert memory.io == 2 * state + 4 * (6 * 3 * 64 + 1 + 18 + 96 + 2 * 50)
    assert memory.context == 4096
    assert memory.weights == (777 if bench.version.startswith("11") else None)  # older releases do not tell


def test_a_profile_is_medians(bench: Bench) -> None:
    engine = opened(bench)
    times = engine.profile(lambda stream: driven(stream, 3))
    assert list(times.values())[:2] == [2.0, 3.0]  # of 1 2 3 and of 2 3 4, as the double reports them
    # By the names that the inspector has.
    assert next(iter(times)) == ("toy/frames" if bench.version.startswith("8") else "__myl_Reshape_myl0_0")


def test_nothing_is_left_on_the_device(bench: Bench) -> None:
    engine = opened(bench)
    for options in (StreamOptions(), StreamOptions(cuda_graph=True)):
        stream = engine.stream(options)
        driven(stream, 2)
        assert bench.device.alive > 0
        stream.close()
        stream.close()
        assert bench.device.alive == 0
        with pytest.raises(QdbevError, match="stream is closed"):
            driven(stream, 1)
    engine.stream()
    assert len(engine._streams) == 1  # those that were closed are forgotten
    engine.close()
    engine.close()
    assert bench.device.alive == 0
    with pytest.raises(QdbevError, match="engine is closed"):
        engine.stream()


def test_a_stream_that_cannot_be_made_leaves_nothing(bench: Bench) -> None:
    engine = opened(bench)
    bench.trt.behaviour.enqueue_fails_at = 1
    with pytest.raises(QdbevError, match="did not run"):
        engine.stream(StreamOptions(cuda_graph=True))  # the second enqueue is inside the capture
    assert bench.device.alive == 0
    bench.trt.behaviour.no_context = True
    with pytest.raises(QdbevError, match="4,096 bytes of free device memory"):
        engine.stream()


def test_streams_of_one_engine_do_not_disturb_each_other(bench: Bench) -> None:
    engine = opened(bench)
    one, other = engine.stream(), engine.stream()
    driven(other, 3)
    first = driven(one, 2)
    driven(other, 2)
    assert_same(first, expected(2))


def test_a_plan_with_other_tensors_is_refused(bench: Bench) -> None:
    opened(bench)
    wrong = (INPUTS[0], *INPUTS[1:3], INPUTS[4], INPUTS[3])
    TensorRTBackend().open(bench.folder / PLAN_FILE, wrong, OUTPUTS, {}).close()  # the order is no matter
    narrower = (dataclasses.replace(INPUTS[0], dtype="uint8"), *INPUTS[1:])
    with pytest.raises(QdbevError, match=r"the plan's image: .*float32.*uint8"):
        TensorRTBackend().open(bench.folder / PLAN_FILE, narrower, OUTPUTS, {"extra_files": [LIBRARY_NAME]})
