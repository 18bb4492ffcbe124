"""Bundles made by hand, sealed as `build` seals them: what is read of a bundle needs no engine that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qdbev_deploy.contract import VARIANTS, VariantSpec
from qdbev_deploy.engine import Bundle
from qdbev_deploy.engine.documents import (
    CONTRACT,
    GUARD,
    LAYERS,
    contract_document,
    emulates,
    guard_document,
    layers_document,
    precision_summary,
    seal,
    write_document,
)
from qdbev_deploy.engine.interface import Layer
from tests.report.engines import engine_layers

PLUGIN = "libqdbev_plugins.so"


def hand_made(
    folder: Path,
    backend: str = "tensorrt",
    *,
    spec: VariantSpec = VARIANTS["tiny"],
    io: str = "fp32",
    image: str = "float32",
    precision: str = "int8",
    options: dict[str, Any] | None = None,
    layers: tuple[Layer, ...] | None = None,
) -> Bundle:
    """A bundle whose engine is no engine. For TensorRT it is of another machine's GPU, and has a plugin library."""
    folder.mkdir()
    tensorrt = backend == "tensorrt"
    engine = "engine.plan" if tensorrt else "model.onnx"
    (folder / engine).write_bytes(b"no engine")
    if tensorrt:
        (folder / PLUGIN).write_bytes(b"no library")
    write_document(folder / CONTRACT, contract_document(spec, io, image))
    write_document(folder / LAYERS, layers_document(engine_layers() if layers is None else layers))
    options = {"precision": precision, **(options or {})}
    guard = guard_document({"passed": True, "asked_int8": 4, "ran_int8": 3, "folded": 0,
                            "allowed": {"runs in FP16 by design": 1}, "nodes": []})  # fmt: skip
    write_document(folder / GUARD, guard)
    seal(folder, {
        "tool": "qdbev-deploy 0.1.0",
        "created": "2026-11-20T11:33:23+00:00",
        "backend": backend,
        "engine_file": engine,
        "extra_files": [PLUGIN] if tensorrt else [],
        "machine": "aarch64",
        "versions": {"tensorrt": "10.3.0.30", "cuda": "12.6"} if tensorrt else {"onnxruntime": "1.31.1"},
        "gpu": {"name": "Orin", "compute_capability": [8, 7]} if tensorrt else None,
        "build": {"options": options, "opens_with": {} if tensorrt else {"provider": "CPUExecutionProvider"},
                  "notes": ["lowered: nothing"]},
        "precision": precision_summary(guard, precision, emulated=emulates(backend, options)),
        "parity": {"passed": None, "not_proved": ["that anything is proved"]},
        "provenance": {"onnx": {"name": "student.onnx", "sha256": "ab" * 32, "bytes": 9},
                       "checkpoint_sha256": "cd" * 32, "recipe": {"name": "w4a6"}},
    })  # fmt: skip
    return Bundle.open(folder, to_run=False)
