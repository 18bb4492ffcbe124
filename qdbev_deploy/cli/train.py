"""Train a teacher, or a quantised student of one.

Without --recipe: a float model from scratch or from --init. With --recipe: quantisation-aware training of --init, part
by part (backbone, neck, encoder, decoder) as the recipe's schedule says, and with --distill view-guided distillation
from --teacher (default: --init). A run that was killed goes on with --resume. For several processes use torchrun.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdbev_deploy.cli.progress import progress_bar
from qdbev_deploy.errors import ExitCode, QdbevError

if TYPE_CHECKING:
    from qdbev_deploy.calibration.recipe import Recipe
    from qdbev_deploy.data.nuscenes import NuScenesSequences, Scene
    from qdbev_deploy.model import BEVFormer
    from qdbev_deploy.train.config import TrainConfig
    from qdbev_deploy.train.processes import World
    from qdbev_deploy.train.run_folder import RunFolder
    from qdbev_deploy.train.trainer import Trainer

EPILOG = """\
examples:
  qdbev-deploy train --dataroot data/synth --out runs/teacher
  qdbev-deploy train --dataroot data/synth --init runs/teacher/model.pt --recipe w4a6 --distill vgd --out runs/student
  torchrun --nproc-per-node 4 -m qdbev_deploy.cli train --dataroot data/nuscenes --variant tiny --out runs/tiny
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataroot", required=True, help="nuScenes, real or synthetic")
    parser.add_argument("--version", help="data set version, where the root holds several")
    parser.add_argument("--split", help="scenes to train on (default: the training split of the version)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--variant", help="size of a model trained from scratch (default: micro)")
    parser.add_argument("--init", help="checkpoint to begin from, or the folder of a float run to go on from")
    parser.add_argument("--recipe", help="quantise: w4a6, w4a8, w6a6, w8a8, or a YAML file")
    parser.add_argument("--at-once", action="store_true", help="quantise all parts from the first step (standard QAT)")
    parser.add_argument("--distill", choices=("vgd", "cwd-img", "cwd-bev"), help="distil from --teacher at the end")
    parser.add_argument("--teacher", help="float checkpoint (default: --init)")
    parser.add_argument("--temperature", type=float, help="of the distillation (default: 1)")
    parser.add_argument("--distill-weight", type=float, help="of the distillation loss (default: 1)")
    sizes = parser.add_argument_group("schedule")
    sizes.add_argument("--steps", type=int, default=10_000)
    sizes.add_argument("--stop-at", type=int, metavar="STEP", help="end here, before the schedule of --steps does")
    sizes.add_argument("--batch", type=int, default=2, help="samples a step and process (default: 2)")
    sizes.add_argument("--queue", type=int, default=3, help="frames a sample (default: 3)")
    sizes.add_argument("--lr", type=float, default=4e-4)
    sizes.add_argument("--warmup-steps", type=int, default=200)
    sizes.add_argument("--backbone-lr-factor", type=float, default=1.0, help="0.1 where the backbone is pretrained")
    sizes.add_argument("--dense-weight", type=float, default=1.0, help="of the auxiliary BEV heads (default: 1)")
    sizes.add_argument("--query-groups", type=int, default=1, help="groups of object queries in training (default: 1)")
    sizes.add_argument("--dropout", type=float, help="in training (default: the variant's)")
    sizes.add_argument("--freeze-norm-from", type=int, metavar="STEP",
                       help="from this step on batch norms keep their statistics (default: never)")  # fmt: skip
    sizes.add_argument("--no-mirror", action="store_true", help="no mirrored samples")
    sizes.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"), help="of autocast")
    sizes.add_argument("--seed", type=int, default=0)
    sizes.add_argument("--save-every", type=int, default=200, help="steps between saved states (default: 200)")
    sizes.add_argument("--cache-gib", type=float, default=4.0, help="memory for preprocessed images (default: 4)")


def _config(args: argparse.Namespace, recipe: Recipe | None) -> TrainConfig:
    """What the options and the recipe say; a value out of range is refused here."""
    from qdbev_deploy.train.config import TrainConfig
    from qdbev_deploy.train.distill import Distillation

    distillation = None
    if args.distill:
        given = {"temperature": args.temperature, "weight": args.distill_weight}
        distillation = Distillation(args.distill, **{key: value for key, value in given.items() if value is not None})
    return TrainConfig(
        steps=args.steps,
        queue=args.queue,
        batch=args.batch,
        lr=args.lr,
        backbone_lr_factor=args.backbone_lr_factor,
        warmup_steps=args.warmup_steps,
        dense_weight=args.dense_weight,
        query_groups=args.query_groups,
        dropout=args.dropout,
        freeze_norm_from=args.freeze_norm_from,
        mirror=not args.no_mirror,
        precision=args.precision,
        seed=args.seed,
        recipe=recipe.name if recipe else None,
        recipe_digest=recipe.digest if recipe else None,
        schedule={str(stage): share for stage, share in recipe.schedule} if recipe else None,
        progressive=not args.at_once,
        distillation=distillation,
    )


def _check(args: argparse.Namespace) -> None:
    """Options that do not fit together, or would be ignored; and values that the run's configuration does not hold."""

    def refuse(found: str, needed: str, next_step: str) -> QdbevError:
        return QdbevError(found, needed, next_step, exit_code=ExitCode.USAGE)

    if args.recipe and args.init and Path(args.init).is_dir():
        raise refuse(f"--recipe with --init {args.init}, a folder", "the checkpoint of a float model",
                     f"pass --init {args.init}/model.pt")  # fmt: skip
    if args.recipe and not args.init:
        raise refuse("--recipe without --init", "a trained float model to quantise", "train one without --recipe")
    if args.recipe and args.freeze_norm_from is not None:
        raise refuse("--freeze-norm-from with --recipe", "a float model, which has batch norms: they are folded here",
                     "leave out --freeze-norm-from")  # fmt: skip
    if args.distill and not args.recipe:
        raise refuse("--distill without --recipe", "a student to distil into", "pass --recipe w4a6")
    if args.at_once and not args.recipe:
        raise refuse("--at-once without --recipe", "a recipe whose parts join at once", "pass --recipe w4a6")
    for option in ("teacher", "temperature", "distill_weight"):
        if getattr(args, option) is not None and not args.distill:
            raise refuse(f"--{option.replace('_', '-')} without --distill", "a method of distillation",
                         "pass --distill vgd")  # fmt: skip
    for option in ("save_every", "stop_at"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            name = f"--{option.replace('_', '-')}"
            raise QdbevError(f"{name} {getattr(args, option)}", "at least 1", f"pass another {name}")
    if not 0 <= args.cache_gib < math.inf:
        raise QdbevError(f"--cache-gib {args.cache_gib}", "a finite number, at least 0", "pass another --cache-gib")


def _begin(args: argparse.Namespace) -> tuple[BEVFormer, dict[str, Any] | None]:
    """The float model to train and, where --init is a run's folder, that run's state."""
    from qdbev_deploy.contract import variant
    from qdbev_deploy.model import build_model, load_checkpoint
    from qdbev_deploy.train.run_folder import RunFolder

    if not args.init:
        return build_model(args.variant or "micro", seed=args.seed), None
    if Path(args.init).is_dir():
        model, state = _from_folder(RunFolder(Path(args.init)))
    else:
        model, state = load_checkpoint(args.init), None
    if args.variant and variant(args.variant).name != model.spec.name:
        raise QdbevError(f"--variant {args.variant} with --init {args.init}, a '{model.spec.name}'",
                         "one of them, or both of the same variant", "leave out --variant",
                         exit_code=ExitCode.USAGE)  # fmt: skip
    return model, state


def _from_folder(folder: RunFolder) -> tuple[BEVFormer, dict[str, Any]]:
    """A model with the weights of a float run's last state."""
    from qdbev_deploy.model import build_model
    from qdbev_deploy.model.checkpoint import expected_tensors, load_known, misfit, mismatch, require_finite

    state, config = folder.require_state(), folder.saved_config()
    if config.get("recipe") is not None:
        raise QdbevError(
            f"{folder.path} holds a run quantised by '{config['recipe']}'", "the folder of a float run",
            "pass the float checkpoint that it began from as --init",
        )  # fmt: skip
    model = build_model(str(config.get("variant")))
    expected, path = expected_tensors(model.spec), folder.path / "state.pt"
    count, first = mismatch(expected, state["model"])
    if count:
        raise misfit(path, f"variant '{model.spec.name}'", count, first, "pass a checkpoint as --init")
    require_finite(path, state["model"], expected)
    load_known(model, state["model"])
    return model, state


def run(args: argparse.Namespace) -> int:
    _check(args)
    from qdbev_deploy.train.processes import join_world
    from qdbev_deploy.train.run_folder import RunFolder

    world = join_world()
    try:
        _train(args, world, RunFolder(args.out))
    finally:
        world.close()
    return int(ExitCode.DONE)


def _train(args: argparse.Namespace, world: World, folder: RunFolder) -> None:
    from qdbev_deploy.quant import load_recipe, quantise
    from qdbev_deploy.train.attention import compiled_attention
    from qdbev_deploy.train.config import frames_digest
    from qdbev_deploy.train.dataset import QueueDataset
    from qdbev_deploy.train.trainer import Trainer, phases

    recipe = load_recipe(args.recipe) if args.recipe else None
    config = replace(_config(args, recipe), processes=world.size)
    phases(config, recipe)  # a schedule that makes no student is refused before anything is read
    saved = folder.saved_config() if args.resume else None
    if saved is None and world.is_first:
        folder.require_new()
    model, earlier = _begin(args)
    config, teacher = _beginnings(args, config, model)
    source, split, scenes = _data(args, config.queue)
    config = replace(config, data_version=source.version, split=split, frames_digest=frames_digest(scenes))
    if recipe is not None:
        quantise(model, recipe)
    data = QueueDataset(
        source,
        scenes,
        model.spec,
        length=config.queue,
        seed=config.seed,
        mirror=config.mirror,
        cache_gib=args.cache_gib,
    )
    trainer = Trainer(model, data, config, folder, world, recipe=recipe, teacher=teacher)
    if saved is not None:
        config.require_same(saved, str(args.out))
    if earlier is not None and not folder.has_state:
        trainer.begin_from(earlier)
    if saved is None and world.is_first:  # now that nothing is left to refuse
        folder.begin(config.to_dict())
    bar = progress_bar("training", config.steps, shown=world.is_first)
    with compiled_attention(world.device), bar as update:
        trainer.run(
            save_every=args.save_every,
            stop_at=args.stop_at,
            on_step=lambda step, row: update(step, note=_note(row)),
        )
    if world.is_first:
        _report(args, trainer, _save(args.out / "model.pt", trainer, recipe, len(scenes)))


def _beginnings(
    args: argparse.Namespace, config: TrainConfig, model: BEVFormer
) -> tuple[TrainConfig, BEVFormer | None]:
    """The teacher, if there is one, and the configuration that knows the weights both begin with."""
    from qdbev_deploy.model import load_checkpoint
    from qdbev_deploy.model.checkpoint import weights_digest
    from qdbev_deploy.train.distill import require_same_architecture

    teacher = load_checkpoint(args.teacher or args.init) if args.distill else None
    if teacher is not None:
        require_same_architecture(teacher.spec, model.spec)
    return (
        replace(
            config,
            variant=model.spec.name,
            init_digest=weights_digest(model) if args.init else None,
            teacher_digest=weights_digest(teacher) if teacher else None,
        ),
        teacher,
    )


def _data(args: argparse.Namespace, queue: int) -> tuple[NuScenesSequences, str, list[Scene]]:
    """The data set, the split to train on, and its scenes."""
    from qdbev_deploy.data.nuscenes import NuScenesSequences
    from qdbev_deploy.data.splits import training_split

    source = NuScenesSequences(args.dataroot, args.version)
    split = args.split or training_split(source.version)
    scenes = source.scenes(split)
    longest = max((len(scene.frames) for scene in scenes), default=queue)
    if queue > longest:
        raise QdbevError(f"--queue {queue} where the longest scene has {longest} frames",
                         "queues that fit into a scene", f"pass --queue {longest} or less")  # fmt: skip
    return source, split, scenes


def _save(path: Path, trainer: Trainer, recipe: Recipe | None, scenes: int) -> Path | None:
    """The checkpoint; None where the run was stopped before it had made a student."""
    import torch

    from qdbev_deploy.model import save_checkpoint
    from qdbev_deploy.quant import save_student

    if not trainer.is_whole:
        return None
    trainer.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # others read it, too
    meta = {"steps": trainer.step, "seed": trainer.config.seed, "scenes": scenes}
    if recipe is None:
        save_checkpoint(path, trainer.model, meta)
    else:
        save_student(path, trainer.model, recipe, meta)
    return path


def _note(row: dict[str, float]) -> str:
    return f"loss {row['loss']:.3f}  {row['frames_per_s']:.1f} frames/s"


def _report(args: argparse.Namespace, trainer: Trainer, checkpoint: Path | None) -> None:
    last = trainer.last_row
    if args.json:
        document = {
            "checkpoint": str(checkpoint) if checkpoint else None, "config": trainer.config.to_dict(),
            "steps": trainer.step, "last_step": last,
        }  # fmt: skip
        print(json.dumps(document, indent=2))
    elif checkpoint is None:
        print(f"{args.out}: stopped at step {trainer.step}, before every part had joined: no student yet, "
              "and no model.pt. --resume goes on from state.pt")  # fmt: skip
    else:
        loss = f"loss {last['loss']:.3f} at the last step" if last else "no step was logged"
        print(f"{checkpoint}: {loss}")
