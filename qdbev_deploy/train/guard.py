"""Divergence: noticed at the step it happens, traced to the layer it began in."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.quant.quantise import activation_quantizers, weight_quantizers

COLLAPSE_FACTOR = 1e3  # a scale this far from where calibration put it carries nothing any more
_ADVICE = "lower --lr, or resume from an earlier checkpoint with a longer schedule for this part"


def _first_bad_layer(model: nn.Module, run: Callable[[], object]) -> str:
    """Name of the first layer whose output is not finite when `run` is repeated."""
    found: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def look(_: nn.Module, __: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(name)

        return look

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss itself"


def check_loss(loss: Tensor, step: int, model: nn.Module, run: Callable[[], object]) -> None:
    """Stop at a loss that is not finite; `run` repeats the forward pass for the search."""
    if not math.isfinite(float(loss.detach())):
        layer = _first_bad_layer(model, run)
        raise QdbevError(
            f"training diverged at step {step}: the loss is {float(loss.detach())}, first not finite in '{layer}'",
            "a finite loss",
            _ADVICE,
            exit_code=ExitCode.GUARD,
        )


def check_gradients(model: nn.Module, norm: Tensor, step: int) -> None:
    """Stop at a gradient that is not finite."""
    if not math.isfinite(float(norm)):
        names = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ]
        raise QdbevError(
            f"training diverged at step {step}: the gradient of '{names[0] if names else 'all layers'}' is not finite",
            "finite gradients",
            _ADVICE,
            exit_code=ExitCode.GUARD,
        )


class ScaleGuard:
    """Remembers where calibration put the scales, and stops when one has run away."""

    def __init__(self) -> None:
        self._start: dict[str, Tensor] = {}

    def state(self) -> dict[str, Tensor]:
        return self._start

    def restore(self, state: dict[str, Tensor]) -> None:
        self._start = state

    def check(self, model: nn.Module, step: int) -> None:
        scales = {name: quantizer.log_scale for name, quantizer in activation_quantizers(model).items()
                  if quantizer.enabled and quantizer.scale_is_set}  # fmt: skip
        scales |= {f"{name} (weights)": quantizer.log_scale for name, (quantizer, _) in weight_quantizers(model).items()
                   if quantizer.enabled}  # fmt: skip
        for name, log_scale in scales.items():
            current = log_scale.detach()
            start = self._start.setdefault(name, current.clone())
            moved = float((current - start).abs().max())
            if not moved < math.log(COLLAPSE_FACTOR):
                raise QdbevError(
                    f"training diverged at step {step}: the scale of '{name}' moved by e^{moved:.1f}",
                    f"scales within a factor of {COLLAPSE_FACTOR:.0e} of their calibration",
                    _ADVICE,
                    exit_code=ExitCode.GUARD,
                )
