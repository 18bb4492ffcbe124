"""Training runs: schedule, steps, what each setting does."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.model import build_model
from qdbev_deploy.quant import load_recipe
from qdbev_deploy.quant.quantise import activation_quantizers
from qdbev_deploy.quant.quantizers import ActivationQuantizer, WeightQuantizer
from qdbev_deploy.train import trainer as trainer_module
from qdbev_deploy.train.config import TrainConfig
from qdbev_deploy.train.distill import Distillation
from qdbev_deploy.train.trainer import Trainer, learning_rate, phases
from tests.train.runs import SPEC, rows, student, trainer

# -- schedule ----------------------------------------------------------------------------------------------------------


def test_phases_follow_the_recipe() -> None:
    config = TrainConfig(steps=840, distillation=Distillation())
    found = phases(config, load_recipe("w4a6"))
    assert [(phase.name, phase.first_step, len(phase.parts), phase.distills) for phase in found] == [
        ("backbone", 0, 1, False), ("neck", 230, 2, False), ("encoder", 340, 3, False), ("decoder", 500, 4, False),
        ("distill", 590, 4, True),
    ]  # fmt: skip


def test_standard_training_quantises_all_at_once() -> None:
    config = TrainConfig(steps=840, progressive=False)
    assert [(phase.name, phase.first_step, len(phase.parts)) for phase in phases(config, load_recipe("w4a6"))] == [
        ("decoder", 0, 4)
    ]


def test_a_schedule_that_makes_no_student_is_refused() -> None:
    recipe = load_recipe("w4a6")
    shares = dict(recipe.schedule)
    no_decoder = replace(recipe, schedule=tuple({**shares, "decoder": 0.0, "distill": 0.0}.items()))
    no_distillation = replace(recipe, schedule=tuple({**shares, "distill": 0.0}.items()))
    distils, alone = TrainConfig(distillation=Distillation()), TrainConfig()
    for config, other, sentence in (
        (alone, no_decoder, "never quantises the decoder"),
        (distils, no_decoder, "no share for it"),
        (distils, no_distillation, "no share for it"),
        (replace(distils, progressive=False), no_distillation, "no share for it"),
        (replace(alone, steps=2), recipe, "2 steps, of which the schedule of recipe 'w4a6' leaves none for decoder"),
        (replace(distils, steps=1), recipe, "leaves none for distill"),
    ):
        with pytest.raises(QdbevError, match=sentence):
            phases(config, other)
    for config, other in (
        (alone, no_distillation),
        (replace(alone, progressive=False, steps=1), no_decoder),
        # A part without a share joins with the next.
        (distils, replace(recipe, schedule=tuple({**shares, "decoder": 0.0}.items()))),
    ):
        assert len(phases(config, other)[-1].parts) == 4


def test_learning_rate() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, lr=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 10) == pytest.approx(1.0)
    assert learning_rate(config, 55) == pytest.approx(0.5, abs=0.01)
    assert learning_rate(config, 99) < 0.01


# -- runs --------------------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = trainer(synthetic_dataroot, tmp_path / "run", steps=24, lr=2e-3, warmup_steps=1, dropout=0.0)
    run.folder.begin(run.config.to_dict())
    # One sample again and again: what cannot be overfitted cannot be learned.
    sample = run.data.sample(0)
    run.data.sample = lambda number: sample  # type: ignore[method-assign]
    run.run()
    losses = [row["loss"] for row in rows(tmp_path / "run")]
    assert len(losses) == 24
    assert losses[-1] < 0.75 * losses[0]
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_a_quantised_run_enables_part_after_part(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = student(synthetic_dataroot, tmp_path / "run", distils=True, progressive=True, steps=5, queue=2)
    run.phases = [replace(phase, first_step=index) for index, phase in enumerate(run.phases)]
    run.folder.begin(run.config.to_dict())
    whole: list[bool] = []
    run.run(on_step=lambda step, _: whole.append(run.is_whole))
    log = rows(tmp_path / "run")
    assert [row["phase"] for row in log] == ["backbone", "neck", "encoder", "decoder", "distill"]
    assert ["distill" in row for row in log] == [False] * 4 + [True]
    assert all(bool(quantizer.scale_is_set) for quantizer in activation_quantizers(run.model).values())
    assert run.is_whole


def test_a_run_is_whole_once_its_last_part_has_joined(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = student(synthetic_dataroot, tmp_path / "run", distils=True, progressive=True, steps=10)
    whole = []
    for run.step in range(11):
        whole.append(run.is_whole)
    assert whole == [False] * 7 + [True] * 4  # the decoder joins in step 6, distillation begins in step 7
    assert trainer(synthetic_dataroot, tmp_path / "float").is_whole


def test_frozen_norms_keep_their_statistics_and_learn_their_weights(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = trainer(synthetic_dataroot, tmp_path / "run", steps=3, queue=2, freeze_norm_from=1)
    run.folder.begin(run.config.to_dict())
    norm = run.model.img_backbone.bn1
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    run.run(on_step=lambda step, row: seen.append((norm.running_mean.clone(), norm.weight.detach().clone())))
    assert bool(seen[0][0].any())  # it began with zeros
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[1][0], seen[2][0])
    assert not torch.equal(seen[1][1], seen[2][1])


def test_another_dropout_holds_for_the_run(synthetic_dataroot: Path, tmp_path: Path) -> None:
    different = []
    for dropout in (0.0, None):
        run = trainer(synthetic_dataroot, tmp_path / "run", dropout=dropout)
        run.model.train()
        sample, phase = run.data.sample(0), run.phases[0]
        losses = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            losses.append(float(run._loss(sample, phase)[0].detach()))
        different.append(losses[0] != losses[1])
        assert run.model.spec.dropout == 0.1  # the checkpoint's specification is still the variant's
    assert different == [False, True]


# -- one update --------------------------------------------------------------------------------------------------------


def test_each_parameter_moves_at_its_own_rate(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = student(
        synthetic_dataroot, tmp_path / "run", lr=1e-3, backbone_lr_factor=0.25, scale_lr_factor=8.0, warmup_steps=0,
        weight_decay=0.5,
    )  # fmt: skip
    run._enter(run.phases[0], frozenset())
    run.model.train()
    run.gradients(0)
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    run._update(0)
    scales = {f"{name}.log_scale" for name, module in run.model.named_modules()
              if isinstance(module, (ActivationQuantizer, WeightQuantizer))}  # fmt: skip
    assert len(scales) > 20
    moved = {"scales": 0.0, "backbone": 0.0, "rest": 0.0}
    for name, parameter in run.model.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            continue
        kind = "scales" if name in scales else "backbone" if name.startswith("img_backbone") else "rest"
        decayed = before[name] if kind == "scales" else before[name] * (1 - 0.5 * 1e-3 * RATES[kind])
        moved[kind] = max(moved[kind], float((parameter.detach() - decayed).abs().max()))
    # Adam's first step is as long as the rate, whatever the gradient.
    assert moved == {kind: pytest.approx(1e-3 * factor, rel=0.02) for kind, factor in RATES.items()}


RATES = {"scales": 8.0, "backbone": 0.25, "rest": 1.0}


def gradients_of(run: Trainer) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in run._parameters() if parameter.grad is not None])


def test_gradients_are_clipped(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = trainer(synthetic_dataroot, tmp_path / "run", clip_norm=0.5)
    run.model.train()
    run.gradients(0)
    found = float(gradients_of(run).norm())
    assert found > 1
    assert run._update(0) == pytest.approx(found, rel=1e-4)  # the log has what it was
    assert float(gradients_of(run).norm()) == pytest.approx(0.5, rel=1e-4)


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_computes_in_the_chosen_precision(synthetic_dataroot: Path, tmp_path: Path, precision: str) -> None:
    run = student(synthetic_dataroot, tmp_path / "run", distils=True, precision=precision)
    assert run.teacher is not None
    seen = []
    for model in (run.model, run.teacher):
        model.img_backbone.layer2[0].conv2.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    run._loss(run.data.sample(0), run.phases[-1])
    assert seen == [torch.bfloat16 if precision == "bf16" else torch.float32] * 2  # the teacher's is the student's


def test_half_precision_scales_its_loss(
    synthetic_dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too small for half precision is multiplied first; what then overflows costs a step, and the factor."""
    monkeypatch.setitem(trainer_module._DTYPES, "fp16", torch.bfloat16)  # which a CPU computes in less than a minute
    plain, scaled = (
        trainer(synthetic_dataroot, tmp_path / name, precision=name, dropout=0.0, lr=1e-3) for name in ("bf16", "fp16")
    )
    factor = scaled.scaler.get_scale()
    assert factor > 1
    for run in (plain, scaled):
        run.model.train()
        run.gradients(0)
    torch.testing.assert_close(gradients_of(scaled), factor * gradients_of(plain), rtol=1e-3, atol=1e-3 * factor)
    norms = [run._update(0) for run in (plain, scaled)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    weight = scaled.model.img_neck.fpn_convs[0].conv.weight
    before = weight.detach().clone()
    scaled.gradients(1)
    assert weight.grad is not None
    weight.grad[0] = float("inf")
    scaled._update(1)
    assert torch.equal(weight, before)
    again = trainer(synthetic_dataroot, tmp_path / "again", precision="fp16")
    again.restore(scaled.state())
    assert again.scaler.get_scale() == factor / 2


# -- the teacher -------------------------------------------------------------------------------------------------------


def test_the_teacher_only_looks_on(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = student(synthetic_dataroot, tmp_path / "run", distils=True, steps=2, queue=2)
    teacher = run.teacher
    assert teacher is not None
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    modes: list[bool] = []
    teacher.img_backbone.bn1.register_forward_hook(lambda module, *_: modes.append(module.training))
    run.folder.begin(run.config.to_dict())
    run.run()
    assert modes
    assert not any(modes)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_the_teacher_remembers_what_it_saw_itself(synthetic_dataroot: Path, tmp_path: Path) -> None:
    """Its past BEV is its own, not the student's."""
    run = student(synthetic_dataroot, tmp_path / "run", distils=True, queue=2)
    assert run.teacher is not None
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    head: Any = run.teacher.pts_bbox_head
    bev = head.bev

    def record(features: Any, past: torch.Tensor, *inputs: Any) -> torch.Tensor:
        result: torch.Tensor = bev(features, past, *inputs)
        calls.append((past, result))
        return result

    head.bev = record
    number = next(number for number in range(9) if len(run.data.sample(number).frames) == 2)
    run._loss(run.data.sample(number), run.phases[-1])
    assert len(calls) == 2
    assert not calls[0][0].any()
    assert torch.equal(calls[1][0], calls[0][1])


def test_the_weight_of_the_distillation_counts(synthetic_dataroot: Path, tmp_path: Path) -> None:
    losses = []
    for weight in (0.0, 1e6, 3e6):
        options = {"teacher": build_model(SPEC, seed=1), "distillation": Distillation(weight=weight)}
        run = student(synthetic_dataroot, tmp_path / "run", dropout=0.0, **options)
        loss, parts = run._loss(run.data.sample(0), run.phases[-1])
        losses.append(float(loss.detach()))
        assert math.isclose(losses[-1] - losses[0], parts["distill"], rel_tol=1e-3, abs_tol=1e-5)
    assert losses[1] > losses[0]
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-3)
