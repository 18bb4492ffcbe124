"""Students: their integers in the file and along the way, where Q/DQ stand, and both carriers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.agreement import BoxParity
from qdbev_deploy.check import check_onnx
from qdbev_deploy.contract import VariantSpec, stream_inputs
from qdbev_deploy.export import ExportOptions, ExportReport, export_onnx, exporter
from qdbev_deploy.export.debug_copy import FORCED, forced_copy
from qdbev_deploy.export.exporter import _compare_weights
from qdbev_deploy.export.parity import ParityReport, prove
from qdbev_deploy.export.streaming_graph import StreamingGraph
from qdbev_deploy.graph.index import Graph, attributes
from qdbev_deploy.graph.quantised import weight_dequantizers
from qdbev_deploy.quant.quantise import integers
from qdbev_deploy.reference import UNFUSED, session_of, stream_of
from tests.drive import frames
from tests.export.students import DEFORMABLE, PLAIN, SHORT, at_every_level, feed, spoil, student


def export(spec: VariantSpec, path: Path, count: int, recipe: str = "w4a6", **options: object) -> ExportReport:
    model, chosen = student(spec, recipe)
    return export_onnx(model, path, recipe=chosen, frames=frames(spec, count=count), **options)


class Proved(NamedTuple):
    """An export with the tensors of integers that its proof was given."""

    report: ExportReport
    taps: dict[str, str]


def proved(spec: VariantSpec, path: Path, count: int, **options: object) -> Proved:
    given: list[dict[str, str]] = []

    def noting(graph: StreamingGraph, model: onnx.ModelProto, taps: dict[str, str], *rest: Any) -> ParityReport:
        given.append(taps)
        return prove(graph, model, taps, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "prove", noting)
        return Proved(export(spec, path, count, **options), given[0] if given else {})


def proved_again(
    model: onnx.ModelProto, taps: dict[str, str], spec: VariantSpec = PLAIN, **options: Any
) -> ParityReport:
    graph = StreamingGraph(student(spec)[0], ExportOptions(**options))
    report = prove(graph, model, taps, frames(spec, count=4), "noise")
    report.judge()
    return report


@pytest.fixture(scope="module")
def student_file(tmp_path_factory: pytest.TempPathFactory) -> Proved:
    return proved(PLAIN, tmp_path_factory.mktemp("export") / "student.onnx", 20)


@pytest.fixture(scope="module")
def w4a6(student_file: Proved) -> ExportReport:
    return student_file.report


def test_every_integer_is_the_students(w4a6: ExportReport) -> None:
    parity = w4a6.parity
    assert parity is not None
    assert parity.passed, parity.failures
    assert parity.frames == 20
    assert parity.weight_integers > 100_000
    assert parity.weight_integers_different == 0
    assert len(parity.activations) > 30
    for item in parity.activations.values():
        assert item.elements > 0
        assert item.largest_step <= 1
        assert item.different <= 1e-4 * item.elements
    assert parity.step_boxes is not None
    assert parity.step_boxes.center_m < 1e-3


def test_drift_is_that_of_torch_against_itself(w4a6: ExportReport) -> None:
    """Rounding ties set off whole steps; what the file drifts by is of the size that torch's own kernels differ by."""
    assert w4a6.parity is not None
    control = w4a6.parity.control
    assert control is not None
    assert control.frames == 3
    assert control.file_boxes.center_m < 10 * max(control.boxes.center_m, 0.05)
    assert control.file_boxes.center_m <= w4a6.parity.boxes.center_m


def drift(path: Path, config: Mapping[str, str], count: int) -> BoxParity:
    """Boxes of a file in ONNX Runtime held to torch's, each with its own state."""
    model, _ = student(PLAIN)
    sides = [stream_of(session_of(onnx.load(path), config), stream_inputs(PLAIN)), model.session()]
    boxes = BoxParity()
    for frame in islice(frames(PLAIN, count=20), count):
        theirs, ours = (side.step(frame.image, frame.lidar2img, frame.ego, frame.scene) for side in sides)
        boxes.add([None, ours.classes, ours.coords], [None, theirs.classes, theirs.coords], PLAIN)
    return boxes


def test_what_is_reported_beside_is_of_the_run_it_names(w4a6: ExportReport) -> None:
    assert w4a6.parity is not None
    mode, control = w4a6.parity.default_mode, w4a6.parity.control
    assert mode is not None
    assert control is not None
    assert mode.boxes == drift(w4a6.path, {}, 10)
    assert mode.file_boxes == drift(w4a6.path, UNFUSED, 10)
    assert control.file_boxes == drift(w4a6.path, UNFUSED, 3)
    assert mode.boxes != mode.file_boxes
    assert control.boxes != control.file_boxes


def test_the_default_mode_is_reported_over_the_first_scene(w4a6: ExportReport) -> None:
    assert w4a6.parity is not None
    assert w4a6.parity.default_mode_error is None
    told = w4a6.to_dict()["parity"]["default_mode"]
    assert told["frames"] == 10
    assert told["boxes"]["detections"] == told["file_boxes_over_these_frames"]["detections"] > 0
    assert told["boxes"]["center_m"] > 0  # biases rounded to int32 are felt


def test_weights_are_stored_as_integers_of_their_bits(w4a6: ExportReport) -> None:
    graph = Graph(onnx.load(w4a6.path))
    stored = {node.input[0]: graph.initializers[node.input[0]] for node in weight_dequantizers(graph)}
    found = integers(student(PLAIN)[0]).weights
    conv = found["img_backbone.layer2.0.conv1"]
    array = numpy_helper.to_array(stored["img_backbone.layer2.0.conv1.weight.integers"])
    assert array.dtype == np.int8
    assert np.array_equal(array, conv.integers.numpy())
    assert array.min() >= -8
    assert array.max() <= 7
    assert all(tensor.data_type == TensorProto.INT8 for tensor in stored.values())


def test_weights_meet_their_operators_without_anything_between(w4a6: ExportReport) -> None:
    graph = Graph(onnx.load(w4a6.path))
    readers = {user.op_type for node in weight_dequantizers(graph) for user in graph.consumers[node.output[0]]}
    assert readers <= {"Conv", "Gemm", "MatMul", "Transpose"}


def clips(path: Path) -> list[tuple[float, float, float]]:
    """(scale, low, high) of every quantiser that a Clip precedes."""
    graph = Graph(onnx.load(path))
    found = []
    for node in graph.proto.node:
        clip = graph.producer.get(node.input[0])
        if node.op_type == "QuantizeLinear" and clip is not None and clip.op_type == "Clip":
            values = [graph.constant(name) for name in (node.input[1], *clip.input[1:])]
            found.append(tuple(float(value) for value in values if value is not None))
    return found


def test_activations_are_clipped_in_float_before_they_are_quantised(w4a6: ExportReport) -> None:
    exact = clips(w4a6.path)
    assert len(exact) > 30
    for scale, low, high in exact:
        assert (round(low / scale), round(high / scale)) in ((-32, 31), (0, 63))


def test_plugins_take_integers_with_their_scale(w4a6: ExportReport) -> None:
    graph = Graph(onnx.load(w4a6.path))
    scales = integers(student(PLAIN)[0]).activations
    nodes = list(graph.bev_nodes())
    assert len(nodes) == 6
    wanted = {scale.scale for name, scale in scales.items() if name.endswith("value_tap")}
    for node in nodes:
        assert any(np.isclose(attributes(node)["value_scale"], scale, rtol=1e-6) for scale in wanted)
        assert graph.element_type(node.input[0]) == TensorProto.INT8


def test_no_rule_of_explicit_quantisation_is_broken(w4a6: ExportReport) -> None:
    for target in ("trt8.6", "trt10.3", "trt11", "ort"):
        report = check_onnx(w4a6.path, target)
        assert report.errors == []
    assert report.coverage["backbone"]["int8_share"] == 1.0
    assert report.coverage["all"]["int8_share"] > 0.8


def test_every_optimisation_level_agrees_from_the_same_integers(student_file: Proved) -> None:
    """Levels sum in other orders, and a tie that one of them tips sets off others: so the file is cut at quantisers."""
    model, taps = onnx.load(student_file.report.path), student_file.taps
    tensors = list(dict.fromkeys(taps.values()))
    told = onnx.ModelProto.FromString(model.SerializeToString())
    told.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT8, None) for name in tensors)
    inputs = feed(session_of(model))
    integers_of = dict(zip(tensors, session_of(told).run(None, inputs)[3:], strict=True))
    given = {name + FORCED: array for name, array in integers_of.items()}
    first, *others = at_every_level(forced_copy(model, taps), {**inputs, **given})
    for other in others:
        for ours, theirs in zip(first[:3], other[:3]):
            assert np.abs(ours - theirs).max() <= 1e-4
        gaps = [np.abs(ours.astype(int) - theirs) for ours, theirs in zip(first[3:], other[3:])]
        assert len(gaps) == len(tensors)
        assert max(gap.max() for gap in gaps) <= 1
        assert sum(np.count_nonzero(gap) for gap in gaps) <= 1e-4 * sum(gap.size for gap in gaps)


def test_metadata_says_bits_and_recipe(w4a6: ExportReport) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(w4a6.path).metadata_props}
    bits = json.loads(metadata["qdbev.bits"])
    assert bits["weights"]["img_backbone.conv1"] == 8
    assert bits["weights"]["img_backbone.layer1.0.conv1"] == 4
    assert bits["activations"]["img_backbone.stem_tap"] == {"bits": 6, "signed": False}
    assert json.loads(metadata["qdbev.recipe"])["name"] == "w4a6"


def test_four_bit_integers_two_a_byte(tmp_path: Path) -> None:
    report = export(SHORT, tmp_path / "int4.onnx", 4, carrier="int4")
    assert report.opset == 21
    assert report.parity is not None
    assert report.parity.passed, report.parity.failures
    graph = Graph(onnx.load(report.path))
    found = integers(student(SHORT)[0]).weights
    four = {name: weight for name, weight in found.items() if f"{name}.weight.integers" in graph.initializers}
    assert len(four) > 20
    for name, weight in four.items():
        stored = graph.initializers[f"{name}.weight.integers"]
        assert stored.data_type == (TensorProto.INT4 if weight.grid.bits == 4 else TensorProto.INT8)
        assert np.array_equal(numpy_helper.to_array(stored).astype(np.int8), weight.integers.numpy())
    packed = sum(row.get("int4", 0) for row in report.weight_bytes.values())
    values = sum(weight.integers.numel() for weight in four.values() if weight.grid.bits == 4)
    assert packed >= values / 2  # the packed projection of self-attention lies in pieces and comes on top
    assert packed < values / 2 * 1.2


def test_columns_of_deformable_convolutions_are_quantised(tmp_path: Path) -> None:
    report = export(DEFORMABLE, tmp_path / "student.onnx", 4)
    assert report.parity is not None
    assert report.parity.passed, report.parity.failures
    assert report.opset == 18
    columns = [name for name in report.parity.activations if name.endswith("columns_tap")]
    assert len(columns) == 1
    graph = Graph(onnx.load(report.path))
    (sample,) = [node for node in graph.bev_nodes() if node.op_type == "ModulatedDeformSample"]
    assert attributes(sample)["value_scale"] > 0
    assert check_onnx(report.path, "trt8.6").errors == []


def test_a_wrong_weight_integer_is_found(w4a6: ExportReport) -> None:
    proto, report = onnx.load(w4a6.path), ParityReport("none")
    (tensor,) = [item for item in proto.graph.initializer if item.name == "img_backbone.layer2.0.conv1.weight.integers"]
    array = numpy_helper.to_array(tensor).copy()
    array.flat[7] ^= 1
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    _compare_weights(student(PLAIN)[0], proto, report)
    report.judge()
    assert report.failures[0] == f"1 of {report.weight_integers} weight integers differ"


@pytest.mark.parametrize(
    ("what", "sentences"),
    [
        ("classes", ["output 'outputs_classes', from the same integers", "scores, from the same integers"]),
        ("sizes", ["output 'outputs_coords', from the same integers", "box sizes, from the same integers"]),
        ("velocities", ["output 'outputs_coords', from the same integers", "velocities, from the same integers"]),
        ("0.0", ["output 'bev_embed', from the same integers"]),
    ],
)
def test_every_part_of_the_outputs_is_judged(what: str, sentences: list[str], student_file: Proved) -> None:
    report = proved_again(spoil(onnx.load(student_file.report.path), what), student_file.taps)
    for sentence in sentences:
        assert any(failure.startswith(sentence) for failure in report.failures), report.failures


def test_a_quantiser_on_one_side_alone_is_reported(student_file: Proved) -> None:
    taps = dict(student_file.taps)
    taps["nobody"] = taps.pop("img_backbone.stem_tap")
    report = proved_again(onnx.load(student_file.report.path), taps)
    assert report.frames == 4
    assert report.failures == [
        "activation 'img_backbone.stem_tap' is quantised in torch and has no QuantizeLinear in the file",
        "activation 'nobody' is in the file and was never quantised in torch",
    ]


def test_relaxed_files_have_no_clips_pass_and_a_wrong_scale_in_them_is_found_where_it_is(tmp_path: Path) -> None:
    report, taps = proved(SHORT, tmp_path / "student.onnx", 4, clip="relaxed")
    assert clips(report.path) == []
    assert report.parity is not None
    assert report.parity.passed, report.parity.failures
    beyond = {name: item.beyond for name, item in report.parity.activations.items() if item.beyond}
    assert beyond  # percentile scales leave some outside their six bits
    written = json.loads((tmp_path / "student.export.json").read_text())
    assert {name: written["parity"]["activations"][name]["beyond"] for name in beyond} == beyond

    model = onnx.load(report.path)
    graph = Graph(model)
    quantizer = graph.producer[taps["img_backbone.stem_tap"]]
    scale = graph.initializers[quantizer.input[1]]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.02), scale.name))
    wrong = proved_again(model, taps, SHORT, clip="relaxed").failures
    assert wrong[0].startswith("activation 'img_backbone.stem_tap'")
    assert proved_again(onnx.load(report.path), taps, SHORT).failures  # the same integers without leave to exceed
