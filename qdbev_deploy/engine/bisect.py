"""Finds the layer where an engine leaves its reference: intermediate tensors become outputs, by Polygraphy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from qdbev_deploy.engine.interface import Array, Backend, BuildOptions
from qdbev_deploy.graph.index import Graph, constant_nodes
from qdbev_deploy.reference import session_of

# A lowered model with the outputs that are asked for, and its inputs -> the outputs by name.
Runner = Callable[[onnx.ModelProto, dict[str, Array]], Mapping[str, Array]]
Progress = Callable[[int, int], object]  # (rounds done, tensors still in question)

TENSORS_A_ROUND = 48  # every marked tensor is one that the builder cannot fuse away


@dataclass(frozen=True)
class Divergence:
    """The first tensor, in the graph's order, that differs by more than it may; `after` still agreed."""

    node: str
    op: str
    tensor: str
    relative: float  # root mean square of the difference over that of the tensor
    max_abs: float
    allowed: float
    after: str  # the last node before it that agreed; "" where none did
    examined: int  # tensors that were compared

    def says(self) -> str:
        behind = f", behind '{self.after}', which agrees" if self.after else ", with nothing before it that agrees"
        return (
            f"'{self.node}' ({self.op}) is the first layer that differs: by {self.relative:.2g} of its size, "
            f"where {self.allowed:g} may be{behind}"
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "says": self.says()}


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy whose outputs are these tensors and no others."""
    from polygraphy.backend.onnx import ModifyOutputs

    copied = onnx.ModelProto.FromString(model.SerializeToString())
    copied.graph.value_info.extend(copied.graph.output)  # Polygraphy looks for their types there
    marked: onnx.ModelProto = ModifyOutputs(copied, outputs=list(names))()
    return marked


def onnxruntime_outputs(model: onnx.ModelProto, feeds: dict[str, Array]) -> Mapping[str, Array]:
    """ONNX Runtime on the CPU, unfused."""
    from polygraphy.backend.onnxrt import OnnxrtRunner

    with OnnxrtRunner(session_of(model)) as runner:
        return dict(runner.infer(feeds))


def runner_of(backend: Backend, options: BuildOptions) -> Runner:
    """How that backend computes a model with other outputs: built for the one run, or run as it is."""
    outputs_of = getattr(backend, "outputs_of", None)
    if outputs_of is None:
        return onnxruntime_outputs
    return lambda model, feeds: dict(outputs_of(model, options, feeds))


def difference(found: Array, expected: Array) -> tuple[float, float]:
    """(root mean square of the difference over that of `expected`, largest difference); infinite where it is none."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    if a.shape != b.shape:
        return float("inf"), float("inf")
    if not a.size:
        return 0.0, 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, a - b)
        largest = float(np.abs(gap).max())
        size = float(np.sqrt(np.mean(np.square(b[np.isfinite(b)]) if np.isfinite(b).any() else 0.0)))
        relative = float(np.sqrt(np.mean(gap**2))) / max(size, 1e-12)
    return (relative, largest) if np.isfinite(relative) else (float("inf"), float("inf"))


def _comparable(model: onnx.ModelProto, reference: onnx.ModelProto) -> list[tuple[str, onnx.NodeProto]]:
    """Float tensors that both files compute, in the lowered graph's order, with the nodes that make them."""
    graph, other = Graph(model), Graph(reference)
    constant = constant_nodes(graph)
    return [
        (name, node)
        for node in model.graph.node
        if node.name not in constant
        for name in node.output
        if name in other.producer
        and graph.element_type(name) == other.element_type(name) == TensorProto.FLOAT
        and graph.shape(name) is not None
    ]


def _spread(places: Sequence[int], count: int) -> list[int]:
    """At most `count` of the places, evenly, the last among them."""
    if len(places) <= count:
        return list(places)
    return [places[round(index)] for index in np.linspace(0, len(places) - 1, count + 1)[1:]]


def _ancestors(tensors: Sequence[tuple[str, onnx.NodeProto]], graph: Graph) -> list[set[int]]:
    """For each tensor, the places of those that it is made of."""
    place = {name: index for index, (name, _) in enumerate(tensors)}
    made_of: dict[str, set[int]] = {}
    for node in graph.proto.node:  # sorted: what a node reads is known by then
        below: set[int] = set()
        for name in node.input:
            below |= made_of.get(name, set())
            if name in place:
                below.add(place[name])
        for name in node.output:
            made_of[name] = below
    return [made_of[name] for name, _ in tensors]


def first_divergence(
    reference: onnx.ModelProto,
    lowered: onnx.ModelProto,
    feeds: dict[str, Array],
    run: Runner,
    relative: float,
    *,
    tensors_a_round: int = TENSORS_A_ROUND,
    progress: Progress = lambda rounds, left: None,
) -> Divergence | None:
    """Where `run` of the lowered file first differs from ONNX Runtime on the reference, given one frame's inputs.

    Each round marks some tensors of those in question, spread evenly over the graph's order. In question are, of what
    the first that differs is made of, those that are neither known to agree nor part of what agrees. Marking keeps a
    builder from fusing across: None means that no output differs then, so that what differs is made by a fusion.
    """
    tensors = _comparable(lowered, reference)
    made_of = _ancestors(tensors, Graph(lowered))
    outputs = {value.name for value in lowered.graph.output}
    ends = [place for place, (name, _) in enumerate(tensors) if name in outputs]
    in_question, agrees = set(range(len(tensors))), set[int]()
    bad: int | None = None
    gap = (0.0, 0.0)
    rounds = examined = 0
    while in_question:
        chosen = _spread(sorted(in_question), tensors_a_round)
        places = sorted({*chosen, *ends}) if bad is None else chosen
        names = [tensors[place][0] for place in places]
        expected = onnxruntime_outputs(with_outputs(reference, names), feeds)
        found = run(with_outputs(lowered, names), feeds)
        gaps = {
            place: difference(np.asarray(found[name]), np.asarray(expected[name]))
            for place, name in zip(places, names, strict=True)
        }
        rounds, examined = rounds + 1, examined + len(places)
        for place in places:
            if gaps[place][0] <= relative:
                agrees |= {place} | made_of[place]
            elif bad is None or place in made_of[bad]:
                bad, gap = place, gaps[place]
                break
        if bad is None:
            return None
        in_question = made_of[bad] - agrees
        progress(rounds, len(in_question))
    if bad is None:
        return None
    name, node = tensors[bad]
    return Divergence(
        node=node.name,
        op=node.op_type,
        tensor=name,
        relative=gap[0],
        max_abs=gap[1],
        allowed=relative,
        after=tensors[max(made_of[bad])][1].name if made_of[bad] else "",
        examined=examined,
    )
