"""Integer grids of k bits."""

from __future__ import annotations

from dataclasses import dataclass

from qdbev_deploy.errors import QdbevError

MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True)
class Grid:
    """The integers qmin..qmax, zero point 0. Every grid fits int8: that is what carries it to the engine."""

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise QdbevError(f"{self.bits} bits", f"{MIN_BITS} to {MAX_BITS} bits", "correct the recipe")

    @property
    def qmin(self) -> int:
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        if self.signed:
            return int(2 ** (self.bits - 1)) - 1
        # 0..255 would not fit int8: eight unsigned bits keep to int8's positive half.
        return min(int(2**self.bits) - 1, 127)
