"""Where each layer of an engine stands in a drawing: each part from top to bottom, in the order of data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qdbev_deploy.engine.interface import Layer
from qdbev_deploy.graph.parts import PARTS, part_of

BOX_WIDTH, BOX_HEIGHT = 216, 34
_STEP_X, _STEP_Y = BOX_WIDTH + 18, BOX_HEIGHT + 26
_LANES = 6  # boxes beside each other at most
_MIDDLE = (_LANES - 1) // 2


@dataclass(frozen=True)
class Placed:
    """A layer with the left upper corner of its box, in pixels of its part's drawing."""

    index: int  # in the engine's order
    layer: Layer
    x: float
    y: float


@dataclass(frozen=True)
class PartDrawing:
    """The layers of a part of the network."""

    part: str
    boxes: tuple[Placed, ...]
    width: float
    height: float


def layer_part(layer: Layer) -> str:
    """The part that most of its nodes come from; the name decides where no node is known."""
    votes: dict[str, int] = defaultdict(int)
    for name in layer.nodes or (layer.name,):
        votes[part_of(name)] += 1
    known = {part: count for part, count in votes.items() if part != "other"}
    return max(known or votes, key=lambda part: (known or votes)[part])


def shown_name(layer: Layer) -> str:
    """A name that says where a layer belongs: its own, or that of the file's node that it was made from."""
    if part_of(layer.name) != "other":
        return layer.name
    return next((name for name in layer.nodes if part_of(name) != "other"), layer.name)


def folded(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Runs of layers that only move data as one: what is read by one layer alone needs no box of its own."""
    edges = layer_edges(layers)
    sources: dict[int, list[int]] = defaultdict(list)
    readers: dict[int, int] = defaultdict(int)
    for source, target in edges:
        sources[target].append(source)
        readers[source] += 1
    runs: dict[int, list[int]] = {}  # last layer -> the run that ends there
    for index, layer in enumerate(layers):
        run = [index]
        if layer.precision == "" and len(sources[index]) == 1:
            (source,) = sources[index]
            if layers[source].precision == "" and readers[source] == 1:
                run = [*runs.pop(source), index]
        runs[index] = run
    return tuple(_as_one([layers[index] for index in runs[last]]) for last in sorted(runs))


def _as_one(run: Sequence[Layer]) -> Layer:
    if len(run) == 1:
        return run[0]
    times = [layer.time_ms for layer in run if layer.time_ms is not None]
    return replace(
        run[-1],
        name=f"{run[0].name} … {run[-1].name}",
        kind=" › ".join(layer.kind for layer in run),
        nodes=tuple(dict.fromkeys(name for layer in run for name in layer.nodes)),
        inputs=run[0].inputs,
        weight_bytes=sum(layer.weight_bytes for layer in run),
        time_ms=sum(times) if times else None,
    )


def layer_edges(layers: Sequence[Layer]) -> list[tuple[int, int]]:
    """(from, to) where a layer reads what an earlier one wrote."""
    producer: dict[str, int] = {}
    edges: list[tuple[int, int]] = []
    for index, layer in enumerate(layers):
        sources = {producer[record.name] for record in layer.inputs if record.name in producer}
        edges += [(source, index) for source in sorted(sources)]
        for record in layer.outputs:
            producer[record.name] = index
    return edges


def place(layers: Sequence[Layer], edges: Sequence[tuple[int, int]]) -> list[PartDrawing]:
    """Every part that has layers, in the network's order."""
    parts = _parts(layers, edges)
    return [
        _place_part(part, [index for index in range(len(layers)) if parts[index] == part], layers, edges)
        for part in PARTS
        if part in parts
    ]


def _parts(layers: Sequence[Layer], edges: Sequence[tuple[int, int]]) -> list[str]:
    """Layers that do not say where they come from (reformats, casts) go with what they read, or what reads them."""
    parts = [layer_part(layer) for layer in layers]
    for source, target in edges:
        if parts[target] == "other":
            parts[target] = parts[source]
    for source, target in reversed(edges):
        if parts[source] == "other":
            parts[source] = parts[target]
    return parts


def _place_part(
    part: str, members: list[int], layers: Sequence[Layer], edges: Sequence[tuple[int, int]]
) -> PartDrawing:
    inside = set(members)
    sources: dict[int, list[int]] = defaultdict(list)
    for source, target in edges:
        if source in inside and target in inside:
            sources[target].append(source)
    depth = _depths(members, sources)
    rows: dict[int, list[int]] = defaultdict(list)
    for index in members:
        rows[depth[index]].append(index)
    lanes: dict[int, int] = {}
    lines: dict[int, int] = {}
    line = 0
    for level in sorted(rows):
        wanted = {
            i: sum(lanes[s] for s in sources[i]) / len(sources[i]) if sources[i] else _MIDDLE for i in rows[level]
        }
        # Who continues a chain takes its lane first; who has no source goes where there is room.
        ordered = sorted(rows[level], key=lambda index: (not sources[index], wanted[index], index))
        for start in range(0, len(ordered), _LANES):
            free = set(range(_LANES))
            for index in ordered[start : start + _LANES]:
                lanes[index] = min(free, key=lambda lane: (abs(lane - wanted[index]), lane))
                free.remove(lanes[index])
                lines[index] = line
            line += 1
    x = {index: float(lane * _STEP_X) for index, lane in lanes.items()}
    y = {index: float(at * _STEP_Y) for index, at in lines.items()}
    left = min(x.values())
    boxes = tuple(Placed(index, layers[index], x[index] - left, y[index]) for index in members)
    return PartDrawing(part, boxes, max(box.x for box in boxes) + BOX_WIDTH, line * _STEP_Y - (_STEP_Y - BOX_HEIGHT))


def _depths(members: list[int], sources: dict[int, list[int]]) -> dict[int, int]:
    """The row of each layer: below all that it reads, and as close above its first reader as that allows."""
    depth: dict[int, int] = {}
    for index in members:
        depth[index] = 1 + max((depth[source] for source in sources[index]), default=-1)
    first_reader: dict[int, int] = {}
    for index in reversed(members):
        if index in first_reader:
            depth[index] = first_reader[index] - 1
        for source in sources[index]:
            first_reader[source] = min(first_reader.get(source, depth[index]), depth[index])
    return depth
