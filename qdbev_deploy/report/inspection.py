"""What can be said of a bundle without running it, and with a profile's times where there is one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from qdbev_deploy.contract import OPS
from qdbev_deploy.engine import Bundle
from qdbev_deploy.engine.compatibility import why_not_here
from qdbev_deploy.engine.interface import Layer, TensorRecord
from qdbev_deploy.report.graph_layout import layer_part

SCHEMA = "qdbev-inspect/1"


def with_times(layers: Sequence[Layer], times: Mapping[str, float]) -> tuple[Layer, ...]:
    """The layers with the times of a profile; one that the profile does not know keeps none."""
    return tuple(replace(layer, time_ms=times.get(layer.name)) for layer in layers)


def tensor_size(record: TensorRecord) -> int:
    """Bytes of a tensor; 0 where its type or shape is not known."""
    try:
        return int(np.prod(record.shape, dtype=np.int64)) * np.dtype(record.dtype).itemsize if record.dtype else 0
    except TypeError:  # bfloat16, fp8: not numpy's
        return 0


def written_bytes(layer: Layer) -> int:
    return sum(map(tensor_size, layer.outputs))


def precision_table(layers: Sequence[Layer]) -> dict[str, dict[str, Any]]:
    """{precision: layers, macs, weight bytes, time}; "" is what only moves data. The most work first."""
    table: dict[str, dict[str, Any]] = defaultdict(lambda: {"layers": 0, "macs": 0, "weight_bytes": 0, "time_ms": None})
    for layer in layers:
        row = table[layer.precision]
        row["layers"] += 1
        row["macs"] += layer.macs
        row["weight_bytes"] += layer.weight_bytes
        if layer.time_ms is not None:
            row["time_ms"] = (row["time_ms"] or 0.0) + layer.time_ms
    return dict(sorted(table.items(), key=lambda item: (-item[1]["macs"], item[0] == "", item[0])))


def part_table(layers: Sequence[Layer]) -> dict[str, dict[str, Any]]:
    """{part of the network: layers, macs, time}."""
    table: dict[str, dict[str, Any]] = defaultdict(lambda: {"layers": 0, "macs": 0, "time_ms": None})
    for layer in layers:
        row = table[layer_part(layer)]
        row["layers"] += 1
        row["macs"] += layer.macs
        if layer.time_ms is not None:
            row["time_ms"] = (row["time_ms"] or 0.0) + layer.time_ms
    return dict(table)


def plugin_runs(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Each of our plugins in the engine: what its value came in as, and what it wrote."""
    runs = []
    for layer in layers:
        if "plugin" not in layer.kind.lower():
            continue
        op = next((name for name in OPS if name in f"{layer.kind} {layer.name} {' '.join(layer.nodes)}"), layer.kind)
        runs.append({
            "layer": layer.name,
            "op": op,
            "value": layer.inputs[0].dtype if layer.inputs else "",
            "output": layer.outputs[0].dtype if layer.outputs else "",
            "time_ms": layer.time_ms,
        })  # fmt: skip
    return runs


def inspection(bundle: Bundle, layers: Sequence[Layer], profile: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything as one document. The bundle was verified when it was opened; `layers` may carry times."""
    error = why_not_here(bundle.manifest)
    manifest = bundle.manifest
    return {
        "schema": SCHEMA,
        "bundle": bundle.name,
        "manifest_sha256": bundle.manifest_sha256,
        "verified": {"files": {name: entry["bytes"] for name, entry in manifest["files"].items()}},
        "runs_here": error is None,
        "why_not": error.to_dict() if error else None,
        "variant": bundle.spec.name,
        "backend": bundle.backend,
        "io": bundle.io,
        "image": bundle.image,
        "precision_said": bundle.precision,
        **{name: manifest[name] for name in
           ("tool", "created", "versions", "gpu", "build", "precision", "parity", "provenance")},
        "precisions": precision_table(layers),
        "parts": part_table(layers),
        "plugins": plugin_runs(layers),
        "profile": profile,
        "layers": [
            {**asdict(layer), "part": layer_part(layer), "written_bytes": written_bytes(layer)} for layer in layers
        ],
    }  # fmt: skip
