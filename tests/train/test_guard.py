"""Divergence behind quantisers, where NaN and infinity look like any number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.quant.quantise import activation_quantizers, enable_parts, weight_quantizers
from qdbev_deploy.train.guard import LOOK_EVERY_STEPS, ScaleGuard
from qdbev_deploy.train.trainer import Trainer
from tests.train.runs import student, trainer


def diverge(run: Trainer, spoil: Callable[[Trainer], object], after: int = 1, save_every: int = 200) -> QdbevError:
    """What the run says after it was spoiled when it had done that many steps."""
    run.folder.begin(run.config.to_dict())
    with pytest.raises(QdbevError) as caught:
        run.run(save_every=save_every, on_step=lambda step, _: spoil(run) if step == after else None)
    assert caught.value.exit_code == ExitCode.GUARD
    assert "another --out" in caught.value.next_step  # what --resume would not do
    return caught.value


def set_nan(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor[(0,) * tensor.dim()] = float("nan")


def test_a_loss_that_is_not_finite_names_the_layer(synthetic_dataroot: Path, tmp_path: Path) -> None:
    for name, loss, run in (
        ("img_neck.fpn_convs.0.conv", "nan", trainer(synthetic_dataroot, tmp_path / "float")),
        ("pts_bbox_head.cls_branches.0.6", "inf", student(synthetic_dataroot, tmp_path / "student")),
    ):
        with torch.no_grad():
            run.model.get_submodule(name).bias[0] = float("inf")  # type: ignore[index, operator]
        run.folder.begin(run.config.to_dict())
        with pytest.raises(QdbevError) as caught:
            run.run()
        assert f"diverged at step 0: the loss is {loss}, first not finite in '{name}'" in caught.value.found
        assert caught.value.exit_code == ExitCode.GUARD


def test_a_gradient_that_is_not_finite_names_its_parameter(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = trainer(synthetic_dataroot, tmp_path / "run")
    weight = run.model.img_backbone.layer2[0].conv1.weight

    def spoil(_: Trainer) -> None:
        weight.register_hook(lambda gradient: gradient * float("inf"))

    assert "the gradient of 'img_backbone.layer2.0.conv1.weight' is not finite" in diverge(run, spoil).found
    assert bool(torch.isfinite(weight).all())  # it stopped before the update


def test_a_parameter_that_is_not_finite_is_named(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = student(synthetic_dataroot, tmp_path / "bias")
    error = diverge(run, lambda run: set_nan(run.model.img_backbone.layer2[0].conv1.bias))
    assert "diverged at step 1: 'img_backbone.layer2.0.conv1.bias' is not finite any more" in error.found
    run = student(synthetic_dataroot, tmp_path / "weight")
    error = diverge(run, lambda run: set_nan(weight_quantizers(run.model)["img_backbone.layer2.0.conv1"][1]))
    assert "diverged at step 1: 'img_backbone.layer2.0.conv1.parametrizations.weight.original' is" in error.found


@pytest.mark.parametrize(("steps", "save_every", "noticed"), [
    (15, 200, LOOK_EVERY_STEPS), (15, 3, 2), (4, 200, 3),
])  # fmt: skip
@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_what_enters_a_quantiser_is_looked_at(
    synthetic_dataroot: Path, tmp_path: Path, steps: int, save_every: int, noticed: int, number: float
) -> None:
    """Every so many steps, at each that is saved, and at the last."""
    run = student(synthetic_dataroot, tmp_path / "run", steps=steps)

    def spoil(run: Trainer) -> None:
        def overflow(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            return torch.cat([output[:1] + number, output[1:]])

        run.model.img_backbone.layer2[0].conv1.register_forward_hook(overflow)

    error = diverge(run, spoil, save_every=save_every)
    assert error.found.startswith(f"training diverged at step {noticed}: what enters the quantiser 'img_backbone.")
    assert error.found.endswith("first in 'img_backbone.layer2.0.conv1'")
    assert not run.folder.has_state


def test_a_scale_that_leaves_its_grid_is_named(synthetic_dataroot: Path, tmp_path: Path) -> None:
    """Weights of 4 bits are all zero at 55 times their scale, activations of 6 bits say little at a 55th of theirs."""
    model = student(synthetic_dataroot, tmp_path / "run").model
    enable_parts(model, {"backbone"})
    activation = activation_quantizers(model)["img_backbone.stem_tap"]
    activation.set_scale(0.1)
    four_bits, weight = weight_quantizers(model)["img_backbone.layer2.0.conv1"]
    eight_bits, _ = weight_quantizers(model)["img_backbone.conv1"]
    guard = ScaleGuard()
    guard.begin(model)
    for quantizer, name, bearable, moved in (
        (four_bits, "img_backbone.layer2.0.conv1 (weights)", 1.5, 4.0),
        (four_bits, "img_backbone.layer2.0.conv1 (weights)", -1.5, -4.0),
        (activation, "img_backbone.stem_tap", 3.0, 4.2),
        (activation, "img_backbone.stem_tap", -3.0, -4.2),
        (eight_bits, "img_backbone.conv1 (weights)", 4.0, 5.0),
        (activation, "img_backbone.stem_tap", 0.0, float("nan")),
    ):
        with torch.no_grad():
            start = quantizer.log_scale.clone()
            quantizer.log_scale.add_(bearable)
            guard.check(model, 1)
            quantizer.log_scale.copy_(start + moved)
            with pytest.raises(QdbevError) as caught:
                guard.check(model, 1)
            if quantizer is four_bits and moved > 0:
                assert not four_bits.integers(weight).any()
            quantizer.log_scale.copy_(start)
        assert caught.value.found == f"training diverged at step 1: the scale of '{name}' moved by e^{abs(moved):.1f}"
    with torch.no_grad():  # one channel alone
        four_bits.log_scale[3] += 4.0
    with pytest.raises(QdbevError, match="layer2"):
        guard.check(model, 1)


def test_the_first_update_is_judged_by_where_calibration_put_the_scales(
    synthetic_dataroot: Path, tmp_path: Path
) -> None:
    run = student(synthetic_dataroot, tmp_path / "run", steps=1, lr=10.0, warmup_steps=0)
    run.folder.begin(run.config.to_dict())
    with pytest.raises(QdbevError, match="diverged at step 0: the scale of"):
        run.run()


def test_a_channel_of_zeros_may_find_a_scale(synthetic_dataroot: Path, tmp_path: Path) -> None:
    model = student(synthetic_dataroot, tmp_path / "run").model
    enable_parts(model, {"backbone"})
    quantizer, _ = weight_quantizers(model)["img_backbone.layer2.0.conv1"]
    with torch.no_grad():
        quantizer.log_scale[0] = -16.118096
        guard = ScaleGuard()
        guard.begin(model)
        quantizer.log_scale[0] = -3.0
        guard.check(model, 1)
        quantizer.log_scale[0] = float("nan")
    with pytest.raises(QdbevError, match="layer2"):
        guard.check(model, 2)
