"""The JSON document of a result, schema qdbev-bench/1: put together, and held against its schema when read."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from qdbev_deploy import __version__
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


# ----------------------------------------------------------------------------------------------------------------------
# The schema

_NUMBER, _TEXT, _COUNT, _FLAG = "number", "text", "count", "flag"
_PERCENTILE = {"value": _NUMBER, "low": "number?", "high": "number?", "needed": _COUNT, "enough": _FLAG}
_SUMMARY: dict[str, Any] = {
    "count": _COUNT, "effective_count": _NUMBER, "mean": _NUMBER, "std": _NUMBER, "cov": _NUMBER, "min": _NUMBER,
    "max": _NUMBER, **dict.fromkeys(("p50", "p90", "p95", "p99", "p99.9"), _PERCENTILE),
}  # fmt: skip
_SUMMARY_OR_NONE = ("?", _SUMMARY)
_FIELDS: dict[str, Any] = {
    "schema": _TEXT,
    "tool": _TEXT,
    "date": _TEXT,
    "command": _TEXT,
    "system": {
        "cpu": _TEXT, "cores": _COUNT, "cores_allowed": _COUNT, "memory_bytes": _COUNT, "os": _TEXT, "gpu": "any",
        "driver": "text?", "versions": "any", "power_mode": _TEXT, "clocks": "any", "sharing": _TEXT,
    },
    "bundle": {
        "name": _TEXT, "manifest_sha256": "text?", "variant": _TEXT, "backend": _TEXT, "provider": "text?",
        "precision": _TEXT, "emulated": _FLAG, "precision_note": _TEXT, "image": _TEXT, "io": _TEXT,
        "engine_bytes": "count?",
    },
    "scenario": {
        "name": _TEXT, "options": "any",
        "data": {"kind": _TEXT, "source": _TEXT, "frames": _COUNT, "resets": _COUNT},
    },
    "warmup": "any",
    "repeats": _COUNT,
    "by_repeat": {"frames": "numbers", "medians_ms": "numbers", "spread": _NUMBER},
    "latency_ms": {
        "samples": "numbers", "summary": _SUMMARY, "histogram": {"edges": "numbers", "counts": "numbers"},
        "by_events": _SUMMARY_OR_NONE,
    },
    "stages_ms": "any",
    "stream": "any",
    "memory": "any",
    "power": "any",
    "clocks": "any",
    "overhead_us": "any",
    "stability": {"stable": _FLAG, "reasons": "texts"},
    "layers": "any",
    "partial": _FLAG,
}  # fmt: skip


def validate(document: Any, where: str) -> dict[str, Any]:
    """The document, if it is one of ours; otherwise an error that names the first field that is not."""
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        found = f"a document of schema {str(schema)[:60]!r}" if schema is not None else "no benchmark of qdbev-deploy"
        raise QdbevError(
            f"{where} is {found}", f"a document of schema {SCHEMA}, as qdbev-deploy bench writes it",
            "run qdbev-deploy bench BUNDLE -o RUN.json with this release",
        )  # fmt: skip
    problem = _problem(document, _FIELDS, "")
    if problem is None and not document["latency_ms"]["samples"]:
        problem = "latency_ms.samples is empty"
    if problem is None and sum(document["by_repeat"]["frames"]) != len(document["latency_ms"]["samples"]):
        problem = "by_repeat.frames do not add up to the samples"
    if problem is None and document["scenario"]["data"]["kind"] not in ("sequence", "random"):
        problem = "scenario.data.kind is neither sequence nor random"
    if problem is not None:
        raise QdbevError(f"{where}: {problem}", f"a whole document of schema {SCHEMA}", "run the benchmark again")
    return dict(document)


def _problem(value: Any, template: Any, path: str) -> str | None:
    if isinstance(template, tuple):  # ("?", template): or null
        return None if value is None else _problem(value, template[1], path)
    if isinstance(template, dict):
        if not isinstance(value, dict):
            return f"{path or 'it'} is no object"
        for name, inner in template.items():
            inside = f"{path}.{name}" if path else name
            if name not in value:
                return f"{inside} is missing"
            if (problem := _problem(value[name], inner, inside)) is not None:
                return problem
        return None
    kind = template.rstrip("?")
    if value is None and (template.endswith("?") or kind == "any"):
        return None
    return None if _KINDS[kind](value) else f"{path} is not of kind '{kind}'"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "any": lambda value: True,
    "number": _is_number,
    "count": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "text": lambda value: isinstance(value, str),
    "flag": lambda value: isinstance(value, bool),
    "numbers": lambda value: isinstance(value, list) and all(_is_number(item) and item >= 0 for item in value),
    "texts": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
}


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
