"""A float file calibrated in ONNX Runtime against the checkpoint calibrated in torch, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.calibration import load_recipe
from qdbev_deploy.calibration.cache import CACHE_FORMAT, CACHE_VERSION
from qdbev_deploy.check import check_onnx
from qdbev_deploy.cli import main
from qdbev_deploy.contract import NUSCENES_HW, VariantSpec, stream_inputs
from qdbev_deploy.data.nuscenes import NuScenesSequences
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.export import export_onnx
from qdbev_deploy.graph.files import write_onnx
from qdbev_deploy.graph.index import WEIGHTED, Graph, attributes
from qdbev_deploy.ptq import FloatFile
from qdbev_deploy.ptq import observe as observing
from qdbev_deploy.reference import Feeds, session_of
from qdbev_deploy.streaming import StreamingSession
from tests.drive import frames
from tests.export.students import DEFORMABLE, PLAIN, SHORT, float_model, student

NATIVE = dataclasses.replace(
    SHORT, name="native", preprocess=dataclasses.replace(SHORT.preprocess, source_hw=NUSCENES_HW)
)
VIEWS = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Resize")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptq")


def exported(spec: VariantSpec, path: Path, **options: object) -> Path:
    export_onnx(float_model(spec), path, verify=False, **options)
    return path


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    return exported(PLAIN, folder / "plain.onnx")


@pytest.fixture(scope="module")
def native(folder: Path) -> Path:
    return exported(NATIVE, folder / "native.onnx")


def calibrated(path: Path, spec: VariantSpec, recipe_name: str) -> onnx.ModelProto:
    """Quantised from the frames on which `student` was calibrated, by the same method."""
    file = FloatFile.open(path, load_recipe(recipe_name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observing, "stream_frame", lambda frame, *_: frame)  # these have their pictures already
        histograms = file.observe([list(frames(spec, count=3))])  # type: ignore[list-item]
    return file.quantised(file.scales(histograms, "percentile", 99.99), {"calibration": "percentile"})


def facts(model: onnx.ModelProto) -> tuple[dict[str, float], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """(scale that each reader's activation has, (scales, integers) of each weight), by the reader's name."""
    graph = Graph(model)

    def dequantizer(name: str) -> onnx.NodeProto | None:
        node = graph.producer.get(name)
        while node is not None and node.op_type in VIEWS:
            node = graph.producer.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    activations: dict[str, float] = {}
    weights = {}
    for node in graph.proto.node:
        if node.domain == "qdbev":
            activations[node.name] = attributes(node)["value_scale"]
        if node.op_type in (*WEIGHTED, "Add"):
            for index, name in enumerate(node.input[:2]):
                pair = dequantizer(name)
                if pair is None:
                    continue
                scale = graph.constant(pair.input[1])
                if scale.size == 1:
                    activations[f"{node.name}:{index}" if node.op_type == "Add" else node.name] = float(scale)
                else:
                    integers = np.moveaxis(graph.constant(pair.input[0]), attributes(pair)["axis"], 0)
                    weights[node.name] = scale, integers.reshape(len(scale), -1)
    return activations, weights


@pytest.mark.parametrize("recipe", ["w8a8", "w4a6"])
def test_it_equals_calibrating_the_checkpoint_and_exporting_it(plain: Path, folder: Path, recipe: str) -> None:
    model, chosen = student(PLAIN, recipe)
    export_onnx(model, folder / f"{recipe}.onnx", recipe=chosen, verify=False)
    theirs, ours = onnx.load(folder / f"{recipe}.onnx"), calibrated(plain, PLAIN, recipe)
    (activations, weights), (expected_activations, expected_weights) = facts(ours), facts(theirs)
    assert len(activations) > 40
    assert set(activations) == set(expected_activations)
    for name, scale in activations.items():
        assert scale == pytest.approx(expected_activations[name], rel=2e-3), name
    assert set(weights) == set(expected_weights)
    different = 0
    for name, (scale, integers) in weights.items():
        # Batch norms are folded in single precision here and in double there.
        assert np.allclose(scale, expected_weights[name][0], rtol=1e-4), name
        gap = np.abs(integers.astype(int) - expected_weights[name][1])
        assert gap.max() <= 1, name
        different += np.count_nonzero(gap)
    assert different <= 1e-4 * sum(integers.size for _, integers in weights.values())

    counts = [
        {kind: sum(node.op_type == kind for node in proto.graph.node) for kind in ("QuantizeLinear", "Clip")}
        for proto in (ours, theirs)
    ]
    assert counts[0] == counts[1]
    # From the same frame boxes are near one another: rounding ties apart, the two files say the same.
    frame = next(iter(frames(PLAIN)))
    coords = [
        StreamingSession(stepper(proto)).step(frame.image, frame.lidar2img, frame.ego, frame.scene).coords
        for proto in (ours, theirs)
    ]
    apart_m = np.abs(coords[0] - coords[1])[..., [0, 1, 4]]
    assert np.median(apart_m) < {"w8a8": 0.05, "w4a6": 0.2}[recipe]


def stepper(model: onnx.ModelProto) -> Callable[..., tuple[np.ndarray, ...]]:
    runtime, feeds = session_of(model), Feeds(stream_inputs(PLAIN))
    return lambda *arguments: tuple(runtime.run(None, feeds(*arguments)))


def test_the_result_breaks_no_rule_and_says_what_it_is(plain: Path, tmp_path: Path) -> None:
    model = calibrated(plain, PLAIN, "w4a6")
    write_onnx(model, tmp_path / "m.onnx")
    for target in ("trt8.6", "trt10.3", "trt11", "ort"):
        report = check_onnx(tmp_path / "m.onnx", target)
        assert report.errors == []
        assert report.not_known == []
    assert report.coverage["backbone"]["int8_share"] == 1.0
    assert report.coverage["all"]["int8_share"] > 0.8
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["qdbev.bits"])["weights"]["img_backbone.conv1"] == 8
    assert json.loads(said["qdbev.bits"])["activations"]["img_backbone.image_tap"] == {"bits": 8, "signed": True}
    assert json.loads(said["qdbev.recipe"])["name"] == "w4a6"
    assert said["qdbev.calibration"] == "percentile"
    assert len(said["qdbev.float_sha256"]) == 64
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    values = [node for node in model.graph.node if node.domain == "qdbev"]
    assert len(values) == 6
    assert all(attributes(node)["value_scale"] > 0 for node in values)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert stored[node.input[2]].data_type == TensorProto.INT8
    clips = [node for node in model.graph.node if node.name == "img_backbone.layer1.0.conv2.input/Clip"]
    low, high = (float(numpy_helper.to_array(stored[name])) for name in clips[0].input[1:])
    scale = float(numpy_helper.to_array(stored["img_backbone.layer1.0.conv2.input.scale"]))
    assert (low, round(high / scale)) == (0.0, 63)  # behind a ReLU


def test_sampled_columns_are_quantised_and_deform_conv_is_not(folder: Path) -> None:
    sampled = FloatFile.open(exported(DEFORMABLE, folder / "sampled.onnx", opset=18), load_recipe("w8a8"))
    assert sampled.notes == []
    assert not any("conv_offset" in name for name in (*sampled.weights(), *sampled.names()))
    assert any("conv_offset" in name for name in sampled.placement.must_stay_float)
    (columns,) = [item for item in sampled.placement.activations if item.name.endswith("layer3.0.conv2.input")]
    assert columns.nonnegative
    standard = FloatFile.open(exported(DEFORMABLE, folder / "standard.onnx", opset=19), load_recipe("w8a8"))
    assert "DeformConv stays in float (1)" in standard.notes[0]


def test_passes_bound_the_memory_and_change_nothing(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "stream_frame", lambda frame, *_: frame)
    rollouts = [list(frames(PLAIN, count=2))]
    whole = FloatFile.open(plain, load_recipe("w8a8"))
    assert len(whole.groups) == 1
    expected = whole.observe(rollouts)  # type: ignore[arg-type]
    monkeypatch.setattr(observing, "PASS_BYTES", 200_000)
    split = FloatFile.open(plain, load_recipe("w8a8"))
    assert len(split.groups) > 3
    seen: list[int] = []
    found = split.observe(rollouts, lambda: seen.append(0))  # type: ignore[arg-type]
    assert len(seen) == 2 * len(split.groups)
    assert {name: item.largest for name, item in found.items()} == pytest.approx(
        {name: item.largest for name, item in expected.items()}
    )


def command(path: Path, dataroot: Path, out: Path, *more: str) -> list[str]:
    return ["calibrate", "--onnx", str(path), "--recipe", "w8a8", "--dataroot", str(dataroot), "--frames", "2",
            "-o", str(out), *more]  # fmt: skip


def test_the_command_needs_no_torch_and_its_cache_serves_again(
    native: Path, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache.json"
    arguments = command(native, synthetic_dataroot, tmp_path / "a.onnx", "--cache", str(cache), "--json")
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'torch': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        f"from qdbev_deploy.cli import main; sys.exit(main({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["weights"] > 25
    assert report["activations"] == len(json.loads(cache.read_text())["scales"])
    # A cache that fits needs no data, and decides: a scale changed in it is in the next file.
    content = json.loads(cache.read_text())
    content["scales"]["img_backbone.image_tap"] = 0.125
    cache.write_text(json.dumps(content))
    without_data = ["calibrate", "--onnx", str(native), "--recipe", "w8a8", "--cache", str(cache)]
    assert main([*without_data, "-o", str(tmp_path / "b.onnx")]) == 0
    assert "next: qdbev-deploy check" in capsys.readouterr().out
    scales = [
        float(numpy_helper.to_array(tensor))
        for name in ("a.onnx", "b.onnx")
        for tensor in onnx.load(tmp_path / name).graph.initializer
        if tensor.name == "img_backbone.image_tap.scale"
    ]
    assert scales[1] == 0.125
    assert scales[0] != 0.125


def test_a_cache_of_another_file_recipe_or_method_is_refused(
    plain: Path, native: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = FloatFile.open(native, load_recipe("w8a8"))
    cache = tmp_path / "cache.json"
    content = {
        "format": CACHE_FORMAT, "version": CACHE_VERSION, "model": file.sha256, "recipe": file.recipe.digest,
        "method": "mse", "percentile": None, "data": "none", "frames": 2, "split": "mini_train",
        "version_of_data": "v1.0-mini", "scales": dict.fromkeys(file.names(), 0.1),
    }  # fmt: skip
    cache.write_text(json.dumps(content))
    out = tmp_path / "out.onnx"
    base = [*command(native, Path("nowhere"), out, "--cache", str(cache))]
    other_recipe = [part if part != "w8a8" else "w4a8" for part in base]
    for arguments, sentence in (
        ([part if part != str(native) else str(plain) for part in base], "other weights"),
        (other_recipe, "other recipe"),
        ([*base, "--method", "minmax"], "other method"),
        ([*base, "--frames", "9"], "other frames (2, not 9)"),
        ([*base, "--split", "mini_val"], "other split"),
        ([*base, "--version", "v1.0-trainval"], "other version of data"),
    ):
        assert main(arguments) == ExitCode.BAD_INPUT
        assert sentence in capsys.readouterr().err
    content |= {"method": "percentile", "percentile": 99.9}
    cache.write_text(json.dumps(content))
    for more, code in (([], ExitCode.BAD_INPUT), (["--percentile", "99.9"], ExitCode.DONE)):
        assert main([*base, "-o", str(tmp_path / "kept.onnx"), "--method", "percentile", *more]) == code
    assert "other percentile (99.9, not 99.99)" in capsys.readouterr().err
    content |= {"method": "mse", "percentile": None, "scales": {"something else": 0.1}}
    cache.write_text(json.dumps(content))
    assert main(base) == ExitCode.BAD_INPUT
    assert "does not fit" in capsys.readouterr().err
    assert not out.exists()


def test_weights_beside_the_file_make_another_cache_necessary(native: Path, tmp_path: Path) -> None:
    path, beside = tmp_path / "m.onnx", tmp_path / "m.bin"
    onnx.save(onnx.load(native), path, save_as_external_data=True, location=beside.name, size_threshold=0)
    recipe = load_recipe("w8a8")
    before = FloatFile.open(path, recipe).sha256
    content = bytearray(beside.read_bytes())
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    weight = next(tensor for tensor in tensors if len(tensor.dims) == 4)
    offset = next(int(entry.value) for entry in weight.external_data if entry.key == "offset")
    content[offset + 2] ^= 0x40  # a digit of the first number
    beside.write_bytes(content)
    assert FloatFile.open(path, recipe).sha256 != before


def _quantised(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["image"], ["q", "s", "z"], name="dynamic"))


def _without_input(model: onnx.ModelProto) -> None:
    name = model.graph.input[3].name
    model.graph.input[3].name = "other"
    for node in model.graph.node:
        for index, read in enumerate(node.input):
            node.input[index] = "other" if read == name else read


def _other_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value += 1


def _without_output(model: onnx.ModelProto) -> None:
    del model.graph.output[0]


def _old(model: onnx.ModelProto) -> None:
    del model.graph.node[:], model.functions[:]
    for value in model.graph.output:
        model.graph.node.append(helper.make_node("Identity", [model.graph.input[0].name], [value.name]))
    model.opset_import[0].version = 12


def _one_layer_for_mlperf(model: onnx.ModelProto) -> None:
    del model.graph.input[2].type.tensor_type.shape.dim[:]


def _nameless(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def _bad_name(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"qdbev.variant": "{"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_quantised, "is quantised already: node 'dynamic'"),
        (_without_input, "has no input can_bus"),
        (_other_size, "has an input image"),
        (_without_output, "has no output bev_embed"),
        (_one_layer_for_mlperf, "has an output outputs_classes (1, 1, "),
        (_old, "has opset 12"),
        (_nameless, "does not say which variant"),
        (_bad_name, "has the variant '{'"),
    ],
)
def test_what_is_no_float_file_of_the_contract_is_refused(
    plain: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], says: str
) -> None:
    model = onnx.load(plain)
    change(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(QdbevError) as refusal:
        FloatFile.open(tmp_path / "m.onnx", load_recipe("w8a8"))
    assert says in refusal.value.found


def test_arguments_that_do_not_fit(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, sentence in (
        (["--variant", "tiny"], "is a 'plain'"),
        (["--sensitivity"], "--sensitivity with --onnx"),
        (["-o", str(plain)], "is the file of --onnx"),
        (["--cache", str(plain), "--recalibrate"], "is the file of --onnx"),
        (["--cache", str(tmp_path / "out.onnx")], "is the file of -o"),
        (["--cache", str(tmp_path / "no" / "cache.json")], "an existing folder for --cache"),
        (["-o", str(tmp_path / "no" / "out.onnx")], "an existing folder for -o"),
        (["--dataroot", str(tmp_path / "no")], "there is no folder"),
        (["-o", "out.pt"], "the name of an ONNX file"),
        (["--recipe", "none"], "there is no recipe 'none'"),
    ):
        assert main(command(plain, tmp_path, tmp_path / "out.onnx", *more)) == ExitCode.BAD_INPUT
        assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_rule_that_fits_nothing_names_what_would(plain: Path) -> None:
    recipe = load_recipe("w8a8")
    for kind, match, near in (
        ("activations", "img_backbone.stem_tap", "img_backbone"),
        ("weights", "*.can_bus_mlp.*", "geometry, ego motion"),
    ):
        rules = (*getattr(recipe, kind), dataclasses.replace(recipe.weights[0], match=match))
        with pytest.raises(QdbevError) as refusal:
            FloatFile.open(plain, dataclasses.replace(recipe, **{kind: rules}))
        assert near in refusal.value.needed


def test_a_file_that_no_runtime_runs_is_refused() -> None:
    node = helper.make_node("MultiScaleDeformableAttnTRT", ["image"], ["out"], domain="peer")
    graph = helper.make_graph(
        [node], "peer", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("peer", 1)]
    with pytest.raises(QdbevError, match="ONNX Runtime does not run the file") as refusal:
        observing._open(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    assert "MultiScaleDeformableAttnTRT" in refusal.value.found


def test_scenes_of_a_data_root_are_driven(native: Path, synthetic_dataroot: Path) -> None:
    file = FloatFile.open(native, load_recipe("w8a8"))
    scene = NuScenesSequences(synthetic_dataroot).scenes()[0]
    one, two = (file.observe([scene.frames[:count]]) for count in (1, 2))
    image = one["img_backbone.image_tap"].counts.sum()
    assert two["img_backbone.image_tap"].counts.sum() == 2 * image
