"""A copy of the file cut at every quantiser, and the integers from torch that are fed into the cuts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qdbev_deploy.quant.quantise import activation_quantizers
from qdbev_deploy.quant.quantizers import ActivationQuantizer

Integers = npt.NDArray[np.int8]

FORCED = "/forced"
PIECE = 1 << 18  # numbers of an activation that are rounded at a time: a megabyte


def forced_copy(model: onnx.ModelProto, taps: dict[str, str]) -> onnx.ModelProto:
    """A copy cut at every quantiser: what follows reads integers that are given, and what it computed is an output.

    So each stretch between quantisers is held against torch from the same integers. Without the cuts one rounding tie,
    which two orders of summation settle differently, sets off others behind it, and the last layers would tell nothing.
    `taps` says which tensors the integers are.
    """
    copy: onnx.ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    tensors = list(dict.fromkeys(taps.values()))
    cut = set(tensors)
    for node in copy.graph.node:
        for index, name in enumerate(node.input):
            if name in cut:
                node.input[index] = name + FORCED
    for name in tensors:
        copy.graph.input.append(helper.make_tensor_value_info(name + FORCED, TensorProto.INT8, None))
        copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT8, None))
    return copy


class RecordedIntegers:
    """The integers of one forward, by quantiser."""

    def __init__(self) -> None:
        self._calls: dict[str, list[Tensor]] = {}
        self.weights_used: set[str] = set()  # names of modules with quantised weights that ran
        self.lost: set[str] = set()  # what torch quantises and the file does not
        self.unlike: set[str] = set()  # quantisers whose own forward gives other numbers
        self.paused = False
        self._compared: set[str] = set()

    def quantise(self, name: str, quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
        """What the quantiser's forward gives, its integers kept: piece by piece, each while it is in the cache.

        The first tensor of each quantiser goes through its forward as well, and must come out the same.
        """
        if not quantizer.rounds:
            return x
        x = x.contiguous()
        values, integers = torch.empty_like(x), torch.empty(x.shape, dtype=torch.int8)
        scale, pieces = quantizer.scale, (tensor.view(-1).split(PIECE) for tensor in (x, values, integers))
        for given, value, integer in zip(*pieces, strict=True):
            integer.copy_(quantizer.rounded(given, out=value))
            value.mul_(scale)
        if name not in self._compared:
            self._compared.add(name)
            if not torch.equal(values, type(quantizer).forward(quantizer, x)):
                self.unlike.add(name)
        if not self.paused:
            self._calls.setdefault(name, []).append(integers)
        return values

    def take(self, taps: dict[str, str]) -> dict[str, Integers]:
        """What was recorded since the last call, of the quantisers that the file has as well."""
        calls, self._calls = self._calls, {}
        self.lost |= set(calls) - set(taps)
        # The columns of a deformable convolution are rounded tap by tap in torch; the file has them beside one another.
        return {
            name: (parts[0] if len(parts) == 1 else torch.stack(parts, dim=2).flatten(1, 2)).numpy()
            for name, parts in calls.items()
            if name in taps
        }


@contextmanager
def recording_integers(model: nn.Module) -> Iterator[RecordedIntegers]:
    """While it is open, forwards of the model leave their activations' integers there."""
    recorded = RecordedIntegers()
    quantizers = activation_quantizers(model)

    def mark_for(name: str) -> Any:
        return lambda *_: recorded.weights_used.add(name)

    handles = [
        module.register_forward_hook(mark_for(name))
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module)
    ]
    for name, quantizer in quantizers.items():
        quantizer.forward = partial(recorded.quantise, name, quantizer)  # type: ignore[method-assign]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
        for quantizer in quantizers.values():
            del quantizer.forward
