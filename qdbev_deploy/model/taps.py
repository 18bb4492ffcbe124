"""Marks on the tensors that a quantised model may hold as integers. A tap does nothing; `quant` takes hold of it."""

from __future__ import annotations

from torch import nn


class Tap(nn.Identity):
    """A named point on the way of an activation.

    `nonnegative` says that the tensor cannot be negative (a ReLU made it), so that its grid need not be signed.
    """

    def __init__(self, *, nonnegative: bool = False) -> None:
        super().__init__()
        self.nonnegative = nonnegative
