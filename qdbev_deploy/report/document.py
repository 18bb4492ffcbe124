"""A benchmark's document read with care: what is there, what is not, and why; nothing in it is trusted."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from qdbev_deploy.bench.document import SCHEMA
from qdbev_deploy.engine.interface import Layer
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.report.graph_layout import shown_name

_LARGEST = sys.float_info.max
_AGAIN = "qdbev-deploy bench BUNDLE --report report.html"


@dataclass(frozen=True)
class LayerRow:
    """What the report says of a layer."""

    name: str
    kind: str
    precision: str  # "" where it only moves data
    time_ms: float | None
    macs: int


@dataclass(frozen=True)
class Bench:
    """A document whose frame times were checked; the rest is looked up when it is shown."""

    document: Mapping[str, Any]
    samples: tuple[float, ...]  # ms, every measured frame in order
    summary: Mapping[str, Any]
    layers: tuple[LayerRow, ...]

    @property
    def confidence(self) -> str:
        """Of all intervals, as a percentage."""
        options = self.part("scenario").get("options")
        value = options.get("confidence") if isinstance(options, Mapping) else None
        return f"{100 * value:g} %" if is_number(value) else "an unstated confidence"

    @property
    def repeat_starts(self) -> list[int]:
        """The first frame of each repeat but the first one."""
        frames = self.part("by_repeat").get("frames")
        if not isinstance(frames, list) or not all(map(is_number, frames)):
            return []
        return [int(sum(frames[:index])) for index in range(1, len(frames))]

    def part(self, name: str) -> Mapping[str, Any]:
        """A top-level part as a mapping; empty where it was not measured."""
        value = self.document.get(name)
        return value if isinstance(value, Mapping) else {}


def is_number(value: object) -> TypeGuard[float]:
    """A finite number, which JSON writes with or without a point."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= _LARGEST  # no NaN either, and no integer that no float can hold


def read_bench(document: Mapping[str, Any], layers: Sequence[Layer] | None = None) -> Bench:
    """Check what the plots stand on; refuse what is no benchmark of ours."""
    schema = document.get("schema")
    if schema != SCHEMA:
        raise QdbevError(f"a document of the schema {schema!r}", f"one of {SCHEMA!r}, as `bench` writes it", _AGAIN)
    _require_numbers(document, "")
    latency = document.get("latency_ms")
    samples = latency.get("samples") if isinstance(latency, Mapping) else None
    if not isinstance(samples, Sequence) or not samples or not all(map(is_number, samples)):
        raise QdbevError(
            "a benchmark without a list of frame times in latency_ms.samples",
            "finite milliseconds, one a frame",
            _AGAIN,
        )
    assert isinstance(latency, Mapping)
    summary = latency.get("summary")
    return Bench(
        document,
        tuple(float(value) for value in samples),
        summary if isinstance(summary, Mapping) else {},
        _layer_rows(document.get("layers"), layers),
    )


def _require_numbers(value: object, where: str) -> None:
    """Every number is one that can be drawn, and that JSON has."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_numbers(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            _require_numbers(item, where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and not is_number(value):
        raise QdbevError(f"a benchmark whose {where} is no finite number", "finite numbers, or null", _AGAIN)


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The mappings among a list's members; none where it is no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, (list, tuple)) else []


def _layer_rows(measured: object, layers: Sequence[Layer] | None) -> tuple[LayerRow, ...]:
    """The document's times joined with the bundle's layers, which know the multiply-accumulates."""
    entries = [entry for entry in _list(measured) if isinstance(entry, Mapping) and "name" in entry]
    if layers is None:
        return tuple(
            LayerRow(
                str(entry["name"]), str(entry.get("kind", "")), str(entry.get("precision") or ""),
                _time(entry.get("time_ms")), int(entry["macs"]) if is_number(entry.get("macs")) else 0,
            )
            for entry in entries
        )  # fmt: skip
    times = {str(entry["name"]): _time(entry.get("time_ms")) for entry in entries}
    return tuple(
        LayerRow(shown_name(layer), layer.kind, layer.precision, times.get(layer.name, layer.time_ms), layer.macs)
        for layer in layers
    )


def _list(value: object) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _time(value: Any) -> float | None:
    return float(value) if is_number(value) else None
