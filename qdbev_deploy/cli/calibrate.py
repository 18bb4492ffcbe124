"""Quantise a trained float checkpoint without training (PTQ).

Activations are observed over rolled-out sequences: first frames, steady driving, turns. The scales go into a cache,
which is used again for the same weights, recipe and method, and refused for others. With --sensitivity, each part is
quantised alone and the loss it costs is printed and drawn.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from qdbev_deploy.cli.progress import progress_bar
from qdbev_deploy.errors import ExitCode, QdbevError

EPILOG = """\
examples:
  qdbev-deploy calibrate --checkpoint teacher.pt --recipe w8a8 --dataroot data/synth -o ptq.pt
  qdbev-deploy calibrate --checkpoint teacher.pt --recipe w4a6 --dataroot data/synth --method entropy -o ptq.pt
  qdbev-deploy calibrate --checkpoint teacher.pt --recipe w4a6 --dataroot data/synth --sensitivity -o sensitivity.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="trained float checkpoint")
    parser.add_argument("--variant", help="what the checkpoint is, where it does not say so itself")
    parser.add_argument("--recipe", required=True, help="w8a8, w6a6, w4a8, w4a6, or a YAML file")
    parser.add_argument("--dataroot", required=True, help="nuScenes, real or synthetic")
    parser.add_argument("--version", help="data set version, where the root holds several")
    parser.add_argument("--split", help="scenes to calibrate on (default: the training split of the version)")
    parser.add_argument("-o", "--out", required=True, type=Path, help="student checkpoint, or the table as JSON")
    parser.add_argument("--method", default="mse", choices=("minmax", "percentile", "entropy", "mse"))
    parser.add_argument("--percentile", type=float, default=99.99, help="of --method percentile (default: 99.99)")
    parser.add_argument("--frames", type=int, default=64, help="frames to observe (default: 64)")
    parser.add_argument("--cache", type=Path, help="calibration cache to read or to write")
    parser.add_argument("--recalibrate", action="store_true", help="write the cache anew")
    parser.add_argument("--sensitivity", action="store_true", help="quantise one part at a time; also draws NAME.png")


def run(args: argparse.Namespace) -> int:
    if not 0 < args.percentile <= 100:
        raise QdbevError(f"--percentile {args.percentile}", "a number above 0, at most 100", "pass another")
    from qdbev_deploy.data.nuscenes import NuScenesSequences
    from qdbev_deploy.data.splits import training_split
    from qdbev_deploy.model import load_checkpoint
    from qdbev_deploy.model.checkpoint import weights_digest
    from qdbev_deploy.quant import load_recipe, quantise, save_student
    from qdbev_deploy.train.calibration import CalibrationCache, choose_rollouts, observe, scales_of
    from qdbev_deploy.train.sensitivity import ROWS, sensitivity

    recipe = load_recipe(args.recipe)
    model = load_checkpoint(args.checkpoint, args.variant)
    digest = weights_digest(model)
    quantise(model, recipe).eval()
    source = NuScenesSequences(args.dataroot, args.version)
    split = args.split or training_split(source.version)
    rollouts = choose_rollouts(source.scenes(split), args.frames)
    count = sum(map(len, rollouts))
    if args.cache and args.cache.exists() and not args.recalibrate:
        cache = CalibrationCache.load(args.cache, digest, recipe, args.method)
    else:
        with progress_bar("observing", count) as advance:
            histograms = observe(model, rollouts, advance)
        data = f"{count} frames of {len(rollouts)} scenes of {split}, {source.version}"
        scales = scales_of(model, histograms, args.method, args.percentile)
        cache = CalibrationCache(digest, recipe.digest, args.method, data, scales)
        if args.cache:
            cache.save(args.cache)
    cache.apply(model)
    if args.sensitivity:
        with progress_bar("measuring", count * len(ROWS)) as advance:
            table = sensitivity(model, source, rollouts, advance)
        return _report_table(args, recipe.name, table, cache.data)
    save_student(args.out, model, recipe, {"calibration": cache.method, "calibration_data": cache.data})
    if args.json:
        report = {"checkpoint": str(args.out), "recipe": recipe.name, "method": cache.method, "data": cache.data}
        print(json.dumps(report))
    else:
        print(f"{args.out}: {recipe.name}, {len(cache.scales)} activation scales by {cache.method} from {cache.data}")
    return int(ExitCode.DONE)


def _report_table(args: argparse.Namespace, recipe: str, table: dict[str, float], data: str) -> int:
    from qdbev_deploy.files import write_json
    from qdbev_deploy.train.sensitivity import plot

    document = {"recipe": recipe, "method": args.method, "data": data, "loss": table}
    picture = args.out.with_suffix(".png")
    write_json(args.out, document)
    plot(table, f"{recipe}, one part at a time", picture)
    if args.json:
        print(json.dumps(document, indent=2))
        return int(ExitCode.DONE)

    from rich.console import Console
    from rich.table import Table

    rows = Table(title=f"{recipe}, {data}", title_justify="left", box=None)
    rows.add_column("quantised")
    rows.add_column("loss", justify="right")
    rows.add_column("added", justify="right")
    for name, loss in table.items():
        rows.add_row(name, f"{loss:.3f}", f"{loss - table['none']:+.3f}")
    console = Console()
    console.print(rows)
    console.print(f"written to {args.out} and {picture}", highlight=False)
    return int(ExitCode.DONE)
