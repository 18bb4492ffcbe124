"""`check_onnx`: everything a file says of itself before a builder is asked."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from qdbev_deploy.check.cost import (
    ASSUMPTIONS,
    Roofline,
    activation_peak_bytes,
    coverage,
    node_costs,
    roofline,
)
from qdbev_deploy.check.devices import device_named
from qdbev_deploy.check.rules import Finding, findings
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.files import read_onnx
from qdbev_deploy.graph.index import Graph, with_shapes
from qdbev_deploy.graph.lowering import lower
from qdbev_deploy.graph.normalise import normalise
from qdbev_deploy.graph.parts import weight_bytes
from qdbev_deploy.graph.targets import target_named
from qdbev_deploy.plugins import library_info

# Rules that tell what lowering refuses, and of every node.
_SAID_OF_EACH_NODE = ("uint8", "integer-type", "subgraph", "zero-point", "zero-point-missing")


@dataclass(frozen=True)
class CheckReport:
    """What was found; `errors` are rules broken, `not_known` is what shapes did not tell."""

    file: str
    target: str
    lowered: list[str]
    findings: list[Finding]
    plugins: dict[str, bool]  # op -> whether the library here has it
    plugin_library: str  # where it lies, or why there is none
    coverage: dict[str, dict[str, float]]
    weight_bytes: dict[str, dict[str, int]]
    activation_peak_bytes: int
    roofline: Roofline | None
    not_known: list[str]
    model: onnx.ModelProto = field(repr=False)  # lowered; where that was refused, as it came, and there are errors

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "target": self.target,
            "lowered": self.lowered,
            "errors": [asdict(finding) for finding in self.errors],
            "warnings": [asdict(finding) for finding in self.findings if finding.level == "warning"],
            "plugins": self.plugins,
            "plugin_library": self.plugin_library,
            "coverage": self.coverage,
            "weight_bytes": self.weight_bytes,
            "activation_peak_bytes": self.activation_peak_bytes,
            "roofline": {**asdict(self.roofline), "assumptions": list(ASSUMPTIONS)} if self.roofline else None,
            "shapes_not_known": self.not_known,
        }


def check_onnx(path: str | os.PathLike[str], target: str, gpu: str | None = None) -> CheckReport:
    """Lower the file for the target in memory and hold the result against its rules. No GPU is needed."""
    return check_model(read_onnx(path), Path(path).name, target, gpu)


def check_model(model: onnx.ModelProto, name: str, target: str, gpu: str | None = None) -> CheckReport:
    """The same of a model that has been read; `name` is its file's."""
    chosen = target_named(target)
    device = device_named(gpu) if gpu else None
    model = with_shapes(model)
    refused: list[Finding] = []
    try:
        lowered, notes = lower(model, chosen)
    except QdbevError as error:  # what no pass has words for is a finding, not an accident
        lowered, notes = model, normalise(model)
        refused = [Finding("lowering", "(file)", f"{error.found}. Needed: {error.needed}")]
    graph = Graph(lowered)
    found = findings(graph, chosen)
    if any(finding.rule in _SAID_OF_EACH_NODE for finding in found):
        refused = []
    costs, unknown = node_costs(graph)
    plugins, library = _plugins(graph, chosen.is_tensorrt)
    return CheckReport(
        file=name,
        target=chosen.name,
        lowered=notes,
        findings=[*refused, *found],
        plugins=plugins,
        plugin_library=library,
        coverage=coverage(costs),
        weight_bytes=weight_bytes(model),
        activation_peak_bytes=activation_peak_bytes(graph),
        roofline=roofline(costs, device) if device else None,
        not_known=unknown,
        model=lowered,
    )


def _plugins(graph: Graph, is_tensorrt: bool) -> tuple[dict[str, bool], str]:
    needed = sorted({node.op_type for node in graph.bev_nodes()}) if is_tensorrt else []
    if not needed:
        return {}, "none needed"
    try:
        info = library_info()
    except QdbevError as error:
        return dict.fromkeys(needed, False), f"none here: {error.found}"
    return {name: name in info.ops for name in needed}, str(info.path)
