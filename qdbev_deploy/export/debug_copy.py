"""A copy of the file cut at every quantiser, and the integers from torch that are fed into the cuts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


def forced_copy(model: onnx.ModelProto, taps: dict[str, str]) -> onnx.ModelProto:
    """A copy cut at every quantiser: what follows reads integers that are given, and what it computed is an output.

    So each stretch between quantisers is held against torch from the same integers. Without the cuts one rounding tie,
    which no two float convolutions settle alike, sets off others behind it, and the last layers would tell nothing.
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
        self.paused = False

    def add(self, name: str, quantizer: ActivationQuantizer, output: Tensor) -> None:
        if self.paused:
            return
        self._calls.setdefault(name, []).append((output / quantizer.scale).round_().to(torch.int8))

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

    def hook_for(name: str) -> Any:
        def hook(quantizer: ActivationQuantizer, _: object, output: Tensor) -> None:
            recorded.add(name, quantizer, output)

        return hook

    def mark_for(name: str) -> Any:
        return lambda *_: recorded.weights_used.add(name)

    handles = [
        module.register_forward_hook(mark_for(name))
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module)
    ]
    handles += [
        quantizer.register_forward_hook(hook_for(name)) for name, quantizer in activation_quantizers(model).items()
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
