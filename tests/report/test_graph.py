"""The graph of an engine: every layer once, in the order of data, readable for hundreds, as SVG and as a page."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qdbev_deploy.engine.interface import Layer
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.report import write_graph
from qdbev_deploy.report.graph import graph_html, graph_svg
from qdbev_deploy.report.graph_layout import BOX_HEIGHT, BOX_WIDTH, folded, layer_edges, layer_part, place, shown_name
from qdbev_deploy.report.inspection import part_table, plugin_runs, precision_table, with_times, written_bytes
from tests.report.engines import ATTENTION, engine_layers, tensor


def test_data_flows_down_and_boxes_stand_apart() -> None:
    layers = engine_layers(300)
    edges = layer_edges(layers)
    assert (0, 1) in edges
    assert (1, 3) in edges  # a skip
    drawings = place(layers, edges)
    assert [drawing.part for drawing in drawings] == ["backbone", "encoder", "decoder"]
    seen = [box.index for drawing in drawings for box in drawing.boxes]
    assert sorted(seen) == list(range(len(layers)))
    for drawing in drawings:
        corner = {box.index: (box.x, box.y) for box in drawing.boxes}
        for source, target in edges:
            if source in corner and target in corner:
                assert corner[source][1] + BOX_HEIGHT < corner[target][1]
        taken = sorted(corner.values(), key=lambda at: (at[1], at[0]))
        for (x0, y0), (x1, y1) in pairwise(taken):
            assert y1 > y0 or x1 >= x0 + BOX_WIDTH
        assert all(0 <= x <= drawing.width - BOX_WIDTH and 0 <= y <= drawing.height - BOX_HEIGHT for x, y in taken)
        assert drawing.width < 1500


def test_many_layers_beside_each_other_are_wrapped() -> None:
    layers = [Layer(f"img_backbone.conv1/Part{i}", "Mul", "float32", (), (), (tensor(f"t{i}"),)) for i in range(50)]
    (drawing,) = place(layers, layer_edges(layers))
    assert len({(box.x, box.y) for box in drawing.boxes}) == 50
    assert drawing.width < 1500


def test_reformats_go_with_what_they_read_and_runs_of_them_share_a_box() -> None:
    layers = engine_layers()
    boxes = folded(layers)
    assert len(boxes) == len(layers) - 1
    (run,) = [box for box in boxes if "›" in box.kind]
    assert (run.kind, run.time_ms) == ("Reformat › Shuffle", 0.05)
    assert (run.inputs, run.outputs) == (layers[4].inputs, layers[5].outputs)
    parts = {box.layer.kind: drawing.part for drawing in place(boxes, layer_edges(boxes)) for box in drawing.boxes}
    assert parts[run.kind] == "backbone"
    # One that two layers read stays a box of its own.
    other = replace(layers[5], name="Shuffle 3", outputs=(tensor("r3"),))
    assert len(folded((*layers, other))) == len(layers) + 1


def test_a_layer_is_shown_by_the_node_it_was_made_from() -> None:
    nameless = Layer("relu_nchwc", "Conv", "float32", ("Identity_3", "img_backbone.conv1/Conv"))
    assert shown_name(nameless) == "img_backbone.conv1/Conv"
    assert layer_part(nameless) == "backbone"
    assert shown_name(Layer("Myelin_7", "Myelin", "float16", ())) == "Myelin_7"


def test_both_forms_are_whole_and_hold_every_layer(tmp_path: Path) -> None:
    layers = engine_layers(20)
    nasty = "<script>alert(1)</script>]]>&"
    layers = (replace(layers[0], name=f"img_backbone.{nasty}", tactic=nasty), *layers[1:])
    for name in ("graph.svg", "graph.html"):
        write_graph(layers, tmp_path / name, f"student{nasty}.qdbev")
        content = (tmp_path / name).read_text(encoding="utf-8")
        assert "<script>alert" not in content
        drawings = re.findall(r"<svg.*?</svg>", content, re.DOTALL)
        boxes = 0
        for drawing in drawings:
            root = ElementTree.fromstring(drawing)
            boxes += sum("node" in (element.get("class") or "").split() for element in root.iter())
        assert boxes == len(folded(layers))
        assert "sm80_xmma_fprop_implicit_gemm_&lt;&amp;&gt;" in content
        assert "200 million MACs" in content
    assert graph_svg(layers, "a").startswith("<svg ")
    page = graph_html(layers, "a")
    assert page.count("<details") == 3
    assert page.count('open="open"') == 1  # the part that takes the most time
    assert re.search(r'open="open"><summary>backbone<span>21 boxes', page)


def test_names_that_say_no_form_and_engines_without_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match=r"\.svg or \.html") as refused:
        write_graph(engine_layers(), tmp_path / "graph.png", "a")
    assert refused.value.exit_code == ExitCode.USAGE
    with pytest.raises(QdbevError, match="lists no layers"):
        write_graph((), tmp_path / "graph.svg", "a")
    assert not list(tmp_path.iterdir())


def test_tables_add_up() -> None:
    layers = engine_layers()
    table = precision_table(layers)
    assert next(iter(table)) == "int8"  # most of the multiply-accumulates
    assert list(table)[-1] == ""
    assert table["int8"] == {"layers": 4, "macs": 800_000_000, "weight_bytes": 4 * 36_864,
                             "time_ms": pytest.approx(0.86)}  # fmt: skip
    assert table[""]["time_ms"] == 0.05  # what is known
    assert sum(row["layers"] for row in table.values()) == len(layers)
    assert part_table(layers)["decoder"]["layers"] == 2
    assert written_bytes(layers[0]) == 6 * 64 * 12 * 20
    assert written_bytes(layers[5]) == 2 * 6 * 64 * 12 * 20
    assert written_bytes(Layer("a", "b", "", (), (), (tensor("c", "float8"),))) == 0


def test_what_the_plugins_ran_in() -> None:
    assert plugin_runs(engine_layers()) == [
        {"layer": ATTENTION, "op": "SpatialCrossAttn", "value": "int8", "output": "float16", "time_ms": 1.5}
    ]


def test_a_profile_replaces_what_was_known_of_times() -> None:
    layers = with_times(engine_layers(), {ATTENTION: 9.0})
    assert {layer.name: layer.time_ms for layer in layers if layer.time_ms is not None} == {ATTENTION: 9.0}
