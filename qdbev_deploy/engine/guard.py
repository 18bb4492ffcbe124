"""The precision guard: what the file asks for in int8, what ran, and what was allowed to differ and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import onnx

from qdbev_deploy.check.cost import node_costs
from qdbev_deploy.check.rules import is_quantised_input
from qdbev_deploy.engine.interface import Layer
from qdbev_deploy.errors import ExitCode, QdbevError, listed
from qdbev_deploy.graph.index import WEIGHTED, Graph, attributes, constant_nodes

FOLDED, UNCLAIMED = "folded", "unclaimed"
_MULTIPLIES = ("conv", "gemm", "matmul", "matrixmultiply", "fullyconnected", "plugin", "mha")
_PRODUCT_KERNELS = ("gemm", "gemv", "fprop", "dgrad", "hmma", "imma", "cudnn", "mha")
_NO_NUMBERS = ("", "bool", "int64", "int32")  # of layers that copy, count and compare
_LISTED = 6  # nodes that an error names; the report has them all


@dataclass(frozen=True)
class Allowance:
    """Nodes or layers that may run in another precision, and why."""

    pattern: str
    reason: str

    @classmethod
    def parse(cls, text: str) -> Allowance:
        """PATTERN:reason, as --allow takes it; an exception without a reason is none."""
        pattern, colon, reason = text.partition(":")
        if not pattern.strip() or not colon or not reason.strip():
            raise QdbevError(
                f"--allow '{text}'",
                "LAYER_PATTERN:reason, where * stands for any characters",
                "say why: --allow 'pts_bbox_head.*:runs in FP16 by design'",
                exit_code=ExitCode.USAGE,
            )
        return cls(pattern.strip(), reason.strip())

    def covers(self, names: Iterable[str]) -> bool:
        return any(fnmatchcase(name, self.pattern) for name in names)


EMULATED = Allowance(
    "*", "onnxruntime-emulates-int8: int8 values computed in float32, with the roundings of int8 and not its speed"
)


@dataclass(frozen=True)
class AskedNode:
    """A node that the file asks for in int8."""

    node: str
    op: str
    macs: int
    ran: str  # the precision of its layers; FOLDED: computed while building; UNCLAIMED: no layer says it is its
    layers: tuple[str, ...]
    allowed: str = ""  # the reason, where it ran in another precision and may

    @property
    def as_asked(self) -> bool:
        return self.ran in ("int8", FOLDED)


@dataclass(frozen=True)
class GuardReport:
    """The table, and shares of the work by the precision that it ran in."""

    asked: tuple[AskedNode, ...]
    macs: dict[str, int]  # by precision, of all weighted nodes
    time_ms: dict[str, float] | None  # by precision, of all layers; None: not profiled
    unused: tuple[Allowance, ...] = ()  # given, and covering nothing
    notes: tuple[str, ...] = field(default=())

    @property
    def failures(self) -> list[AskedNode]:
        return [item for item in self.asked if not item.as_asked and not item.allowed]

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        allowed = Counter(item.allowed for item in self.asked if item.allowed)
        return {
            "passed": self.passed,
            "asked_int8": len(self.asked),
            "ran_int8": sum(item.ran == "int8" for item in self.asked),
            "folded": sum(item.ran == FOLDED for item in self.asked),
            "allowed": dict(allowed),
            "fell_back": [item.node for item in self.failures],
            "macs": self.macs,
            "time_ms": self.time_ms,
            "unused_allowances": [item.pattern for item in self.unused],
            "nodes": [asdict(item) for item in self.asked],
        }

    def require(self, report: str) -> None:
        """Refuse with the list where a node fell back; `report` says where all of it lies."""
        if self.passed:
            return
        found = self.failures
        nodes = listed([f"{item.node} ({item.ran})" for item in found], _LISTED, "; ")
        raise QdbevError(
            f"{len(found)} of {len(self.asked)} nodes that the file asks for in int8 did not run in it: {nodes}",
            "int8 for all of them, or an exception with its reason",
            f"read {report}; allow what is meant with --allow 'PATTERN:reason'",
            exit_code=ExitCode.GUARD,
        )


def judge(model: onnx.ModelProto, layers: Sequence[Layer], allowed: Sequence[Allowance] = ()) -> GuardReport:
    """Hold the layers of an engine against the model that it was built from, whose nodes all have names."""
    graph = Graph(model)
    claims: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        for name in layer.nodes:
            claims[name].append(layer)
    constant = constant_nodes(graph)
    costs = {cost.node: cost for cost in node_costs(graph)[0]}
    used: set[Allowance] = set()
    asked, macs = [], Counter[str]()
    for node in graph.proto.node:
        cost = costs.get(node.name)
        wants = _asks_for_int8(graph, node)
        if not wants and not (cost and cost.macs):
            continue
        ran = _ran(claims[node.name], node.name in constant)
        macs[ran] += cost.macs if cost else 0
        if not wants:
            continue
        names = tuple(layer.name for layer in claims[node.name])
        reason = ""
        if ran not in ("int8", FOLDED):
            chosen = next((item for item in allowed if item.covers((node.name, *names))), None)
            if chosen is not None:
                used.add(chosen)
                reason = chosen.reason
        asked.append(AskedNode(node.name, node.op_type, cost.macs if cost else 0, ran, names, reason))
    unused = tuple(item for item in allowed if item not in used and item is not EMULATED)
    return GuardReport(tuple(asked), dict(macs), _time_by_precision(layers), unused)


def _asks_for_int8(graph: Graph, node: onnx.NodeProto) -> bool:
    """Both inputs of a weighted op come from a DequantizeLinear, or a BEV op takes its value as integers."""
    if node.op_type in WEIGHTED:
        return all(is_quantised_input(graph, name) for name in node.input[:2])
    return float(attributes(node).get("value_scale", 0.0)) > 0


def _multiplies(layer: Layer) -> bool:
    """A product by its kind, or by its kernel's name where a fusion hides it (Myelin's "fusion", "kgen")."""
    kind, tactic = layer.kind.lower(), layer.tactic.lower()
    return any(word in kind for word in _MULTIPLIES) or any(word in tactic for word in _PRODUCT_KERNELS)


def _ran(claims: Sequence[Layer], constant: bool) -> str:
    """The precision that a node ran in, from the layers that say they were made from it."""
    computing = [layer for layer in claims if layer.precision not in _NO_NUMBERS]
    # A layer that multiplies tells more than the casts and activations that were split off beside it.
    multiplying = [layer for layer in computing if _multiplies(layer)]
    found = sorted({layer.precision for layer in multiplying or computing})
    if not multiplying and "int8" in found:
        return "mixed"  # what is no product does not prove one: the float kernel beside it may have it
    if found:
        return "+".join(found)
    return FOLDED if constant else UNCLAIMED


def _time_by_precision(layers: Sequence[Layer]) -> dict[str, float] | None:
    times: dict[str, float] = defaultdict(float)
    for layer in layers:
        if layer.time_ms is not None:
            times[layer.precision or "moves data"] += layer.time_ms
    return {name: round(value, 6) for name, value in times.items()} or None
