"""The Triton repository: its files, its configuration carried out by hand, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.engine import Bundle, build
from qdbev_deploy.engine.interface import Memory, StageTimes, StreamOptions
from qdbev_deploy.engine.parity import prove
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.export import export_onnx
from qdbev_deploy.package import TritonOptions, write_triton
from qdbev_deploy.package.text_format import Symbol, text_format
from tests.drive import frames
from tests.engine.students import Students
from tests.export.students import SHORT, float_model
from tests.package.bundles import PLUGIN, hand_made
from tests.package.pbtxt import parse

DOCS = Path(__file__).parents[2] / "docs" / "triton.md"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that runs: a small float model on ONNX Runtime."""
    folder = tmp_path_factory.mktemp("bundle")
    export_onnx(float_model(SHORT), folder / "small.onnx", verify=False)
    return build(folder / "small.onnx", folder / "small.qdbev", backend="onnxruntime", precision="fp32", verify=False)


def config_of(repository: Path, name: str) -> dict[str, list[Any]]:
    return parse((repository / name / "config.pbtxt").read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------------------------------
# A server that does what the configuration says


class Server:
    """The part of Triton that the configuration speaks to: implicit state, the START control, the whole shapes."""

    TYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_UINT8": np.uint8}  # noqa: RUF012

    def __init__(self, repository: Path, name: str) -> None:
        import onnxruntime

        self.config = config_of(repository, name)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # As onnxruntime_backend reads it; nothing said is everything.
        level = self.config.get("optimization", [{}])[0].get("graph", [{}])[0].get("level", [0])[0]
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = {
            -1: levels.ORT_ENABLE_BASIC, 0: levels.ORT_ENABLE_ALL, 1: levels.ORT_ENABLE_EXTENDED,
            2: levels.ORT_DISABLE_ALL,
        }[level]  # fmt: skip
        self.session = onnxruntime.InferenceSession(
            (repository / name / "1" / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self.states: dict[int, np.ndarray] = {}

    def infer(self, sent: dict[str, np.ndarray], sequence: int, start: bool) -> dict[str, np.ndarray]:
        (batching,) = self.config["sequence_batching"]
        (control,) = batching["control_input"]
        (state,) = batching["state"]
        assert sequence
        if not start and sequence not in self.states:
            raise ForgottenError
        if start:
            (initial,) = state["initial_state"]
            assert initial["zero_data"] == [True]
            self.states[sequence] = np.zeros(initial["dims"], self.TYPES[initial["data_type"][0]])
        (kind,) = control["control"]
        assert kind["kind"] == ["CONTROL_SEQUENCE_START"]
        false, true = kind["fp32_false_true"]
        feeds = {control["name"][0]: np.array([true if start else false], np.float32)}
        feeds[state["input_name"][0]] = self.states[sequence]
        for entry in self.config["input"]:
            array = sent.pop(entry["name"][0])
            assert list(array.shape) == entry["dims"]
            assert array.dtype == self.TYPES[entry["data_type"][0]]
            feeds[entry["name"][0]] = array
        assert not sent
        names = [entry["name"][0] for entry in self.config["output"]] + state["output_name"]
        assert {item.name for item in self.session.get_inputs()} == set(feeds)
        *outputs, self.states[sequence] = self.session.run(names, feeds)
        return dict(zip(names, outputs))


class ForgottenError(Exception):
    """What Triton answers to a request of a sequence that it does not know."""


def client_of_the_docs(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The client that docs/triton.md shows, with tritonclient's own inputs, whose requests go to our server."""
    grpc = pytest.importorskip("tritonclient.grpc")
    utils = pytest.importorskip("tritonclient.utils")

    class Answer(dict):  # type: ignore[type-arg]
        as_numpy = dict.__getitem__

    class InferenceServerClient:
        def __init__(self, url: str) -> None:
            assert url == "localhost:8001"

        def infer(self, model: str, inputs: list[Any], *, sequence_id: int, sequence_start: bool) -> Answer:
            assert [model] == server.config["name"]
            sent = {
                item.name(): np.frombuffer(item._get_content(), utils.triton_to_np_dtype(item.datatype())).reshape(
                    item.shape()
                )
                for item in inputs
            }
            try:
                return Answer(server.infer(sent, sequence_id, sequence_start))
            except ForgottenError:
                raise utils.InferenceServerException(
                    f"inference request for sequence {sequence_id} to model '{model}' must specify the START flag on "
                    "the first request of the sequence"
                ) from None

    monkeypatch.setattr(grpc, "InferenceServerClient", InferenceServerClient)
    found = re.search(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found.group(1), names)
    return names


def served(bundle: Bundle, models: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Server, Any]:
    """A server of the bundle, and the session of the documentation's client with it."""
    write_triton(bundle, models, TritonOptions(name="student"))
    server = Server(models, "student")
    return server, client_of_the_docs(server, monkeypatch)["session"]


def test_the_documented_client_sees_what_a_session_sees(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, remote = served(small, tmp_path / "models", monkeypatch)
    drive = list(frames(SHORT, count=6))  # of two scenes
    with small.session() as local:
        for frame in drive:
            mine = local.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
            theirs = remote.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
            assert theirs.reset == mine.reset
            np.testing.assert_allclose(theirs.classes, mine.classes, atol=1e-3)
            np.testing.assert_allclose(theirs.coords, mine.coords, atol=1e-3)
    # The state matters: the same frame without its past is another one.
    frame = drive[-1]
    remote.session.reset()
    alone = remote.step(frame.image, frame.lidar2img, frame.ego, "new")
    assert not np.allclose(alone.classes, theirs.classes, atol=1e-3)


def test_the_documented_client_starts_anew_where_the_server_forgot(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, remote = served(small, tmp_path / "models", monkeypatch)
    first, second, third = list(frames(SHORT, count=6))[:3]
    remote.step(first.image, first.lidar2img, first.ego, first.scene)
    server.states.clear()  # idle for too long by the server's clock, though not by the time stamps
    anew = remote.step(second.image, second.lidar2img, second.ego, second.scene)
    assert anew.reset
    assert not anew.can_bus[:3].any()
    assert not remote.step(third.image, third.lidar2img, third.ego, third.scene).reset
    # Any other answer of the server is the caller's.
    utils = pytest.importorskip("tritonclient.utils")

    def unavailable(*_: object, **__: object) -> None:
        raise utils.InferenceServerException("the server is shutting down")

    monkeypatch.setattr(remote.client, "infer", unavailable, raising=False)
    with pytest.raises(utils.InferenceServerException, match="shutting down"):
        remote.step(second.image, second.lidar2img, second.ego, "another scene")


class ServedStream:
    """A sequence on the server, in the form that `build` proves engines in."""

    def __init__(self, server: Server, sequence: int) -> None:
        self.server, self.sequence, self.times = server, sequence, StageTimes()

    def step(
        self, image: np.ndarray, prev_bev: Any, use_prev_bev: bool, can_bus: np.ndarray, lidar2img: np.ndarray
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        if isinstance(prev_bev, np.ndarray):
            self.server.states[self.sequence] = prev_bev
        sent = {"image": image, "can_bus": can_bus, "lidar2img": lidar2img}
        found = self.server.infer(sent, self.sequence, not use_prev_bev)
        return self.sequence, found["outputs_classes"], found["outputs_coords"]

    def read_state(self, handle: Any) -> np.ndarray:
        return self.server.states[handle].copy()

    def close(self) -> None:
        return


class ServedEngine:
    """A model on the server as an engine."""

    def __init__(self, server: Server, bundle: Bundle) -> None:
        self.inputs: Sequence[Any] = bundle.inputs
        self.outputs: Sequence[Any] = bundle.outputs
        self._server, self._streams = server, 0

    def stream(self, options: StreamOptions = StreamOptions()) -> ServedStream:
        self._streams += 1
        return ServedStream(self._server, self._streams)

    def memory(self) -> Memory:
        return Memory()

    def profile(self, feeds: Any) -> dict[str, float]:
        return {}

    def close(self) -> None:
        return


def test_a_quantised_student_is_as_near_as_an_int8_engine_must_be(students: Students, tmp_path: Path) -> None:
    bundle = students.bundle
    assert bundle.precision == "int8, emulated in floating point"
    write_triton(bundle, tmp_path / "models")
    assert config_of(tmp_path / "models", "student")["optimization"] == [{"graph": [{"level": [2]}]}]
    served = ServedEngine(Server(tmp_path / "models", "student"), bundle)
    report = prove(
        served, str(bundle.engine_path), bundle.spec, students.drive[2:], "noise", "int8"
    )  # the reference is what the bundle itself runs
    assert report.passed, report.failures
    assert report.frames == 6


# ----------------------------------------------------------------------------------------------------------------------
# The files


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize(("io", "image"), [("fp32", "float32"), ("fp16", "uint8")])
def test_a_configuration_of_either_backend(tmp_path: Path, backend: str, io: str, image: str) -> None:
    bundle = hand_made(tmp_path / "student.qdbev", backend, io=io, image=image)
    written = write_triton(bundle, tmp_path / "models", TritonOptions(sequences=32, max_idle_s=0.5))
    tensorrt = backend == "tensorrt"
    engine = "model.plan" if tensorrt else "model.onnx"
    extra = [f"student/1/{PLUGIN}"] if tensorrt else []
    assert list(written.files) == sorted(
        ["README.md", "student/config.pbtxt", "student/contract.json", f"student/1/{engine}", *extra]
    )
    assert (tmp_path / "models" / "student" / "1" / engine).read_bytes() == b"no engine"
    config = config_of(tmp_path / "models", "student")
    spec = VARIANTS["tiny"]
    state_type = "TYPE_FP16" if io == "fp16" else "TYPE_FP32"
    assert config["name"] == ["student"]
    assert config["platform"] == ["tensorrt_plan" if tensorrt else "onnxruntime_onnx"]
    assert config["max_batch_size"] == [0]
    assert config["instance_group"] == [{"count": [1], "kind": ["KIND_GPU" if tensorrt else "KIND_CPU"]}]
    assert [(entry["name"][0], entry["data_type"][0], entry["dims"]) for entry in config["input"]] == [
        ("image", "TYPE_UINT8", [1, 6, 900, 1600, 3]) if image == "uint8" else
        ("image", "TYPE_FP32", [1, 6, 3, 480, 800]),
        ("can_bus", "TYPE_FP32", [18]),
        ("lidar2img", "TYPE_FP32", [1, 6, 4, 4]),
    ]  # fmt: skip
    assert [(entry["name"][0], entry["dims"]) for entry in config["output"]] == [
        ("outputs_classes", [1, 1, spec.queries, 10]), ("outputs_coords", [1, 1, spec.queries, 10]),
    ]  # fmt: skip
    (batching,) = config["sequence_batching"]
    assert batching["max_sequence_idle_microseconds"] == [500_000]
    assert batching["oldest"] == [{"max_candidate_sequences": [32]}]
    assert batching["control_input"] == [
        {"name": ["use_prev_bev"], "control": [{"kind": ["CONTROL_SEQUENCE_START"], "fp32_false_true": [1, 0]}]}
    ]
    (state,) = batching["state"]
    assert (state["input_name"], state["output_name"], state["data_type"]) == (
        ["prev_bev"],
        ["bev_embed"],
        [state_type],
    )
    assert state["dims"] == state["initial_state"][0]["dims"] == [2500, 1, 256]
    # Emulated int8 is served as the file stands.
    assert config.get("optimization") == (None if tensorrt else [{"graph": [{"level": [2]}]}])


def test_tritons_own_schema_reads_it(tmp_path: Path) -> None:
    """tritonclient, of the development extra, brings model_config.proto."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format as official

    for index, (backend, options) in enumerate((("tensorrt", {}), ("onnxruntime", {"threads": 4}))):
        bundle = hand_made(tmp_path / f"student{index}.qdbev", backend, options=options)
        written = write_triton(bundle, tmp_path / f"models{index}")
        config = official.Parse(
            (written.path / written.model / "config.pbtxt").read_text("utf-8"), schema.ModelConfig()
        )
        (state,) = config.sequence_batching.state
        assert (state.input_name, state.output_name) == ("prev_bev", "bev_embed")
        assert state.initial_state[0].zero_data
        (control,) = config.sequence_batching.control_input
        assert control.control[0].kind == schema.ModelSequenceBatching.Control.CONTROL_SEQUENCE_START
        assert list(control.control[0].fp32_false_true) == [1, 0]
        assert config.sequence_batching.WhichOneof("strategy_choice") == "oldest"
        assert config.WhichOneof("scheduling_choice") == "sequence_batching"
        assert config.max_batch_size == 0


def test_what_the_bundle_was_built_with_is_kept(tmp_path: Path) -> None:
    fused = hand_made(tmp_path / "fused.qdbev", "onnxruntime", options={"fused": True, "threads": 4})
    write_triton(fused, tmp_path / "models")
    config = config_of(tmp_path / "models", "fused")
    assert "optimization" not in config
    float_ = write_triton(hand_made(tmp_path / "float.qdbev", "onnxruntime", precision="fp32"), tmp_path / "float")
    assert "optimization" not in config_of(float_.path, "float")
    assert config["parameters"] == [{"key": ["intra_op_thread_count"], "value": [{"string_value": ["4"]}]}]
    assert "lets ONNX Runtime fuse" in (tmp_path / "models" / "README.md").read_text(encoding="utf-8")


def test_the_operators_page(tmp_path: Path) -> None:
    bundle = hand_made(tmp_path / "student.qdbev")
    text = (write_triton(bundle, tmp_path / "models", TritonOptions(max_idle_s=5)).path / "README.md").read_text(
        "utf-8"
    )
    for said in (
        "not been run on a server yet", "TensorRT 10.3.0.30 for Orin (compute capability 8.7)", "--gpus=all",
        f"--backend-config='tensorrt,plugins=/models/student/1/{PLUGIN}'", "After 5 s", "| variant | tiny, int8 |",
        bundle.manifest_sha256,
        "| image | float32 | 1x6x3x480x800 |", "/v2/models/student/ready",
    ):  # fmt: skip
        assert said in text
    cpu = hand_made(tmp_path / "cpu.qdbev", "onnxruntime")
    text = (write_triton(cpu, tmp_path / "other").path / "README.md").read_text("utf-8")
    assert "plugins=" not in text
    assert "--gpus" not in text
    assert "| variant | tiny, int8, emulated in floating point |" in text
    assert "Graph level 2 in config.pbtxt" in " ".join(text.split())
    float_ = hand_made(tmp_path / "float.qdbev", "onnxruntime", precision="fp32")
    assert "emulated" not in (write_triton(float_, tmp_path / "third").path / "README.md").read_text("utf-8")


# ----------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    "options",
    [TritonOptions(name="../up"), TritonOptions(name=""), TritonOptions(name="a b"), TritonOptions(name='x"\nname: "y'),
     TritonOptions(sequences=0), TritonOptions(max_idle_s=0), TritonOptions(max_idle_s=float("nan"))],
)  # fmt: skip
def test_options_that_no_server_takes(tmp_path: Path, options: TritonOptions) -> None:
    bundle = hand_made(tmp_path / "student.qdbev")
    with pytest.raises(QdbevError) as refused:
        write_triton(bundle, tmp_path / "models", options)
    assert refused.value.exit_code == ExitCode.USAGE
    assert not (tmp_path / "models").exists()


def test_a_flag_without_axes(tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match="without axes"):
        write_triton(hand_made(tmp_path / "student.qdbev", io="mlperf"), tmp_path / "models")


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path: Path) -> None:
    bundle = hand_made(tmp_path / "student.qdbev")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    for name in ("full", "file", "link"):
        with pytest.raises(QdbevError, match="not empty"):
            write_triton(bundle, tmp_path / name)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["kept"]
    assert write_triton(bundle, tmp_path / "empty").model == "student"


def test_a_bundle_that_changes_meanwhile_is_not_packaged(tmp_path: Path) -> None:
    bundle = hand_made(tmp_path / "student.qdbev")
    (bundle.path / "engine.plan").write_bytes(b"another 1")
    with pytest.raises(QdbevError, match="changed while"):
        write_triton(bundle, tmp_path / "models")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student.qdbev"]


def test_text_format_quotes_what_it_must() -> None:
    nasty = 'a"b\\c\nd\u00fc'
    text = text_format((("name", nasty), ("kind", Symbol("KIND_CPU")), ("on", True), ("dims", []), ("at", ())))
    assert parse(text) == {"name": [nasty], "kind": ["KIND_CPU"], "on": [True], "dims": [], "at": [{}]}
