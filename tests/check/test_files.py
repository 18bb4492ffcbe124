"""What is no sound ONNX file is refused with a sentence, before anything of it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.graph import files
from tests.check.test_lowering import int8_conv


def refusal(path: Path) -> str:
    with pytest.raises(QdbevError) as caught:
        files.read_onnx(path)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return str(caught.value)


def test_a_round_trip(tmp_path: Path) -> None:
    files.write_onnx(int8_conv(), tmp_path / "m.onnx")
    assert files.read_onnx(tmp_path / "m.onnx") == int8_conv_from(tmp_path / "m.onnx")


def int8_conv_from(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


@pytest.mark.parametrize("keep", [0, 1, 40, 200, -1])
def test_a_truncated_file(keep: int, tmp_path: Path) -> None:
    content = int8_conv().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content[:keep])
    assert "whole ONNX file" in (said := refusal(tmp_path / "m.onnx")) or "no ONNX graph" in said


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    assert "m.onnx" in refusal(tmp_path / "m.onnx")
    assert "there is no file" in refusal(tmp_path / "other.onnx")


def test_more_than_protobuf_holds(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as stream:
        stream.truncate(3 << 30)  # sparse: takes no room
    assert "3,221,225,472 bytes" in (said := refusal(path))
    assert "external" not in said  # weights beside the file are refused as well


@pytest.mark.parametrize("entries", [{"offset": "0", "length": str(4 * 600_000_000)}, {}], ids=["length", "rest"])
def test_more_than_protobuf_holds_beside_the_file(
    entries: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by what the file says of them, and not by reading them."""
    weight = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[1, 600_000_000], data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": "weights.bin", **entries}.items():
        weight.external_data.add(key=key, value=value)
    with (tmp_path / "weights.bin").open("wb") as stream:
        stream.truncate(4 * 600_000_000)  # sparse: takes no room
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [weight],
    )  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    monkeypatch.setattr(onnx, "load_external_data_for_model", None)
    said = refusal(tmp_path / "m.onnx")
    assert "m.onnx and the weights beside it have 2,400,000,1" in said
    assert "end of protobuf" in said


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "C:\\secret.bin", ""])
def test_external_data_that_leaves_the_folder(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    onnx.save(int8_conv(), folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    assert "outside the model's folder" in refusal(folder / "m.onnx")


def test_external_data_behind_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(int8_conv(), folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").rename(tmp_path / "secret.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    assert "outside the model's folder" in refusal(folder / "m.onnx")


def test_external_data_that_is_cut_or_gone(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(int8_conv(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    whole = (tmp_path / "weights.bin").read_bytes()
    assert len(files.read_onnx(path).graph.initializer) == 5
    (tmp_path / "weights.bin").write_bytes(whole[:50])
    assert "ends at byte" in refusal(path)
    (tmp_path / "weights.bin").unlink()
    assert "which is not there" in refusal(path)


def _undefined(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nothing"


def _made_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(model.graph.node[-1])


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node.extend([helper.make_node("Identity", ["a"], ["b"]), helper.make_node("Identity", ["b"], ["a"])])


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[onnx.ModelProto], None]:
    def cut(model: onnx.ModelProto) -> None:
        model.graph.initializer[2].raw_data = change(model.graph.initializer[2].raw_data)

    return cut


def _few_numbers(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("few", TensorProto.FLOAT, [2], [1.0, 2.0])
    del tensor.float_data[1:]
    model.graph.initializer.append(tensor)


def _one_input(model: onnx.ModelProto) -> None:
    del model.graph.node[-1].input[1:]


def _no_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["x"], ["cast"]))


def _unknown_op(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("NotAnOp", ["x"], ["y"]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_undefined, "'nothing'"),
        (_made_twice, "'out'"),
        (_cycle, "input 'b'"),
        (_bytes(lambda raw: raw[:-1]), "w.integers"),
        (_bytes(lambda raw: raw + b"0"), "w.integers"),
        (_few_numbers, "few"),
        (_one_input, "Conv_out"),
        (_no_attribute, "'to'"),
        (_unknown_op, "NotAnOp"),
    ],
)
def test_a_graph_that_no_runtime_takes(change: Callable[[onnx.ModelProto], None], says: str, tmp_path: Path) -> None:
    model = int8_conv()
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert says in refusal(tmp_path / "m.onnx")


def test_nodes_in_any_order_are_read_sorted(tmp_path: Path) -> None:
    model = int8_conv()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "m.onnx")
    assert [node.output[0] for node in files.read_onnx(tmp_path / "m.onnx").graph.node][-2:] == ["w", "out"]


@pytest.mark.parametrize(("key", "value"), [("offset", "abc"), ("offset", "-9"), ("length", "-5"), ("length", "1e3")])
def test_external_data_at_no_number(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(int8_conv(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(model.SerializeToString())
    assert f"the {key} '{value}'" in refusal(path)


def test_external_data_that_leaves_the_folder_from_a_branch(tmp_path: Path) -> None:
    outside = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../secret.bin")
    out = helper.make_tensor_value_info("t", TensorProto.FLOAT, [1])
    constant = helper.make_node("Constant", [], ["t"], value=outside)
    for branch in (
        helper.make_graph([constant], "then", [], [out]),
        helper.make_graph([helper.make_node("Identity", ["far"], ["t"])], "then", [], [out], [outside]),
    ):
        model = int8_conv()
        model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        assert "outside the model's folder" in refusal(tmp_path / "m.onnx")


def test_the_digest_covers_weights_beside_the_file(tmp_path: Path) -> None:
    path, beside = tmp_path / "m.onnx", tmp_path / "weights.bin"
    onnx.save(int8_conv(), path)
    assert files.content_sha256_of(path) == files.sha256_of(path)
    onnx.save(int8_conv(), path, save_as_external_data=True, location=beside.name, size_threshold=0)
    before = files.content_sha256_of(path)
    assert files.content_sha256_of(path) == before
    content = bytearray(beside.read_bytes())
    content[0] ^= 1
    beside.write_bytes(content)
    assert files.content_sha256_of(path) != before
