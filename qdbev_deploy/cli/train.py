"""Train a teacher, or a quantised student of one.

Without --recipe: a float model from scratch or from --init. With --recipe: quantisation-aware training of --init, part
by part (backbone, neck, encoder, decoder) as the recipe's schedule says, and with --distill view-guided distillation
from --teacher (default: --init). A run that was killed goes on with --resume. For several processes use torchrun.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from qdbev_deploy.cli.progress import progress_bar
from qdbev_deploy.errors import ExitCode, QdbevError

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
    parser.add_argument("--variant", default="micro", help="size of a model trained from scratch (default: micro)")
    parser.add_argument("--init", help="checkpoint to begin from, or the folder of a float run to go on from")
    parser.add_argument("--recipe", help="quantise: w4a6, w4a8, w6a6, w8a8, or a YAML file")
    parser.add_argument("--at-once", action="store_true", help="quantise all parts from the first step (standard QAT)")
    parser.add_argument("--distill", choices=("vgd", "cwd-img", "cwd-bev"), help="distil from --teacher at the end")
    parser.add_argument("--teacher", help="float checkpoint (default: --init)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the distillation (default: 1)")
    parser.add_argument("--distill-weight", type=float, default=1.0, help="of the distillation loss (default: 1)")
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


def _config(args: argparse.Namespace, variant: str, recipe: Any) -> Any:
    from qdbev_deploy.train.config import TrainConfig
    from qdbev_deploy.train.distill import Distillation

    return TrainConfig(
        variant=variant,
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
        progressive=not args.at_once,
        distillation=Distillation(args.distill, args.temperature, args.distill_weight) if args.distill else None,
    )


def _check(args: argparse.Namespace) -> None:
    if args.recipe and args.init and Path(args.init).is_dir():
        raise QdbevError(f"--recipe with --init {args.init}, a folder", "the checkpoint of a float model",
                         f"pass --init {args.init}/model.pt")  # fmt: skip
    if args.recipe and not args.init:
        raise QdbevError("--recipe without --init", "a trained float model to quantise", "train one without --recipe")
    if args.distill and not args.recipe:
        raise QdbevError("--distill without --recipe", "a student to distil into", "pass --recipe w4a6")
    if args.at_once and not args.recipe:
        raise QdbevError("--at-once without --recipe", "a recipe whose parts join at once", "pass --recipe w4a6")


def _begin(args: argparse.Namespace) -> tuple[Any, dict[str, Any] | None]:
    """The float model to train and, where --init is a run's folder, that run's state."""
    from qdbev_deploy.model import build_model, load_checkpoint
    from qdbev_deploy.train.run_folder import RunFolder

    if args.init and Path(args.init).is_dir():
        earlier = RunFolder(Path(args.init))
        state = earlier.require_state()
        return build_model(earlier.saved_config()["variant"]), state
    return load_checkpoint(args.init) if args.init else build_model(args.variant, seed=args.seed), None


def run(args: argparse.Namespace) -> int:
    _check(args)
    import torch

    from qdbev_deploy.data.nuscenes import NuScenesSequences
    from qdbev_deploy.data.splits import training_split
    from qdbev_deploy.model import load_checkpoint, save_checkpoint
    from qdbev_deploy.quant import load_recipe, quantise, save_student
    from qdbev_deploy.train.attention import compiled_attention
    from qdbev_deploy.train.dataset import QueueDataset
    from qdbev_deploy.train.distill import require_same_architecture
    from qdbev_deploy.train.processes import join_world
    from qdbev_deploy.train.run_folder import RunFolder
    from qdbev_deploy.train.trainer import Trainer

    recipe = load_recipe(args.recipe) if args.recipe else None
    model, earlier = _begin(args)
    teacher = load_checkpoint(args.teacher or args.init) if args.distill else None
    if teacher is not None:
        require_same_architecture(teacher.spec, model.spec)
    if recipe is not None:
        quantise(model, recipe)
    config = _config(args, model.spec.name, recipe)
    source = NuScenesSequences(args.dataroot, args.version)
    scenes = source.scenes(args.split or training_split(source.version))
    data = QueueDataset(
        source,
        scenes,
        model.spec,
        length=config.queue,
        seed=config.seed,
        mirror=config.mirror,
        cache_gib=args.cache_gib,
    )
    world, folder = join_world(), RunFolder(args.out)
    try:
        if args.resume:
            config.require_same(folder.saved_config(), str(args.out))
        elif world.is_first:
            folder.begin(config.to_dict())
        trainer = Trainer(model, data, config, folder, world, recipe=recipe, teacher=teacher)
        if earlier is not None and not args.resume:
            trainer.begin_from(earlier)
        bar = progress_bar("training", config.steps, shown=world.is_first)
        with compiled_attention(world.device), bar as update:
            trainer.run(
                save_every=args.save_every,
                stop_at=args.stop_at,
                on_step=lambda step, row: update(step, note=_note(row)),
            )
        if world.is_first:
            model.to(memory_format=torch.contiguous_format)  # others read the file than convolutions
            meta = {"steps": trainer.step, "seed": config.seed, "scenes": len(scenes)}
            if recipe is None:
                save_checkpoint(args.out / "model.pt", model, meta)
            else:
                save_student(args.out / "model.pt", model, recipe, meta)
            _report(args, config.to_dict(), trainer.last_row)
    finally:
        world.close()
    return int(ExitCode.DONE)


def _note(row: dict[str, float]) -> str:
    return f"loss {row['loss']:.3f}  {row['frames_per_s']:.1f} frames/s"


def _report(args: argparse.Namespace, config: dict[str, Any], last: dict[str, float]) -> None:
    if args.json:
        print(json.dumps({"checkpoint": str(args.out / "model.pt"), "config": config, "last_step": last}, indent=2))
    else:
        print(f"{args.out / 'model.pt'}: loss {last.get('loss', float('nan')):.3f} at the last step")
