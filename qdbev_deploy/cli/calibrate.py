"""Quantise a trained float model without training (PTQ): a checkpoint, or any ONNX file of the streaming contract.

Activations are observed over rolled-out sequences: first frames, steady driving, turns. The scales go into a cache,
which is used again, without data, for the same weights, recipe and method, and refused for others. With --onnx nothing
needs torch: the file runs in ONNX Runtime, and Q/DQ are inserted where the exporter places them. With --sensitivity,
each part of a checkpoint is quantised alone and the loss it costs is printed and drawn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdbev_deploy.cli.progress import progress_bar
from qdbev_deploy.errors import ExitCode, QdbevError

if TYPE_CHECKING:
    from qdbev_deploy.calibration.cache import CalibrationCache
    from qdbev_deploy.data.nuscenes import Frame, NuScenesSequences

EPILOG = """\
examples:
  qdbev-deploy calibrate --checkpoint teacher.pt --recipe w8a8 --dataroot data/synth -o ptq.pt
  qdbev-deploy calibrate --checkpoint teacher.pt --recipe w4a6 --dataroot data/synth --method entropy -o ptq.pt
  qdbev-deploy calibrate --checkpoint teacher.pt --recipe w4a6 --dataroot data/synth --sensitivity -o sensitivity.json
  qdbev-deploy calibrate --onnx float.onnx --recipe w8a8 --dataroot /data/nuscenes -o int8.onnx --cache int8.json
"""
DEFAULT_PERCENTILE = 99.99
DEFAULT_FRAMES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="trained float checkpoint; needs torch")
    source.add_argument("--onnx", type=Path, help="float ONNX file with the contract's inputs; needs no torch")
    parser.add_argument("--variant", help="what the model is, where its file does not say so itself")
    parser.add_argument("--recipe", required=True, help="w8a8, w6a6, w4a8, w4a6, or a YAML file")
    parser.add_argument("--dataroot", type=Path, help="nuScenes, real or synthetic; a cache that fits needs none")
    parser.add_argument("--version", help="data set version, where the root holds several")
    parser.add_argument("--split", help="scenes to calibrate on (default: the training split of the version)")
    parser.add_argument(
        "-o", "--out", required=True, type=Path, help="student checkpoint, quantised ONNX file, or the table as JSON"
    )
    parser.add_argument("--method", default="mse", choices=("minmax", "percentile", "entropy", "mse"))
    parser.add_argument("--percentile", type=float, help="of --method percentile (default: 99.99)")
    parser.add_argument("--frames", type=int, help=f"frames to observe (default: {DEFAULT_FRAMES})")
    parser.add_argument("--cache", type=Path, help="calibration cache to read or to write")
    parser.add_argument("--recalibrate", action="store_true", help="write the cache anew")
    parser.add_argument("--sensitivity", action="store_true", help="quantise one part at a time; also draws NAME.png")


def run(args: argparse.Namespace) -> int:
    _require_usable(args)
    if args.onnx is not None:
        return _quantise_onnx(args)
    return _quantise_checkpoint(args)


def _require_usable(args: argparse.Namespace) -> None:
    """Refuse what cannot end well before anything takes time."""
    from qdbev_deploy.evaluate.outputs import check_output_file

    if args.percentile is not None and args.method != "percentile":
        raise QdbevError(
            f"--percentile with --method {args.method}", "--method percentile, which alone has one",
            "pass --method percentile, or leave --percentile out", exit_code=ExitCode.USAGE,
        )  # fmt: skip
    if args.method == "percentile" and args.percentile is None:
        args.percentile = DEFAULT_PERCENTILE
    if args.percentile is not None and not 0 < args.percentile <= 100:
        raise QdbevError(f"--percentile {args.percentile}", "a number above 0, at most 100", "pass another")
    if args.recalibrate and args.cache is None:
        raise QdbevError(
            "--recalibrate without --cache", "the cache that is to be written anew", "pass --cache FILE",
            exit_code=ExitCode.USAGE,
        )  # fmt: skip
    needs_data = args.sensitivity or not _has_cache(args)
    if needs_data and args.dataroot is not None and not args.dataroot.is_dir():
        raise QdbevError(f"there is no folder {args.dataroot}", "the root of a nuScenes data set", "check --dataroot")
    if needs_data and args.dataroot is None:
        raise QdbevError(
            "no --dataroot, and no calibration cache that says the scales", "frames to observe",
            "pass --dataroot, or --cache with a file that an earlier run wrote", exit_code=ExitCode.USAGE,
        )  # fmt: skip
    outputs = {"-o": args.out, "--cache": args.cache}
    if args.sensitivity:
        outputs["the picture of -o"] = _picture(args)
    recipe = args.recipe if Path(args.recipe).is_file() else None  # else it is a name
    inputs = {"--checkpoint": args.checkpoint, "--onnx": args.onnx, "--recipe": recipe}
    if args.onnx is not None and args.out.suffix != ".onnx":
        raise QdbevError(f"-o {args.out} with --onnx {args.onnx}", "the name of an ONNX file", "pass -o int8.onnx")
    taken = {option: Path(path) for option, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        for other, already in taken.items():
            if _is_same_file(path, already):
                raise QdbevError(
                    f"{option} {path} is the file of {other} {already}", "a name of its own for each",
                    f"pass another {option.split()[-1]}",
                )  # fmt: skip
        check_output_file(path, option.split()[-1])
        taken[option] = path


def _is_same_file(one: Path, other: Path) -> bool:
    """Whether both names lead to one file, through links too, or will once it is written."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def _picture(args: argparse.Namespace) -> Path:
    path: Path = args.out.with_suffix(".png")
    return path


def _has_cache(args: argparse.Namespace) -> bool:
    return args.cache is not None and args.cache.exists() and not args.recalibrate


class _Drives:
    """The frames to calibrate on, found when they are first asked for: a cache that fits needs none."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.asked: int = DEFAULT_FRAMES if args.frames is None else args.frames
        self._found: tuple[NuScenesSequences, list[tuple[Frame, ...]], str] | None = None

    def _open(self) -> tuple[NuScenesSequences, list[tuple[Frame, ...]], str]:
        """(the data set, its rollouts, the split they are of)"""
        if self._found is None:
            from qdbev_deploy.calibration.rollouts import choose_rollouts
            from qdbev_deploy.data.nuscenes import NuScenesSequences
            from qdbev_deploy.data.splits import training_split

            source = NuScenesSequences(self._args.dataroot, self._args.version)
            split = self._args.split or training_split(source.version)
            rollouts = choose_rollouts(source.scenes(split), self.asked)
            self._found = source, rollouts, split
        return self._found

    @property
    def source(self) -> NuScenesSequences:
        return self._open()[0]

    @property
    def rollouts(self) -> list[tuple[Frame, ...]]:
        return self._open()[1]

    @property
    def frames(self) -> int:
        return sum(map(len, self.rollouts))

    @property
    def split(self) -> str:
        return self._open()[2]

    @property
    def said(self) -> str:
        return f"{self.frames} frames of {len(self.rollouts)} scenes of {self.split}, {self.source.version}"


# (rollouts, what to call after each frame) -> scale of each activation
_Observer = Callable[[Sequence[Sequence["Frame"]], Callable[[], object]], dict[str, float]]


def _cache(
    args: argparse.Namespace, digest: str, recipe: Any, drives: _Drives, observer: _Observer, passes: int = 1
) -> CalibrationCache:
    """The scales from a cache that fits, or from frames; then they are cached."""
    from qdbev_deploy.calibration.cache import CalibrationCache

    if _has_cache(args):
        return CalibrationCache.load(
            args.cache, digest, recipe, args.method, args.percentile,
            frames=args.frames, split=args.split, version_of_data=args.version,
        )  # fmt: skip
    with progress_bar("observing", drives.frames * passes) as advance:
        scales = observer(drives.rollouts, advance)
    cache = CalibrationCache(
        digest, recipe.digest, args.method, args.percentile, drives.said, drives.asked, drives.split,
        drives.source.version, scales,
    )  # fmt: skip
    if args.cache:
        cache.save(args.cache)
    return cache


def _quantise_checkpoint(args: argparse.Namespace) -> int:
    from qdbev_deploy.calibration import load_recipe
    from qdbev_deploy.model import load_checkpoint
    from qdbev_deploy.model.checkpoint import weights_digest
    from qdbev_deploy.quant import quantise, save_student
    from qdbev_deploy.train.calibration import apply_scales, observe, scales_of
    from qdbev_deploy.train.sensitivity import ROWS, sensitivity

    recipe = load_recipe(args.recipe)
    model = load_checkpoint(args.checkpoint, args.variant)
    digest = weights_digest(model)
    quantise(model, recipe).eval()
    drives = _Drives(args)

    def observer(rollouts: Sequence[Sequence[Frame]], on_frame: Callable[[], object]) -> dict[str, float]:
        return scales_of(model, observe(model, rollouts, on_frame), args.method, args.percentile or DEFAULT_PERCENTILE)

    cache = _cache(args, digest, recipe, drives, observer)
    apply_scales(cache, model)
    if args.sensitivity:
        with progress_bar("measuring", drives.frames * len(ROWS)) as advance:
            table = sensitivity(model, drives.source, drives.rollouts, advance)
        return _report_table(args, recipe.name, table, cache.data)
    save_student(args.out, model, recipe, {"calibration": cache.method, "calibration_data": cache.data})
    if args.json:
        report = {"checkpoint": str(args.out), "recipe": recipe.name, "method": cache.method, "data": cache.data}
        print(json.dumps(report))
    else:
        print(f"{args.out}: {recipe.name}, {len(cache.scales)} activation scales by {cache.method} from {cache.data}")
    return int(ExitCode.DONE)


def _quantise_onnx(args: argparse.Namespace) -> int:
    from qdbev_deploy.calibration import load_recipe
    from qdbev_deploy.graph.files import write_onnx
    from qdbev_deploy.ptq import FloatFile

    if args.sensitivity:
        raise QdbevError(
            "--sensitivity with --onnx", "--checkpoint: the loss is computed in torch", "pass --checkpoint, or leave it"
        )
    recipe = load_recipe(args.recipe)
    file = FloatFile.open(args.onnx, recipe, args.variant)

    def observer(rollouts: Sequence[Sequence[Frame]], on_frame: Callable[[], object]) -> dict[str, float]:
        return file.scales(file.observe(rollouts, on_frame), args.method, args.percentile or DEFAULT_PERCENTILE)

    cache = _cache(args, file.sha256, recipe, _Drives(args), observer, len(file.groups))
    cache.require(file.names())
    model = file.quantised(cache.scales, {"calibration": cache.method, "calibration_data": cache.data})
    write_onnx(model, args.out)
    report = {
        "file": str(args.out),
        "recipe": recipe.name,
        "method": cache.method,
        "data": cache.data,
        "weights": len(file.weights()),
        "activations": len(cache.scales),
        "file_bytes": args.out.stat().st_size,
        "notes": file.notes,
    }
    if args.json:
        print(json.dumps(report))
        return int(ExitCode.DONE)
    print(
        f"{args.out}: {recipe.name}, {report['weights']} weights and {report['activations']} activations as integers, "
        f"{args.out.stat().st_size / 1e6:.1f} MB\nscales by {cache.method} from {cache.data}"
    )
    for note in file.notes:
        print(f"note: {note}")
    print(f"next: qdbev-deploy check {args.out} --target trt10.3")
    return int(ExitCode.DONE)


def _report_table(args: argparse.Namespace, recipe: str, table: dict[str, float], data: str) -> int:
    from qdbev_deploy.files import write_json
    from qdbev_deploy.train.sensitivity import plot

    document = {"recipe": recipe, "method": args.method, "data": data, "loss": table}
    picture = _picture(args)
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
