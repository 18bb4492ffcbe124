"""Divergence: noticed at the step it happens, traced to the layer it began in.

A quantiser gives NaN and infinity a place on its grid like any number, so that behind one everything looks finite. What
can go wrong before it is therefore looked at where it is: parameters after each update, and now and then what enters
the quantisers of activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qdbev_deploy.calibration.grid import Grid
from qdbev_deploy.calibration.weights import SMALLEST_SCALE
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.quant.quantise import activation_quantizers, weight_quantizers
from qdbev_deploy.quant.quantizers import ActivationQuantizer, WeightQuantizer

_SMALLEST = math.log(SMALLEST_SCALE) + 1e-3  # what a channel of zeros has for a scale
LOOK_EVERY_STEPS = 10  # at what enters quantisers; a look costs about as much as reading every activation once


def _diverged(step: int, what: str, needed: str) -> QdbevError:
    return QdbevError(
        f"training diverged at step {step}: {what}",
        needed,
        "begin anew with a lower --lr: another --out, and --init with what this run began with",
        exit_code=ExitCode.GUARD,
    )


def _first_bad_layer(model: nn.Module, run: Callable[[], object]) -> str:
    """Name of the first layer whose output is not finite when `run` is repeated."""
    found: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def look(_: nn.Module, __: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(name)

        return look

    # A layer whose weight is quantised has that quantiser for a child, and is one all the same.
    leaves = [
        (name, module)
        for name, module in model.named_modules()
        if not isinstance(module, WeightQuantizer)
        and all(child == "parametrizations" for child, _ in module.named_children())
    ]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss itself"


def _trace(tensor: Tensor) -> Tensor:
    """A number that is finite where the tensor is: a sum is the cheapest one."""
    return tensor.detach().sum(dtype=torch.float32)


def check_loss(loss: Tensor, step: int, model: nn.Module, run: Callable[[], object]) -> None:
    """Stop at a loss that is not finite; `run` repeats the forward pass for the search."""
    if not math.isfinite(float(loss.detach())):
        layer = _first_bad_layer(model, run)
        raise _diverged(step, f"the loss is {float(loss.detach())}, first not finite in '{layer}'", "a finite loss")


def check_gradients(model: nn.Module, norm: Tensor, step: int) -> None:
    """Stop at a gradient that is not finite."""
    if not math.isfinite(float(norm)):
        names = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ]
        name = names[0] if names else "all layers"
        raise _diverged(step, f"the gradient of '{name}' is not finite", "finite gradients")


@torch.no_grad()
def check_parameters(model: nn.Module, step: int) -> None:
    """Stop at a parameter that an update has made not finite."""
    named = dict(model.named_parameters())
    finite = torch.isfinite(torch.stack([_trace(parameter) for parameter in named.values()]))
    if not bool(finite.all()):
        name = list(named)[int((~finite).nonzero()[0])]
        raise _diverged(step, f"'{name}' is not finite any more", "finite parameters")


@contextmanager
def looking_at_activations(model: nn.Module | None) -> Iterator[dict[str, Tensor]]:
    """Within the block, what enters the quantisers that are enabled: name -> a number that is finite where it is.

    In the order in which they are reached; nothing without a model.
    """
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[ActivationQuantizer, tuple[Tensor, ...]], None]:
        def look(quantizer: ActivationQuantizer, inputs: tuple[Tensor, ...]) -> None:
            if quantizer.enabled:
                trace = _trace(inputs[0])
                seen[name] = seen[name] + trace if name in seen else trace

        return look

    quantizers = activation_quantizers(model) if model is not None else {}
    handles = [quantizer.register_forward_pre_hook(hook(name)) for name, quantizer in quantizers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def check_activations(seen: dict[str, Tensor], step: int, model: nn.Module, run: Callable[[], object]) -> None:
    """Stop where something not finite entered a quantiser; `run` repeats the forward pass for the search."""
    if not seen or bool(torch.isfinite(torch.stack(list(seen.values()))).all()):
        return
    name = next(name for name, trace in seen.items() if not bool(torch.isfinite(trace)))
    layer = _first_bad_layer(model, run)
    raise _diverged(step, f"what enters the quantiser '{name}' is not finite, first in '{layer}'", "finite activations")


def _bound(grid: Grid) -> float:
    """How far, as a logarithm, a scale may move: beyond its largest integer a grid is mostly zeros, or ends."""
    return math.log(max(grid.qmax, 3))  # two bits have no larger integer than 1


def _enabled(model: nn.Module) -> dict[str, ActivationQuantizer | WeightQuantizer]:
    quantizers: dict[str, ActivationQuantizer | WeightQuantizer] = {
        name: quantizer
        for name, quantizer in activation_quantizers(model).items()
        if quantizer.enabled and quantizer.scale_is_set
    }
    return quantizers | {
        f"{name} (weights)": quantizer for name, (quantizer, _) in weight_quantizers(model).items() if quantizer.enabled
    }


class ScaleGuard:
    """Remembers where calibration put the scales, and stops when one has left its grid behind."""

    def __init__(self) -> None:
        self._start: dict[str, Tensor] = {}
        self._packed: tuple[tuple[str, ...], Tensor, Tensor] | None = None

    def state(self) -> dict[str, Tensor]:
        return self._start

    def restore(self, state: dict[str, Tensor]) -> None:
        self._start, self._packed = state, None

    def begin(self, model: nn.Module) -> None:
        """Note where the scales of what is enabled stand, before anything has moved them; those known keep theirs."""
        for name, quantizer in _enabled(model).items():
            self._start.setdefault(name, quantizer.log_scale.detach().clone())

    @torch.no_grad()
    def check(self, model: nn.Module, step: int) -> None:
        quantizers = _enabled(model)
        if not quantizers:
            return
        moved = torch.cat([quantizer.log_scale.detach().reshape(-1) for quantizer in quantizers.values()])
        start, bound = self._start_and_bound(quantizers)
        # A channel of zeros alone has no scale to leave. NaN is within no bound.
        within = ((moved - start).abs() < bound) | (start < _SMALLEST) & torch.isfinite(moved)
        if not bool(within.all()):
            self._refuse(quantizers, within, step)

    def _start_and_bound(self, quantizers: dict[str, ActivationQuantizer | WeightQuantizer]) -> tuple[Tensor, Tensor]:
        """Where each scale began, one after another, and how far it may move; put together when a part joins."""
        names = tuple(quantizers)
        if self._packed is None or self._packed[0] != names:
            scales = [quantizer.log_scale for quantizer in quantizers.values()]
            start = torch.cat([self._start[name].reshape(-1) for name in names]).to(scales[0].device)
            bound = torch.cat([torch.full_like(scale, _bound(quantizers[name].grid)).reshape(-1)
                               for name, scale in zip(names, scales)])  # fmt: skip
            self._packed = names, start, bound
        return self._packed[1:]

    def _refuse(self, quantizers: dict[str, ActivationQuantizer | WeightQuantizer], within: Tensor, step: int) -> None:
        parts = within.split([quantizer.log_scale.numel() for quantizer in quantizers.values()])
        name = next(name for name, part in zip(quantizers, parts) if not bool(part.all()))
        log_scale, grid = quantizers[name].log_scale.detach().cpu(), quantizers[name].grid
        moved = float((log_scale - self._start[name].cpu()).abs().max())
        raise _diverged(
            step,
            f"the scale of '{name}' moved by e^{moved:.1f}",
            f"scales within a factor of {math.exp(_bound(grid)):.0f} of their calibration, "
            f"beyond which a grid of {grid.bits} bits carries nothing",
        )
