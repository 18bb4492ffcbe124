"""Numbers as people read them: three digits that count, and the unit that the name of a value carries."""

from __future__ import annotations

import math

_BYTES = ("B", "kB", "MB", "GB", "TB")
# The end of a key, and the unit it stands for.
_UNITS = {
    "ms": "ms", "us": "µs", "ns": "ns", "s": "s", "hz": "Hz", "mhz": "MHz", "w": "W", "mw": "mW", "j": "J", "mj": "mJ",
    "c": "°C", "percent": "%", "fps": "fps", "mb": "MB", "gb": "GB",
}  # fmt: skip


def number(value: float) -> str:
    """Three digits that count, thousands grouped, no exponent for what people measure."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"
    if abs(value) < 1e-4:
        return f"{value:.2e}"
    rounded = float(f"{value:.3g}")  # 0.9996 is 1.00
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def milliseconds(value: float) -> str:
    return f"{number(value)} ms"


def short_time(value_ms: float) -> str:
    """A layer's time where there is little room."""
    return milliseconds(value_ms) if value_ms >= 0.1 else f"{value_ms * 1000:.0f} µs"


def byte_size(value: float) -> str:
    """Bytes in powers of a thousand, as sizes are printed on boxes."""
    size, unit = float(value), 0
    while abs(size) >= 999.5 and unit < len(_BYTES) - 1:
        size, unit = size / 1000, unit + 1
    return f"{number(size)} {_BYTES[unit]}"


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def titled(key: str) -> str:
    """A key as a label: underscores are spaces, and the unit at its end is left to the value."""
    words = key.split("_")
    if len(words) > 1 and (words[-1] in _UNITS or words[-1] == "bytes"):
        words.pop()
    return " ".join(words)


def valued(key: str, value: object) -> str:
    """A value with the unit that its key's ending names."""
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        ending = key.rsplit("_", 1)[-1]
        if ending == "bytes" or key == "bytes":
            return byte_size(value)
        if key.startswith("share_of_"):
            return f"{number(100 * value)} %"
        unit = _UNITS.get(ending) if "_" in key else None
        return f"{number(value)} {unit}" if unit else number(value)
    if isinstance(value, (list, tuple)) and all(not isinstance(item, (list, tuple, dict)) for item in value):
        return ", ".join(map(str, value)) or "none"
    return str(value)
