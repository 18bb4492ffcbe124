"""ONNX Runtime's backend: its state, its buffers, what it says of layers and time, and what it refuses."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from qdbev_deploy.engine import Bundle, build
from qdbev_deploy.engine.backends import backend_named
from qdbev_deploy.engine.interface import BuildOptions, StreamOptions
from qdbev_deploy.engine.onnxruntime import OnnxRuntimeStream, preferred_provider
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.graph.index import Graph, constant_nodes
from qdbev_deploy.reference import CPU, CUDA, Feeds, session_of
from qdbev_deploy.streaming import StreamingSession
from tests.engine.students import Students


def plain_loop(path: Path, bundle: Bundle, frames: Any) -> list[tuple[np.ndarray, ...]]:
    """(state, classes, coords) of every frame, by nothing but a session and arrays."""
    runtime, feeds = session_of(str(path)), Feeds(bundle.inputs)
    names = [output.name for output in bundle.outputs]
    session = StreamingSession(lambda *arguments: tuple(runtime.run(names, feeds(*arguments))))
    found = []
    for frame in frames:
        output = session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
        found.append((output.bev_embed, output.classes, output.coords))
    return found


def test_a_session_equals_a_plain_loop_bit_for_bit(students: Students) -> None:
    expected = plain_loop(students.onnx, students.bundle, students.drive)
    with students.bundle.session() as session:
        for frame, (state, classes, coords) in zip(students.drive, expected, strict=True):
            output = session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
            np.testing.assert_array_equal(session.stream.read_state(output.bev_embed), state)
            np.testing.assert_array_equal(output.classes, classes)
            np.testing.assert_array_equal(output.coords, coords)
        assert output.reset is False
    assert sum(np.array_equal(a[1], b[1]) for a, b in itertools.pairwise(expected)) == 0


def test_nothing_is_gathered_about_its_users(students: Students, tmp_path: Path) -> None:
    """ONNX Runtime keeps a database and an id in the home folder, unless it is told not to before it is imported."""
    code = (
        "import sys, time; from qdbev_deploy.engine import Bundle; Bundle.open(sys.argv[1]).engine(); time.sleep(0.3)"
    )
    gathers = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    env = {name: value for name, value in os.environ.items() if name not in gathers}
    subprocess.run(
        [sys.executable, "-c", code, str(students.bundle.path)], check=True,
        env=env | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_half_precision_state_and_camera_frames(native_students: Students) -> None:
    bundle, drive = native_students.bundle, native_students.drive
    assert (bundle.io, bundle.image) == ("fp16", "uint8")
    with bundle.session() as session:
        for frame, (state, classes, _) in zip(drive, plain_loop(native_students.onnx, bundle, drive), strict=True):
            output = session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
            assert session.stream.read_state(output.bev_embed).dtype == np.float16
            np.testing.assert_array_equal(session.stream.read_state(output.bev_embed), state)
            np.testing.assert_array_equal(output.classes, classes)


@pytest.fixture
def stream(students: Students) -> OnnxRuntimeStream:
    found = students.bundle.engine().stream(StreamOptions(timed=True))
    assert isinstance(found, OnnxRuntimeStream)
    return found


def step(stream: OnnxRuntimeStream, students: Students, index: int, prev: Any, use: bool = True) -> tuple[Any, ...]:
    frame = students.drive[index]
    can_bus = np.full(18, 0.1, np.float32)
    return stream.step(frame.image, prev, use and prev is not None, can_bus, frame.lidar2img)


def test_a_first_frame_reads_no_state(stream: OnnxRuntimeStream, students: Students) -> None:
    """Whatever lies in the buffer, not-a-numbers at first and an old state later."""
    handle, classes, _ = step(stream, students, 0, None)
    first, state = classes.copy(), stream.read_state(handle)
    assert np.isfinite(state).all()
    handle, _, _ = step(stream, students, 1, handle)
    handle, classes, _ = step(stream, students, 0, None)
    np.testing.assert_array_equal(classes, first)
    nothing = np.full_like(state, np.nan)
    handle, classes, _ = step(stream, students, 0, nothing, use=False)
    np.testing.assert_array_equal(classes, first)


def test_a_state_may_come_as_an_array(stream: OnnxRuntimeStream, students: Students) -> None:
    first, _, _ = step(stream, students, 0, None)
    state = stream.read_state(first)
    _, classes, _ = step(stream, students, 1, first)
    by_handle = classes.copy()
    step(stream, students, 2, None)
    _, classes, _ = step(stream, students, 1, state)
    np.testing.assert_array_equal(classes, by_handle)
    with pytest.raises(QdbevError, match="a state of shape"):
        step(stream, students, 1, state[:-1])


def test_a_state_is_valid_until_the_step_after_the_next(stream: OnnxRuntimeStream, students: Students) -> None:
    first, _, _ = step(stream, students, 0, None)
    kept = stream.read_state(first)
    second, _, _ = step(stream, students, 1, first)
    np.testing.assert_array_equal(stream.read_state(first), kept)
    step(stream, students, 2, second)
    with pytest.raises(QdbevError, match="no longer holds"):
        stream.read_state(first)
    with pytest.raises(QdbevError, match="no longer holds"):
        step(stream, students, 3, first)
    other = students.bundle.engine().stream()
    with pytest.raises(QdbevError, match="no longer holds"):
        other.step(students.drive[0].image, second, True, np.zeros(18, np.float32), students.drive[0].lidar2img)


def test_outputs_that_are_no_numbers_do_not_travel(students: Students) -> None:
    expected = plain_loop(students.onnx, students.bundle, students.drive[:2])
    first, second = students.drive[:2]
    with students.bundle.session() as session:
        session.step(first.image, first.lidar2img, first.ego, first.scene)
        real = session.stream.step

        def spoilt(*arguments: Any) -> Any:
            state, classes, coords = real(*arguments)
            coords[..., 5, 2] = np.nan
            return state, classes, coords

        session.stream.step = spoilt  # type: ignore[method-assign]
        with pytest.raises(QdbevError, match="no numbers") as caught:
            session.step(second.image, second.lidar2img, second.ego, second.scene)
        assert caught.value.exit_code == ExitCode.GUARD
        session.stream.step = real  # type: ignore[method-assign]
        output = session.step(second.image, second.lidar2img, second.ego, second.scene)
        assert not output.reset
        np.testing.assert_array_equal(output.classes, expected[1][1])


def test_a_step_that_raises_leaves_the_state(stream: OnnxRuntimeStream, students: Students) -> None:
    handle, _, _ = step(stream, students, 0, None)
    kept, session = stream.read_state(handle), stream._session

    class Broken:
        def run_with_iobinding(self, binding: Any) -> None:
            session.run_with_iobinding(binding)  # the output is written, and then all fails
            raise RuntimeError("out of memory")

    for prev in (handle, None):  # also a first frame of another scene
        stream._session = Broken()
        with pytest.raises(RuntimeError, match="out of memory"):
            step(stream, students, 3, prev)
        stream._session = session
        np.testing.assert_array_equal(stream.read_state(handle), kept)
    second, _, _ = step(stream, students, 1, handle)
    stream._session = Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        step(stream, students, 2, second)
    stream._session = session
    with pytest.raises(QdbevError, match="no longer holds"):
        stream.read_state(handle)  # half of another state may lie there
    handle, kept = second, stream.read_state(second)
    for image in (students.drive[0].image[:, :5], students.drive[0].image.astype(np.uint8)):
        with pytest.raises(QdbevError, match=r"images .*contract\.json"):
            stream.step(image, handle, True, np.zeros(18, np.float32), students.drive[0].lidar2img)
    np.testing.assert_array_equal(stream.read_state(handle), kept)
    with pytest.raises(QdbevError, match="use_prev_bev without a prev_bev"):
        stream.step(students.drive[0].image, None, True, np.zeros(18, np.float32), students.drive[0].lidar2img)


def test_nothing_moves_between_frames(stream: OnnxRuntimeStream, students: Students) -> None:
    """Two buffers change places; images are read where the caller has them; outputs have one place."""
    places = {value.data_ptr() for value in stream._states}
    assert len(places) == 2
    handle, classes, coords = step(stream, students, 0, None)
    for index in range(1, 8):
        before = handle
        handle, again, coords_again = step(stream, students, index % 4, handle)
        assert again is classes
        assert coords_again is coords
        assert handle.slot == 1 - before.slot
        assert {value.data_ptr() for value in stream._states} == places
    assert stream._image is None  # no frame was copied
    turned = np.asfortranarray(students.drive[0].image)
    stream.step(turned, None, False, np.zeros(18, np.float32), students.drive[0].lidar2img)
    assert stream._image is not None
    copied = stream._image
    _, classes, _ = stream.step(turned, None, False, np.zeros(18, np.float32), students.drive[0].lidar2img)
    assert stream._image is copied
    expected = classes.copy()
    _, classes, _ = stream.step(
        students.drive[0].image, None, False, np.zeros(18, np.float32), students.drive[0].lidar2img
    )
    np.testing.assert_array_equal(classes, expected)


def test_stages_are_told_where_asked(stream: OnnxRuntimeStream, students: Students) -> None:
    step(stream, students, 0, None)
    assert stream.times.compute is not None
    assert stream.times.compute > 0
    assert stream.times.host_prep is not None
    assert stream.times.h2d is None
    quiet = students.bundle.engine().stream()
    step(quiet, students, 0, None)  # type: ignore[arg-type]
    assert quiet.times.compute is None


def test_streams_share_weights_and_not_states(students: Students) -> None:
    engine = students.bundle.engine()
    one, two, spinning = engine.stream(), engine.stream(), engine.stream(StreamOptions(wait="spin"))
    assert one._session is two._session  # type: ignore[attr-defined]
    assert one._session is not spinning._session  # type: ignore[attr-defined]
    handle, classes, _ = step(one, students, 0, None)  # type: ignore[arg-type]
    state, expected = one.read_state(handle), classes.copy()
    step(two, students, 1, None)  # type: ignore[arg-type]
    np.testing.assert_array_equal(one.read_state(handle), state)
    _, classes, _ = step(spinning, students, 0, None)  # type: ignore[arg-type]
    np.testing.assert_array_equal(classes, expected)
    memory = engine.memory()
    assert memory.weights is not None
    assert memory.weights > 100_000
    assert memory.io is not None
    assert memory.io > 2 * state.nbytes + students.drive[0].image.nbytes
    engine.close()
    with pytest.raises(QdbevError, match="the engine is closed"):
        engine.stream()
    one.close()
    with pytest.raises(QdbevError, match="the stream is closed"):
        step(one, students, 0, None)  # type: ignore[arg-type]


def test_layers_are_what_onnx_runtime_runs(students: Students) -> None:
    """Every node of the file that computes at run time is somebody's, and multiplications are counted once."""
    layers = students.bundle.layers
    claimed = {node for layer in layers for node in layer.nodes}
    model = onnx.load(students.onnx)
    guard = students.bundle.manifest["precision"]
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    for name in convolutions:
        (layer,) = (layer for layer in layers if name in layer.nodes)
        assert (layer.kind, layer.precision) == ("Conv", "float32")
        assert layer.macs > 0
        assert layer.weight_bytes > 0
    for node in model.graph.node:
        if node.domain == "qdbev":
            mine = [layer for layer in layers if node.name in layer.nodes]
            assert len(mine) > 10, node.name  # a function is inlined
            assert "GridSample" in {layer.kind for layer in mine}
    assert sum(layer.macs for layer in layers) == guard["macs"]["float32"]
    assert len({layer.name for layer in layers}) == len(layers)
    assert {node.name for node in model.graph.node} - claimed <= constant_nodes(Graph(model))
    assert all(tensor.dtype for layer in layers for tensor in layer.outputs)


def test_profile_times_the_layers_by_their_names(students: Students) -> None:
    timed = {layer.name: layer.time_ms for layer in students.bundle.layers}
    computing = [layer for layer in students.bundle.layers if layer.macs]
    assert computing
    assert all((timed[layer.name] or 0) > 0 for layer in computing)
    assert sum(value is not None for value in timed.values()) > 0.9 * len(timed)


def test_fused_layers_that_multiply_integers_say_so(students: Students, tmp_path: Path) -> None:
    model = onnx.load(students.onnx)
    result = backend_named("onnxruntime").build(
        model, tmp_path, BuildOptions(fused=True), lambda phase, done, total: None
    )
    integers = [layer for layer in result.layers if layer.precision == "int8"]
    assert {layer.kind for layer in integers} <= {"QGemm", "QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat"}
    assert integers
    assert all(layer.nodes for layer in integers)


@pytest.mark.parametrize(
    "options",
    [
        {"workspace_mb": 1024}, {"optimization_level": 3}, {"timing_cache": Path("cache")}, {"dla_core": 0},
        {"version_compatible": True}, {"hardware_compatible": True}, {"tactic_sources": ("CUBLAS",)},
        {"profile_verbosity": "names"}, {"precision": "fp16"}, {"threads": 0},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_what_it_has_no_such_thing_for_is_refused(students: Students, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(QdbevError) as caught:
        build(students.onnx, tmp_path / "a.qdbev", backend="onnxruntime", verify=False, **options)
    assert caught.value.exit_code == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


def test_no_cuda_graph(students: Students) -> None:
    with pytest.raises(QdbevError, match="CUDA graph"):
        students.bundle.engine().stream(StreamOptions(cuda_graph=True))


class TestCuda:
    """The seam to ONNX Runtime's CUDA provider, as far as a machine without it can see."""

    def test_it_is_preferred_where_it_is(self) -> None:
        assert preferred_provider(["TensorrtExecutionProvider", CUDA, CPU]) == CUDA
        assert preferred_provider(["AzureExecutionProvider", CPU]) == CPU

    def test_the_session_is_asked_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        monkeypatch.setattr(onnxruntime, "InferenceSession", lambda model, options, providers: asked.append(providers))
        session_of("a.onnx", provider=CUDA)
        session_of("a.onnx")
        assert asked == [[CUDA, CPU], [CPU]]

    def test_states_lie_on_the_device_and_results_on_the_host(
        self, students: Students, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[tuple[tuple[int, ...], str]] = []
        real = onnxruntime.OrtValue.ortvalue_from_numpy

        def record(array: np.ndarray, device: str = "cpu", *rest: Any) -> Any:
            made.append((array.shape, device))
            return real(array, "cpu")

        monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", record)
        engine = students.bundle.engine()
        stream = OnnxRuntimeStream(session_of(str(students.onnx)), engine.inputs, engine.outputs, CUDA, StreamOptions())
        state = students.bundle.inputs[1].shape
        assert [device for shape, device in made if shape == state] == ["cuda", "cuda"]
        assert {device for shape, device in made if shape != state} == {"cpu"}
        step(stream, students, 0, None)

    def test_what_is_copied_when_it_is_bound_is_bound_at_every_step(
        self, students: Students, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """ONNX Runtime copies a host input to a GPU when it is bound, not when the network runs."""
        real = onnxruntime.OrtValue.ortvalue_from_numpy
        monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", lambda array, *_: real(array, "cpu"))
        session = session_of(str(students.onnx))

        class Copying:
            """A session whose bindings hold inputs as they were when they were bound."""

            def io_binding(self) -> Any:
                binding = session.io_binding()
                bind, kept = binding.bind_cpu_input, {}

                def bind_copy(name: str, array: np.ndarray) -> None:
                    kept[name] = array.copy()
                    bind(name, kept[name])

                binding.bind_cpu_input = bind_copy
                return binding

            def __getattr__(self, name: str) -> Any:
                return getattr(session, name)

        found = []
        for runtime, provider in ((session, CPU), (Copying(), CUDA)):
            stream = OnnxRuntimeStream(
                runtime, students.bundle.inputs, students.bundle.outputs, provider, StreamOptions()
            )
            first, _, _ = step(stream, students, 0, None)
            _, classes, _ = step(stream, students, 1, first)
            found.append(classes.copy())
        np.testing.assert_array_equal(*found)

    def test_a_bundle_for_it_does_not_fall_back(self, students: Students) -> None:
        backend = backend_named("onnxruntime")
        with pytest.raises(QdbevError, match="was built for ONNX Runtime's CUDAExecutionProvider") as caught:
            backend.open(students.onnx, students.bundle.inputs, students.bundle.outputs, {"provider": CUDA})
        assert caught.value.exit_code == ExitCode.MISSING
