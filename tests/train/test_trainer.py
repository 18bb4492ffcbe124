"""Training runs: schedule, resume after a kill, several processes, divergence."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qdbev_deploy.cli import main
from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.data.nuscenes import NuScenesSequences
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.model import build_model, save_checkpoint
from qdbev_deploy.quant import load_model, load_recipe, quantise
from qdbev_deploy.quant.quantise import activation_quantizers
from qdbev_deploy.train.config import TrainConfig
from qdbev_deploy.train.dataset import QueueDataset
from qdbev_deploy.train.distill import Distillation
from qdbev_deploy.train.guard import ScaleGuard
from qdbev_deploy.train.processes import World
from qdbev_deploy.train.run_folder import RunFolder
from qdbev_deploy.train.trainer import Trainer, learning_rate, phases

ALONE = World(0, 1, torch.device("cpu"))
SPEC = replace(VARIANTS["micro"], dropout=0.0)


def trainer(dataroot: Path, folder: Path, *, world: World = ALONE, model: Any = None, **options: Any) -> Trainer:
    recipe = options.pop("recipe", None)
    teacher = options.pop("teacher", None)
    config = TrainConfig(**{"steps": 4, "queue": 1, "batch": 1, "warmup_steps": 2, "calibration_frames": 2, **options})
    source = NuScenesSequences(dataroot)
    data = QueueDataset(source, source.scenes(), SPEC, length=config.queue, seed=config.seed)
    model = model or build_model(SPEC, seed=0)
    return Trainer(model, data, config, RunFolder(folder), world, recipe=recipe, teacher=teacher)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


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


def test_learning_rate() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, lr=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 10) == pytest.approx(1.0)
    assert learning_rate(config, 55) == pytest.approx(0.5, abs=0.01)
    assert learning_rate(config, 99) < 0.01


# -- runs --------------------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = trainer(synthetic_dataroot, tmp_path / "run", steps=12, lr=1e-3, warmup_steps=1)
    run.folder.begin(run.config.to_dict())
    # One sample again and again: what cannot be overfitted cannot be learned.
    sample = run.data.sample(0)
    run.data.sample = lambda number: sample  # type: ignore[method-assign]
    run.run()
    losses = [row["loss"] for row in rows(tmp_path / "run")]
    assert len(losses) == 12
    assert losses[-1] < 0.75 * losses[0]
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_a_quantised_run_enables_part_after_part(synthetic_dataroot: Path, tmp_path: Path) -> None:
    recipe = load_recipe("w4a6")
    model, teacher = quantise(build_model(SPEC, seed=0), recipe), build_model(SPEC, seed=0)
    run = trainer(
        synthetic_dataroot, tmp_path / "run", model=model, recipe=recipe, teacher=teacher, steps=5,
        distillation=Distillation(), queue=2,
    )  # fmt: skip
    run.phases = [replace(phase, first_step=index) for index, phase in enumerate(run.phases)]
    run.folder.begin(run.config.to_dict())
    run.run()
    log = rows(tmp_path / "run")
    assert [row["phase"] for row in log] == ["backbone", "neck", "encoder", "decoder", "distill"]
    assert ["distill" in row for row in log] == [False] * 4 + [True]
    assert all(bool(quantizer.scale_is_set) for name, quantizer in activation_quantizers(model).items()
               if not any(f"cls_branches.{i}." in name for i in (0, 1)))  # fmt: skip


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
    run = trainer(synthetic_dataroot, tmp_path / "run", model=build_model("micro", seed=0), dropout=0.0)
    run.model.train()
    sample, phase = run.data.sample(0), run.phases[0]
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(float(run._loss(sample, phase)[0].detach()))
    assert losses[0] == losses[1]
    assert run.model.spec.dropout == 0.1  # the checkpoint's specification is still the variant's


# -- kill and resume ---------------------------------------------------------------------------------------------------


def command(dataroot: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "qdbev_deploy.cli", "train", "--dataroot", str(dataroot), "--out", str(out),
        "--steps", "8", "--batch", "1", "--queue", "2", "--warmup-steps", "2", "--save-every", "2",
        "--query-groups", "2", *more,
    ]  # fmt: skip


def kill_at(arguments: list[str], log: Path, step: int) -> None:
    """Start a run and kill it, without warning, once it has logged that step."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (log.exists() and f'"step": {step},' in log.read_text()):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_run_killed_twice_has_the_same_curve(synthetic_dataroot: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(synthetic_dataroot, whole), check=True, capture_output=True, timeout=200)
    kill_at(command(synthetic_dataroot, killed), killed / "metrics.jsonl", 2)
    kill_at(command(synthetic_dataroot, killed, "--resume"), killed / "metrics.jsonl", 5)
    subprocess.run(command(synthetic_dataroot, killed, "--resume"), check=True, capture_output=True, timeout=200)
    curves = [[(row["step"], row["loss"], row["gradient_norm"]) for row in rows(run)] for run in (whole, killed)]
    assert len(curves[0]) == 8
    assert curves[0] == curves[1]
    ours, theirs = (load_model(run / "model.pt")[0].state_dict() for run in (whole, killed))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_resuming_something_else_is_refused(
    synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(TrainConfig(steps=8, recipe="w4a6", recipe_digest="x").to_dict())
    arguments = ["train", "--dataroot", str(synthetic_dataroot), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--steps", "8", "--resume"]) == ExitCode.BAD_INPUT
    assert "was begun with recipe = 'w4a6', not None" in capsys.readouterr().err
    assert main([*arguments, "--steps", "8"]) == ExitCode.BAD_INPUT
    assert "holds a training run" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "none"), "--resume"]) == ExitCode.BAD_INPUT
    assert "no training run that can be resumed" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_combinations_that_make_no_sense(
    synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "micro.pt", build_model("micro", seed=0))
    save_checkpoint(tmp_path / "other.pt", build_model(SPEC, seed=0))
    base = ["train", "--dataroot", str(synthetic_dataroot), "--out", str(tmp_path / "run")]
    init = ["--init", str(tmp_path / "micro.pt")]
    for more, sentence in (
        (["--recipe", "w4a6"], "--recipe without --init"),
        (["--distill", "vgd"], "--distill without --recipe"),
        ([*init, "--recipe", "w1a1"], "there is no recipe 'w1a1'"),
        ([*init, "--recipe", "w4a6", "--distill", "vgd", "--teacher", str(tmp_path / "other.pt")], "in dropout"),
        (["--init", str(tmp_path)], "holds no state of a training run"),
        (["--init", str(tmp_path), "--recipe", "w4a6"], f"--recipe with --init {tmp_path}, a folder"),
        (["--query-groups", "0"], "query_groups 0"),
        (["--split", "scene-9999"], "scene-9999"),
        (["--variant", "huge"], "unknown variant 'huge'"),
    ):
        assert main([*base, *more]) == ExitCode.BAD_INPUT, more
        captured = capsys.readouterr()
        assert sentence in captured.err
        assert "Traceback" not in captured.err
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_from_anothers_folder(synthetic_dataroot: Path, tmp_path: Path) -> None:
    """It takes the weights and what learned beside them, but begins its own schedule."""
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["train", "--dataroot", str(synthetic_dataroot), "--batch", "1", "--queue", "1", "--query-groups", "2"]
    assert main([*arguments, "--out", str(first), "--steps", "8", "--stop-at", "2"]) == ExitCode.DONE
    assert [row["step"] for row in rows(first)] == [0, 1]
    assert load_model(first / "model.pt")[0].meta["steps"] == 2
    saved_weights = torch.load(first / "model.pt", weights_only=True)["state_dict"]
    assert all(tensor.is_contiguous() for tensor in saved_weights.values())
    saved = RunFolder(first).require_state()
    # A rate of nearly nothing: after a step the weights are still those it began with.
    more = ["--init", str(first), "--out", str(second), "--steps", "1", "--lr", "1e-12", "--freeze-norm-from", "0"]
    assert main([*arguments, *more]) == ExitCode.DONE
    begun = RunFolder(second).require_state()
    assert begun["step"] == 1
    for part in ("model", "helpers"):
        assert saved[part]
        for name, tensor in saved[part].items():
            torch.testing.assert_close(begun[part][name], tensor, msg=name)


def test_a_run_with_other_helpers_is_no_beginning(synthetic_dataroot: Path, tmp_path: Path) -> None:
    one, two = (trainer(synthetic_dataroot, tmp_path / str(groups), query_groups=groups) for groups in (1, 2))
    with pytest.raises(QdbevError, match="other heads or groups of queries"):
        two.begin_from(one.state())


# -- several processes -------------------------------------------------------------------------------------------------

_WORKER = """
import os, sys, torch
from pathlib import Path
sys.path.insert(0, os.getcwd())
from tests.train.test_trainer import trainer
from qdbev_deploy.train.processes import join_world
torch.set_num_threads(1)
world = join_world("cpu")
run = trainer(Path(sys.argv[1]), Path(sys.argv[2]), world=world)
run.model.train()
run.gradients(0)
if world.is_first:
    torch.save({name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}, sys.argv[2])
world.close()
"""


def test_two_processes_have_the_gradients_of_one(synthetic_dataroot: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(synthetic_dataroot), str(tmp_path / "gradients.pt")],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    together = torch.load(tmp_path / "gradients.pt", weights_only=True)
    alone = trainer(synthetic_dataroot, tmp_path / "alone", batch=2)
    alone.model.train()
    alone.gradients(0)
    gradients = {name: p.grad for name, p in alone.model.named_parameters() if p.grad is not None}
    assert set(together) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


# -- divergence --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_the_layer(synthetic_dataroot: Path, tmp_path: Path) -> None:
    run = trainer(synthetic_dataroot, tmp_path / "run")
    run.folder.begin(run.config.to_dict())
    with torch.no_grad():
        run.model.img_neck.fpn_convs[0].conv.bias[0] = float("inf")
    with pytest.raises(QdbevError) as caught:
        run.run()
    assert "diverged at step 0: the loss is nan, first not finite in 'img_neck.fpn_convs.0.conv'" in caught.value.found
    assert caught.value.exit_code == ExitCode.GUARD


def test_a_scale_that_collapses_is_named(synthetic_dataroot: Path, tmp_path: Path) -> None:
    model = quantise(build_model(SPEC, seed=0), load_recipe("w4a6"))
    quantizer = activation_quantizers(model)["img_backbone.stem_tap"]
    quantizer.set_scale(0.1)
    guard = ScaleGuard()
    guard.check(model, 0)
    with torch.no_grad():
        quantizer.log_scale.sub_(8.0)
    with pytest.raises(QdbevError, match=r"the scale of 'img_backbone.stem_tap' moved by"):
        guard.check(model, 1)
    with torch.no_grad():
        quantizer.log_scale.fill_(float("nan"))
    with pytest.raises(QdbevError, match=r"img_backbone.stem_tap"):
        guard.check(model, 2)
