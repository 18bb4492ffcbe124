"""Float models: the contract, every option, every optimisation level, real clients."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from qdbev_deploy.contract import CAMERAS, VariantSpec, stream_inputs, stream_outputs
from qdbev_deploy.data.preprocess import preprocess
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.export import ExportReport, export_onnx
from qdbev_deploy.export.options import ExportOptions
from qdbev_deploy.export.parity import prove
from qdbev_deploy.export.streaming_graph import StreamingGraph
from qdbev_deploy.reference import session_of
from tests.drive import frames
from tests.export.students import DEFORMABLE, PLAIN, SHORT, at_every_level, feed, float_model, spoil


def export(spec: VariantSpec, path: Path, count: int = 20, **options: object) -> ExportReport:
    chosen = ExportOptions(**options)
    return export_onnx(float_model(spec), path, frames=frames(spec, chosen.image, count), **options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export(PLAIN, tmp_path_factory.mktemp("export") / "plain.onnx")


def test_names_order_shapes_and_types_are_the_contract(plain: ExportReport) -> None:
    graph = onnx.load(plain.path).graph
    for specs, values in ((stream_inputs(PLAIN), graph.input), (stream_outputs(PLAIN), graph.output)):
        assert [(item.name, item.shape) for item in specs] == [
            (value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)) for value in values
        ]


def test_parity_holds_over_a_drive_with_a_reset(plain: ExportReport) -> None:
    assert plain.parity is not None
    assert plain.parity.passed
    assert plain.parity.frames == 20
    assert plain.parity.resets == ["first frame", *[""] * 9, "new scene", *[""] * 9]
    assert plain.parity.outputs["bev_embed"] < 1e-4
    assert plain.parity.boxes.center_m < 1e-3
    assert plain.parity.boxes.detections == 20 * 50
    written = json.loads(plain.path.with_suffix(".export.json").read_text())
    assert written["parity"]["passed"] is True
    assert written["file_bytes"] == plain.path.stat().st_size


def test_the_ops_are_single_nodes_with_functions(plain: ExportReport) -> None:
    model = onnx.load(plain.path)
    nodes = Counter(node.op_type for node in model.graph.node if node.domain == "qdbev")
    assert nodes == {"TemporalSelfAttn": 2, "SpatialCrossAttn": 2, "MSDeformAttn": 2}
    assert sorted(function.name for function in model.functions) == sorted(nodes)
    onnx.checker.check_model(model, full_check=True)


def test_nodes_and_weights_are_named_after_modules_and_no_path_is_in_the_file(plain: ExportReport) -> None:
    model = onnx.load(plain.path)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "img_backbone.layer1.0.conv1/Conv" in names
    assert "pts_bbox_head.bev_embedding.weight" in [tensor.name for tensor in model.graph.initializer]
    content = plain.path.read_bytes()
    assert not re.search(rb"/(home|root|work|usr|tmp|Users)/|site-packages|\.py\b", content)


def test_metadata_says_what_this_file_is(plain: ExportReport) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(plain.path).metadata_props}
    assert VariantSpec.from_dict(json.loads(metadata["qdbev.variant"])) == PLAIN
    assert metadata["qdbev.contract_version"] == "1"
    assert metadata["qdbev.opset"] == "18"
    assert metadata["qdbev.tool"].startswith("qdbev-deploy ")
    assert len(metadata["qdbev.weights_sha256"]) == 64
    assert metadata["qdbev.bits"] == "float"


def test_every_optimisation_level_agrees(plain: ExportReport) -> None:
    first, *others = at_every_level(onnx.load(plain.path), feed(session_of(str(plain.path))))
    for other in others:
        for ours, theirs in zip(first, other):
            assert np.abs(ours - theirs).max() <= 1e-4


def test_a_first_frame_may_hold_anything_in_its_state(plain: ExportReport) -> None:
    session = session_of(str(plain.path))
    inputs = feed(session)
    inputs["use_prev_bev"][:] = 0
    first = session.run(None, inputs)
    inputs["prev_bev"][:] = np.nan
    for ours, theirs in zip(first, session.run(None, inputs)):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(("opset", "op"), [(None, "DeformConv"), (17, "ModulatedDeformSample")])
def test_deformable_convolutions(opset: int | None, op: str, tmp_path: Path) -> None:
    report = export(DEFORMABLE, tmp_path / "model.onnx", count=6, opset=opset)
    assert report.parity is not None
    assert report.parity.passed, report.parity.failures
    assert report.opset == (opset or 19)
    assert any(name.endswith(op) for name in report.nodes)


def test_fp16_state_and_uint8_frames_under_the_newest_opset(tmp_path: Path) -> None:
    report = export(SHORT, tmp_path / "model.onnx", count=8, io="fp16", image="uint8", opset=21)
    assert report.parity is not None
    assert report.parity.passed, report.parity.failures
    assert report.parity.outputs["bev_embed"] < 5e-3  # a step of FP16 at the map's largest values
    session = onnxruntime.InferenceSession(str(report.path))
    types = {item.name: item.type for item in (*session.get_inputs(), *session.get_outputs())}
    assert [name for name, type_ in types.items() if type_ == "tensor(float16)"] == ["prev_bev", "bev_embed"]
    assert types["image"] == "tensor(uint8)"
    assert session.get_inputs()[0].shape == [1, len(CAMERAS), *SHORT.preprocess.source_hw, 3]
    assert {entry.domain: entry.version for entry in onnx.load(report.path).opset_import} == {"": 21, "qdbev": 1}


def test_mlperf_harness_can_feed_it_by_position_under_the_oldest_opset(tmp_path: Path) -> None:
    """Its ONNX backend zips inputs by position, with a 0-d use_prev_bev, and reads the last entry of the layer axis."""
    report = export(SHORT, tmp_path / "model.onnx", count=4, io="mlperf", opset=17)
    assert report.parity is not None
    assert report.parity.passed, report.parity.failures
    assert {entry.domain: entry.version for entry in onnx.load(report.path).opset_import} == {"": 17, "qdbev": 1}
    session = onnxruntime.InferenceSession(str(report.path))
    assert [item.shape for item in session.get_inputs()][2] == []
    frame = next(iter(frames(SHORT)))
    by_position = (
        frame.image, np.zeros((SHORT.bev_cells, 1, SHORT.embed_dim), np.float32), np.array(0.0, np.float32),
        np.zeros(18, np.float32), frame.lidar2img,
    )  # fmt: skip
    bev, classes, coords = session.run(
        None, {item.name: value for item, value in zip(session.get_inputs(), by_position)}
    )
    assert bev.shape == (SHORT.bev_cells, 1, SHORT.embed_dim)
    assert classes[-1].shape == coords[-1].shape == (1, SHORT.queries, 10)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_frames_are_preprocessed_in_the_graph_as_outside(order: str) -> None:
    changed = dataclasses.replace(
        PLAIN.preprocess, channel_order=order, source_hw=(120, 200), resized_hw=(90, 150), padded_hw=(96, 160)
    )
    spec = dataclasses.replace(PLAIN, preprocess=changed)
    native = np.random.default_rng(0).integers(0, 256, (6, 120, 200, 3), dtype=np.uint8)
    graph = StreamingGraph(float_model(spec), ExportOptions(image="uint8"))
    ours = graph._network_input(torch.from_numpy(native)[None])[0].numpy()
    assert np.abs(ours - preprocess(native, spec.preprocess)).max() < 1e-4


@pytest.mark.parametrize(("change", "says"), [(0.01, r"\d\.\d\de-01 m"), (float("nan"), "nan m")])
def test_parity_fails_where_the_file_computes_something_else(change: float, says: str, plain: ExportReport) -> None:
    model = onnx.load(plain.path)
    (bias,) = [item for item in model.graph.initializer if item.name.endswith("reg_branches.1.4.bias")]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(change), bias.name))
    parity = prove(StreamingGraph(float_model(PLAIN), ExportOptions()), model, {}, frames(PLAIN, count=4), "noise")
    parity.judge()
    assert any(re.match("box centres, own state, differ by up to " + says, failure) for failure in parity.failures)
    assert parity.boxes.detections_moved == parity.boxes.detections > 0


@pytest.mark.parametrize(
    ("what", "sentences"),
    [
        ("classes", ["output 'outputs_classes', own state", "scores, own state"]),
        ("sizes", ["output 'outputs_coords', own state", "box sizes, own state"]),
        ("velocities", ["output 'outputs_coords', own state", "velocities, own state"]),
        ("1.001", ["output 'bev_embed', own state"]),
    ],
)
def test_every_part_of_the_outputs_is_judged(what: str, sentences: list[str], plain: ExportReport) -> None:
    graph = StreamingGraph(float_model(PLAIN), ExportOptions())
    parity = prove(graph, spoil(onnx.load(plain.path), what), {}, frames(PLAIN, count=4), "noise")
    parity.judge()
    for sentence in sentences:
        assert any(failure.startswith(sentence) for failure in parity.failures), parity.failures


def test_a_drive_without_a_reset_proves_too_little(plain: ExportReport) -> None:
    one_scene = [dataclasses.replace(frame, scene="one") for frame in frames(PLAIN, count=4)]
    graph = StreamingGraph(float_model(PLAIN), ExportOptions())
    parity = prove(graph, onnx.load(plain.path), {}, one_scene, "noise")
    parity.judge()
    assert parity.failures == ["the sequence holds no reset after its first frame"]


def test_without_verification_the_report_says_what_is_not_proved(tmp_path: Path) -> None:
    report = export_onnx(float_model(SHORT), tmp_path / "model.onnx", verify=False)
    assert report.parity is None
    assert len(report.not_proved) == 3
    assert json.loads((tmp_path / "model.export.json").read_text())["not_proved"] == list(report.not_proved)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"io": "int8"}, "io 'int8'. Needed: one of fp32, fp16, mlperf"),
        ({"opset": 16}, "opset 16"),
        ({"carrier": "int4"}, "--carrier int4 with a float checkpoint"),
        ({"carrier": "int4", "opset": 18}, "--carrier int4 under opset 18"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    options: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(QdbevError) as caught:
        export_onnx(float_model(SHORT), tmp_path / "model.onnx", **options)
    assert str(caught.value).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


def test_external_data_and_back(plain: ExportReport, tmp_path: Path) -> None:
    model = onnx.load(plain.path)
    onnx.save(model, tmp_path / "outside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=256)
    assert (tmp_path / "weights.bin").stat().st_size > 100_000
    inputs = feed(session_of(str(plain.path)))
    pairs = (session_of(str(path)).run(None, inputs) for path in (plain.path, tmp_path / "outside.onnx"))
    for ours, theirs in zip(*pairs):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("command", [("inspect", "model"), ("run", "--onnxrt")])
def test_polygraphy_inspects_and_runs_it(command: tuple[str, str], plain: ExportReport) -> None:
    code = "import sys; from polygraphy.tools import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, str(plain.path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bev_embed" in done.stdout


def test_onnxslim_leaves_it_equal(plain: ExportReport, tmp_path: Path) -> None:
    onnxslim = pytest.importorskip("onnxslim", reason="pip install onnxslim")
    slim = onnxslim.slim(onnx.load(plain.path))
    before, after = session_of(str(plain.path)), session_of(slim)
    inputs = feed(before)
    for ours, theirs in zip(before.run(None, inputs), after.run(None, inputs)):
        assert np.abs(ours - theirs).max() <= 1e-4
