"""What a bundle's files are called and say: its contract, its layers, its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qdbev_deploy.contract import (
    BOX_CODE,
    CAMERAS,
    CAN_BUS_SIZE,
    CLASSES,
    CONTRACT_VERSION,
    VariantSpec,
    stream_inputs,
    stream_outputs,
)
from qdbev_deploy.engine.interface import Layer, TensorRecord
from qdbev_deploy.graph.files import sha256_of
from qdbev_deploy.streaming import MAX_GAP_S

SUFFIX = ".qdbev"
SCHEMA_FAMILY = "qdbev-bundle/"
SCHEMA = f"{SCHEMA_FAMILY}1"
LAYERS_SCHEMA = "qdbev-layers/1"
GUARD_SCHEMA = "qdbev-guard/1"
PARITY_SCHEMA = "qdbev-engine-parity/1"
MANIFEST, CONTRACT, LAYERS = "manifest.json", "contract.json", "layers.json"
GUARD, PARITY = "guard.json", "parity.json"  # reports


def contract_document(spec: VariantSpec, io: str, image: str) -> dict[str, Any]:
    """What a runtime in another language must know to feed the engine and to read its boxes."""
    return {
        "contract_version": CONTRACT_VERSION,
        "variant": spec.name,
        "spec": spec.to_dict(),
        "io": io,
        "image": image,
        "inputs": [asdict(tensor) for tensor in stream_inputs(spec, io, image)],
        "outputs": [asdict(tensor) for tensor in stream_outputs(spec, io)],
        "cameras": list(CAMERAS),
        "classes": list(CLASSES),
        "box_code": list(BOX_CODE),
        "preprocess": {
            "in_graph": image == "uint8",
            **asdict(spec.preprocess),
            "scale_xy": list(spec.preprocess.scale_xy),
        },
        "state": {"input": "prev_bev", "output": "bev_embed", "flag": "use_prev_bev", "max_gap_s": MAX_GAP_S},
        "can_bus": {
            "size": CAN_BUS_SIZE,
            "translation_delta_m": [0, 3], "rotation_wxyz": [3, 7], "acceleration": [7, 10], "rotation_rate": [10, 13],
            "velocity": [13, 16], "yaw_rad": 16, "yaw_delta_deg": 17,
        },
        "decode": {
            "score": "sigmoid of the class logit",
            "candidates": "every query with every class, sorted by falling score, ties by rising index",
            "max_boxes": spec.max_boxes,
            "post_center_range": list(spec.post_center_range),
            "yaw": "network rotation r = atan2(sin, cos); nuScenes yaw = -r - pi/2",
            "size": "exp of log_w, log_l, log_h",
        },
    }  # fmt: skip


def layers_document(layers: tuple[Layer, ...]) -> dict[str, Any]:
    return {"schema": LAYERS_SCHEMA, "layers": [asdict(layer) for layer in layers]}


def layers_from(document: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The inverse of `layers_document`; what is none raises KeyError, TypeError or ValueError."""

    def records(entries: Any) -> tuple[TensorRecord, ...]:
        return tuple(TensorRecord(**{**entry, "shape": tuple(entry["shape"])}) for entry in entries)

    return tuple(
        Layer(**{
            **entry,
            "nodes": tuple(entry["nodes"]),
            "inputs": records(entry["inputs"]),
            "outputs": records(entry["outputs"]),
        })
        for entry in document["layers"]
    )  # fmt: skip


def guard_document(report: Mapping[str, Any]) -> dict[str, Any]:
    """guard.json of what `GuardReport.to_dict` says."""
    return {"schema": GUARD_SCHEMA, **report}


def precision_summary(guard: Mapping[str, Any], precision: str, *, emulated: bool) -> dict[str, Any]:
    """What the manifest says of precision: guard.json without its nodes, and what was asked for."""
    told = {name: value for name, value in guard.items() if name not in ("schema", "nodes")}
    return {"precision": precision, "emulated": emulated, **told}


def parity_summary(parity: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of parity: the few numbers of parity.json. What is none raises KeyError or TypeError."""
    same, own = parity["same_state"], parity["own_state"]
    return {
        "passed": parity["passed"],
        "frames_are": parity["frames_are"],
        "frames": parity["frames"],
        "resets": sum(map(bool, parity["resets"])),
        "reference": parity["reference"],
        "tolerance": parity["arithmetic"],
        "outputs_relative": same["outputs_relative"],
        "box_center_m": same["boxes"]["center_m"],
        "detections": same["detections"],
        "detections_own_state": own["detections"],
    }


def emulates(backend: str, options: Mapping[str, Any]) -> bool:
    """Whether int8 is computed in float32 by design: ONNX Runtime, with Q/DQ left as they stand."""
    return backend == "onnxruntime" and options.get("precision") == "int8" and not options.get("fused", False)


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """JSON into a folder that is itself still unnamed: no rename of its own is needed."""
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def seal(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest over all files that now lie in the folder."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    write_document(folder / MANIFEST, {"schema": SCHEMA, **manifest, "files": files})
