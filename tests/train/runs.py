"""What these tests train: a model small enough for a step in a tenth of a second; and processes that may be killed."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qdbev_deploy.cli import main
from qdbev_deploy.contract import NUSCENES_HW, BackboneSpec
from qdbev_deploy.data.nuscenes import NuScenesSequences
from qdbev_deploy.files import atomic_output
from qdbev_deploy.model import build_model, save_checkpoint
from qdbev_deploy.quant import load_recipe, quantise
from qdbev_deploy.train import run_folder
from qdbev_deploy.train.config import TrainConfig
from qdbev_deploy.train.dataset import QueueDataset
from qdbev_deploy.train.distill import Distillation
from qdbev_deploy.train.processes import World
from qdbev_deploy.train.run_folder import RunFolder
from qdbev_deploy.train.trainer import Trainer
from tests.export.students import SHORT

ALONE = World(0, 1, torch.device("cpu"))
# It reads nuScenes' frames, its norms learn, and it has dropout.
SPEC = dataclasses.replace(
    SHORT,
    preprocess=dataclasses.replace(SHORT.preprocess, source_hw=NUSCENES_HW),
    backbone=BackboneSpec("basic", (1, 1, 1, 1), 8, "pytorch", (3,), frozen_stages=0, frozen_norm=False),
    dropout=0.1,
)


def trainer(dataroot: Path, folder: Path, *, world: World = ALONE, model: Any = None, **options: Any) -> Trainer:
    recipe = options.pop("recipe", None)
    teacher = options.pop("teacher", None)
    config = TrainConfig(**{"steps": 4, "queue": 1, "batch": 1, "warmup_steps": 2, "calibration_frames": 2, **options})
    source = NuScenesSequences(dataroot)
    data = QueueDataset(source, source.scenes(), SPEC, length=config.queue, seed=config.seed)
    model = model or build_model(SPEC, seed=0)
    return Trainer(model, data, config, RunFolder(folder), world, recipe=recipe, teacher=teacher)


def student(dataroot: Path, folder: Path, *, distils: bool = False, **options: Any) -> Trainer:
    """A trainer of a student, all parts at once unless `progressive` is said to be True."""
    recipe = load_recipe("w4a6")
    if distils:
        options |= {"teacher": build_model(SPEC, seed=1), "distillation": Distillation(weight=1e5)}
    model = quantise(build_model(SPEC, seed=0), recipe)
    return trainer(dataroot, folder, model=model, recipe=recipe, **{"progressive": False, **options})


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def state(folder: Path) -> dict[str, Any]:
    saved = RunFolder(folder).load_state()
    assert saved is not None
    return saved


def checkpoint(path: Path, seed: int = 0) -> Path:
    save_checkpoint(path, build_model(SPEC, seed=seed))
    return path


# -- processes ---------------------------------------------------------------------------------------------------------


def start(function: Callable[..., None], *arguments: Any) -> Any:
    """Start it in a process of its own, as a copy of one that has everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def command(arguments: list[str], dies: str = "", at_step: int = -1) -> None:
    """The command; killed without warning after it `logged` that step, or half through `saving` the state after it."""
    log, save = RunFolder.log, RunFolder.save_state

    def log_and_die(folder: RunFolder, step: int, row: dict[str, Any]) -> None:
        log(folder, step, row)
        if step == at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    def save_and_die(folder: RunFolder, content: dict[str, Any]) -> None:
        if content["step"] != at_step + 1:
            save(folder, content)
            return
        with atomic_output(folder.path / "state.pt") as partial:
            torch.save(content, partial)
            os.truncate(partial, partial.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    if dies == "logged":
        run_folder.RunFolder.log = log_and_die  # type: ignore[method-assign]
    elif dies == "saving":
        run_folder.RunFolder.save_state = save_and_die  # type: ignore[method-assign]
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        raise SystemExit(main(arguments))
