"""The JSON document of a result, schema qdbev-bench/1: put together, and held against its schema when read."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from qdbev_deploy import __version__
from qdbev_deploy.bench import schema
from qdbev_deploy.bench.system import Subject
from qdbev_deploy.engine.interface import Layer
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.files import sha256_of

SCHEMA = "qdbev-bench/1"
_MAX_BYTES = 1 << 30


def header(command: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "tool": f"qdbev-deploy {__version__}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(command),
    }


def bundle_section(subject: Subject) -> dict[str, Any]:
    """`bundle`: what was run, and whether its low precision is computed or emulated."""
    manifest, folder = subject.manifest, subject.path
    options = manifest.get("build", {}).get("options", {})
    opens_with = manifest.get("build", {}).get("opens_with", {})
    proved = manifest.get("precision", {})
    backend = str(manifest["backend"])
    precision = str(proved.get("precision", "not said"))
    emulated = precision == "int8" and bool(proved.get("emulated", False))
    engine = folder / str(manifest["engine_file"])
    path = folder / "manifest.json"
    return {
        "name": folder.resolve().name,
        "manifest_sha256": sha256_of(path) if path.is_file() else None,
        "variant": subject.spec.name,
        "backend": backend,
        "provider": opens_with.get("provider"),
        "precision": precision,
        "emulated": emulated,
        "precision_note": "int8 is emulated in float: Q/DQ are carried out, and the time says nothing of int8 speed"
        if emulated else "",
        "image": "uint8" if subject.inputs[0].dtype == "uint8" else "float32",
        "io": _io(subject),
        "threads": options.get("threads"),
        "engine_bytes": engine.stat().st_size if engine.is_file() else None,
    }  # fmt: skip


def _io(subject: Subject) -> str:
    """As `export --io` names it."""
    if subject.inputs[2].shape == ():
        return "mlperf"
    return "fp16" if subject.inputs[1].dtype == "float16" else "fp32"


def layers_section(layers: Sequence[Layer], times_ms: Mapping[str, float] | None = None) -> list[dict[str, Any]] | None:
    """`layers`: by the profile of this run where there is one, else as the build left them."""
    rows = []
    for layer in layers:
        time_ms = layer.time_ms if times_ms is None else times_ms.get(layer.name)
        rows.append({"name": layer.name, "kind": layer.kind, "precision": layer.precision, "time_ms": time_ms})
    return rows or None


def validate(document: Any, where: str) -> dict[str, Any]:
    """The document, if it is one of ours; otherwise an error that names the first field that is not."""
    named = document.get("schema") if isinstance(document, dict) else None
    if named != SCHEMA:
        found = (
            f"a document of schema {str(named)[:60]!r}" if isinstance(named, str) else "no benchmark of qdbev-deploy"
        )
        raise QdbevError(
            f"{where} is {found}", f"a document of schema {SCHEMA}, as qdbev-deploy bench writes it",
            "run qdbev-deploy bench BUNDLE -o RUN.json with this release",
        )  # fmt: skip
    problem = schema.problem(document) or _contradiction(document)
    if problem is not None:
        raise QdbevError(f"{where}: {problem}", f"a whole document of schema {SCHEMA}", "run the benchmark again")
    return dict(document)


def _contradiction(document: dict[str, Any]) -> str | None:
    """What each field alone does not show."""
    latency, by_repeat = document["latency_ms"], document["by_repeat"]
    if not latency["samples"]:
        return "latency_ms.samples is empty"
    if sum(by_repeat["frames"]) != len(latency["samples"]):
        return "by_repeat.frames do not add up to the samples"
    if not len(by_repeat["medians_ms"]) == len(by_repeat["frames"]) == document["repeats"]:
        return "by_repeat does not have one entry a repeat"
    if len(latency["histogram"]["edges"]) != len(latency["histogram"]["counts"]) + 1:
        return "latency_ms.histogram does not have one edge more than counts"
    if document["scenario"]["data"]["kind"] not in ("sequence", "random"):
        return "scenario.data.kind is neither sequence nor random"
    if not 0.5 <= document["scenario"]["options"]["confidence"] < 1:
        return "scenario.options.confidence is no share of 0.5 or more"
    return None


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A result from a file, validated."""
    path = Path(path)
    again = "qdbev-deploy bench BUNDLE -o RUN.json writes one"
    if not path.is_file():
        raise QdbevError(f"there is no file {path}", "the JSON of a benchmark", again)
    if path.stat().st_size > _MAX_BYTES:
        raise QdbevError(f"{path} has {path.stat().st_size:,} bytes", f"at most {_MAX_BYTES:,}", again)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise QdbevError(f"{path} cannot be read as JSON: {error}", "the JSON of a benchmark", again) from None
    return validate(document, str(path))
