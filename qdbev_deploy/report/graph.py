"""The graph of an engine, one box a layer, coloured by the precision it ran in: a picture, or a page to explore."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from qdbev_deploy.engine.interface import Layer
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.files import atomic_output
from qdbev_deploy.report import sections
from qdbev_deploy.report.chart import drawing
from qdbev_deploy.report.document import LayerRow
from qdbev_deploy.report.graph_layout import (
    BOX_HEIGHT,
    BOX_WIDTH,
    PartDrawing,
    Placed,
    folded,
    layer_edges,
    place,
    shown_name,
)  # fmt: skip
from qdbev_deploy.report.markup import Element, raw, tag
from qdbev_deploy.report.names import short_layer, shortened
from qdbev_deploy.report.page import page
from qdbev_deploy.report.units import byte_size, milliseconds, number, share, short_time

FORMATS = (".svg", ".html")
_MARGIN, _HEAD = 24, 40
_FIND = """\
document.getElementById("find").addEventListener("input", event => {
  const wanted = event.target.value.toLowerCase();
  for (const node of document.querySelectorAll("g.node"))
    node.classList.toggle("dim", wanted !== "" && !node.textContent.toLowerCase().includes(wanted));
});
"""


def write_graph(layers: Sequence[Layer], path: str | os.PathLike[str], name: str) -> None:
    """Draw the engine's layers; the ending of `path` says in which of FORMATS."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise QdbevError(
            f"a graph as {path}", "a name that ends with " + " or ".join(FORMATS), "pass --graph engine.html",
            exit_code=ExitCode.USAGE,
        )  # fmt: skip
    if not layers:
        raise QdbevError(
            f"{name} lists no layers", "an engine whose inspector was asked for its layers",
            "build it again with --profile-verbosity detailed",
        )  # fmt: skip
    content = graph_svg(layers, name) if suffix == ".svg" else graph_html(layers, name)
    with atomic_output(path) as partial:
        partial.write_text(content, encoding="utf-8")


def graph_svg(layers: Sequence[Layer], name: str) -> str:
    """All parts side by side, with the edges between them."""
    layers = folded(layers)
    edges = layer_edges(layers)
    parts = place(layers, edges)
    corners: dict[int, tuple[float, float]] = {}
    marks: list[Element] = []
    left = float(_MARGIN)
    for part in parts:
        heading = tag("text", f"{part.part}: {len(part.boxes)} layers", x=left, y=_HEAD - 14, class_="part")
        marks.append(heading)
        for box in part.boxes:
            corners[box.index] = (left + box.x, _HEAD + box.y)
        left += part.width + 3 * _MARGIN
    wires = [_wire(corners[source], corners[target]) for source, target in edges]
    boxes = [_box(box, *corners[box.index]) for part in parts for box in part.boxes]
    width, height = left - 2 * _MARGIN, _HEAD + max(part.height for part in parts) + _MARGIN
    style = tag("style", raw(resources.files("qdbev_deploy.report").joinpath("style.css").read_text(encoding="utf-8")))
    describes = f"{len(layers)} boxes in the order of data, coloured by precision"
    return drawing(f"Engine of {name}", describes, height, style, *wires, *boxes, *marks, width=width)


def graph_html(layers: Sequence[Layer], name: str) -> str:
    """A page with a drawing for each part, to be opened and closed, and a field that finds layers."""
    rows = tuple(LayerRow(shown_name(item), item.kind, item.precision, item.time_ms, item.macs) for item in layers)
    boxes = folded(layers)
    edges = layer_edges(boxes)
    parts = place(boxes, edges)
    timed = any(item.time_ms is not None for item in layers)

    def weight(part: PartDrawing) -> float:
        return sum((box.layer.time_ms or 0.0) if timed else float(box.layer.macs) for box in part.boxes)

    whole = sum(map(weight, parts))
    heaviest = max(parts, key=weight)
    drawings = [_details(part, weight(part), whole, timed, edges, opened=part is heaviest) for part in parts]
    body = tag(
        "main",
        tag("header", tag("p", "qdbev-deploy inspect", class_="eyebrow"), tag("h1", name),
            tag("p", f"{len(layers)} layers", class_="where")),
        sections.layers(rows),
        tag("section", tag("h2", "Graph"),
            tag("p", "One box a layer, from top to bottom; runs that only move data share one. Hover for details. ",
                tag("label", "Find ", tag("input", id="find", type="search", placeholder="part of a name or a kind"))),
            *drawings),
    )  # fmt: skip
    return page(f"{name}: layers", body, tag("script", raw(_FIND)))


def _details(
    part: PartDrawing, weight: float, whole: float, timed: bool, edges: Sequence[tuple[int, int]], *, opened: bool
) -> Element:
    corners = {box.index: (_MARGIN + box.x, _MARGIN + box.y) for box in part.boxes}
    wires = [_wire(corners[a], corners[b]) for a, b in edges if a in corners and b in corners]
    boxes = [_box(box, *corners[box.index]) for box in part.boxes]
    width, height = part.width + 2 * _MARGIN, part.height + 2 * _MARGIN
    picture = drawing(f"Layers of the {part.part}", f"{len(part.boxes)} layers", height, *wires, *boxes, width=width)
    said = f"{len(part.boxes)} boxes, {share(weight, whole)} of the {'time' if timed else 'multiply-accumulates'}"
    return tag(
        "details",
        tag("summary", part.part, tag("span", said)),
        tag("div", tag("div", picture, style=f"width:{width:.0f}px"), class_="scroll"),
        open="open" if opened else None,
    )


def _wire(source: tuple[float, float], target: tuple[float, float]) -> Element:
    """From the bottom of one box to the top of another."""
    x0, y0 = source[0] + BOX_WIDTH / 2, source[1] + BOX_HEIGHT
    x1, y1 = target[0] + BOX_WIDTH / 2, target[1]
    bend = max(12.0, min(abs(y1 - y0) / 2, 60.0))
    return tag("path", d=f"M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}",
               class_="wire")  # fmt: skip


def _box(box: Placed, x: float, y: float) -> Element:
    layer = box.layer
    right = short_time(layer.time_ms) if layer.time_ms is not None else _macs(layer.macs)
    return tag(
        "g",
        tag("title", layer_details(layer)),
        tag("rect", x=x, y=y, width=BOX_WIDTH, height=BOX_HEIGHT, rx=5, class_="box"),
        tag("rect", x=x, y=y, width=5, height=BOX_HEIGHT, class_="bar"),
        tag("text", shortened(layer.kind, 18), x=x + 12, y=y + 14, class_="kind"),
        tag("text", right, x=x + BOX_WIDTH - 8, y=y + 14, text_anchor="end"),
        tag("text", short_layer(shown_name(layer), 32), x=x + 12, y=y + 27, class_="small"),
        class_=f"node {sections.precision_class(layer.precision)}",
    )


def _macs(macs: int) -> str:
    return f"{number(macs / 1e6)} MMAC" if macs else ""


def layer_details(layer: Layer) -> str:
    """Everything that is known of a layer, a line each."""
    lines = [
        layer.name,
        f"{layer.kind}, {sections.precision_label(layer.precision)}",
        f"time {milliseconds(layer.time_ms)}" if layer.time_ms is not None else "",
        f"{number(layer.macs / 1e6)} million MACs" if layer.macs else "",
        f"weights {byte_size(layer.weight_bytes)}" if layer.weight_bytes else "",
        f"tactic {layer.tactic}" if layer.tactic else "",
    ]
    for what, records in (("reads", layer.inputs), ("writes", layer.outputs)):
        lines += [
            " ".join(filter(None, (what, item.dtype, "x".join(map(str, item.shape)), item.format, item.name)))
            for item in records
        ]
    if layer.nodes and layer.nodes != (layer.name,):
        lines.append("from " + ", ".join(layer.nodes[:6]) + (" ..." if len(layer.nodes) > 6 else ""))
    return "\n".join(filter(None, lines))
