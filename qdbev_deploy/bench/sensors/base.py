"""What a reader offers: numbers with units in their names, or the reason why there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Sensor(Protocol):
    """One source of readings."""

    name: str

    def missing(self) -> str | None:
        """Why nothing can be read here; None where it can."""
        ...

    def read(self) -> dict[str, float]:
        """The readings now; always the same names. A reading that fails this once is NaN, never 0."""
        ...

    def close(self) -> None: ...


def number_in(path: Path) -> float | None:
    """The number that a file of sysfs holds; None where it cannot be read."""
    try:
        return float(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return None


def text_in(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
    except OSError:
        return None
