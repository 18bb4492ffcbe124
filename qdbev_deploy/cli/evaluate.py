"""Score detections with the official nuScenes evaluator: NDS, mAP, the five errors, each class.

MODEL is a results file (a nuScenes submission, NAME.json), a checkpoint, or a bundle; a model is first run over the
split. With --streaming, an output counts when it is ready, against the ground truth of that moment: see
docs/evaluation.md for the definition.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdbev_deploy.cli.progress import progress_bar
from qdbev_deploy.errors import ExitCode, QdbevError

if TYPE_CHECKING:
    from qdbev_deploy.data.nuscenes import NuScenesSequences, Scene
    from qdbev_deploy.evaluate.schedule import Latency
    from qdbev_deploy.evaluate.streaming_eval import StreamReport
    from qdbev_deploy.evaluate.submission import Results

_log = logging.getLogger(__name__)

EPILOG = """\
examples:
  qdbev-deploy evaluate results.json --dataroot data/nuscenes --split mini_val
  qdbev-deploy evaluate student.pth --dataroot data/nuscenes --out scores
  qdbev-deploy evaluate student.qdbev --dataroot data/nuscenes --split mini_val
  qdbev-deploy evaluate student.pth --dataroot data/nuscenes --streaming --latency-ms 60
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="results file (.json), checkpoint or bundle")
    parser.add_argument("--dataroot", type=Path, required=True, metavar="DIR", help="nuScenes data root")
    parser.add_argument("--version", metavar="NAME", help="such as v1.0-mini (default: the only one in the data root)")
    parser.add_argument("--split", help="split to score (default: mini_val for a mini version, val for trainval)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write metrics.json and, of a model, its results here")
    streaming = parser.add_argument_group("streaming")
    streaming.add_argument("--streaming", action="store_true", help="also charge for latency, on the 12 Hz stream")
    latency = streaming.add_mutually_exclusive_group()
    latency.add_argument("--latency-ms", type=float, metavar="X", help="every frame takes X milliseconds")
    latency.add_argument(
        "--latency-from", type=Path, metavar="BENCH.json", help="latencies as a benchmark measured them"
    )
    streaming.add_argument("--key-frames", action="store_true", help="the stream is the key frames alone (2 Hz)")


def _latency(args: argparse.Namespace) -> Latency | None:
    from qdbev_deploy.evaluate.schedule import Latency

    asked = args.latency_ms is not None or args.latency_from is not None
    if asked != args.streaming or (args.key_frames and not args.streaming):
        raise QdbevError(
            "--streaming without a latency" if args.streaming else "a streaming option without --streaming",
            "--streaming with --latency-ms X or --latency-from BENCH.json, or none of them",
            "qdbev-deploy evaluate --help",
            exit_code=ExitCode.USAGE,
        )
    if args.latency_from is not None:
        return Latency.from_bench(args.latency_from)
    return None if args.latency_ms is None else Latency.constant(args.latency_ms)


def _is_results_file(model: Path) -> bool:
    return model.suffix.lower() == ".json"


def _results_name(args: argparse.Namespace) -> str:
    return "stream_results.json" if args.streaming else "results.json"


def _check_model(model: Path) -> None:
    """What can be said before a large data set is read."""
    from qdbev_deploy.evaluate.runner import check_model_path

    if not _is_results_file(model):
        check_model_path(model)
    elif not model.exists():
        raise QdbevError(f"there is no {model}", "a results file (.json), a checkpoint or a bundle", "check the path")


def _detect(model_path: Path, scenes: list[Scene]) -> Results:
    from qdbev_deploy.evaluate.runner import detect_scenes, open_model

    count = sum(len(scene.frames) for scene in scenes)
    with open_model(model_path) as model, progress_bar("frames", count) as advance:
        return detect_scenes(model.step, model.spec, scenes, on_frame=advance, image=model.image)


def _stream(
    args: argparse.Namespace, sequences: NuScenesSequences, scenes: list[Scene], split: str, results_path: Path,
    latency: Latency,
) -> StreamReport:  # fmt: skip
    from qdbev_deploy.evaluate.nuscenes_eval import in_order_of_tables, is_custom
    from qdbev_deploy.evaluate.results_file import check_tokens, read_results
    from qdbev_deploy.evaluate.streaming_eval import evaluate_stream

    for scene in scenes:
        if not args.key_frames and all(frame.is_key_frame for frame in scene.frames):
            raise QdbevError(
                f"{scene.name} has no sweeps between its key frames in {args.dataroot}",
                "the 12 Hz stream of every scene of the split",
                "unpack the sweeps archives, choose another --split, or score the 2 Hz stream with --key-frames",
            )
    results = read_results(results_path)
    expected = [frame.token for scene in scenes for frame in scene.frames]
    keys = {frame.token for scene in scenes for frame in scene.frames if frame.is_key_frame}
    if not args.key_frames and keys == set(results):
        raise QdbevError(
            f"{results_path} holds the {len(keys)} key frames of '{split}', none of the sweeps between them",
            f"boxes of all {len(expected)} frames of the 12 Hz stream",
            "evaluate the checkpoint with --streaming, or score the 2 Hz stream with --key-frames",
        )
    check_tokens(results_path, results, expected, f"the stream of the split '{split}'")
    if is_custom(split):
        results = in_order_of_tables(sequences.nusc, scenes, results)
    return evaluate_stream(sequences.nusc, scenes, results, latency)


def _print_stream(report: StreamReport) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"streaming at {report.rate_hz:.1f} Hz; latency: {report.latency}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("offline", "streaming", "offline\n[dim]key frames[/dim]", "streaming\n[dim]key frames[/dim]"):
        table.add_column(heading, justify="right")
    columns = (report.offline, report.streaming, report.offline_at_key_frames, report.streaming_at_key_frames)
    table.add_row("mAP (sAP)", *(f"{scores.map:.4f}" for scores in columns), style="bold")
    table.add_row("NDS", *(f"{scores.nds:.4f}" for scores in columns), style="bold")
    for name in report.offline.errors:
        table.add_row(name, *(f"{scores.errors[name]:.3f}" for scores in columns))
    console = Console()
    console.print(table)
    console.print(
        f"{report.frames} frames, {report.dropped} dropped; {report.scored} moments scored, {report.warm_up} before "
        f"the first output, {report.unannotated} without ground truth\nage of the output on display "
        f"{report.age_ms_mean:.0f} ms on average, {report.age_ms_max:.0f} ms at most"
    )


def run(args: argparse.Namespace) -> int:
    from qdbev_deploy.evaluate.outputs import output_folder

    latency = _latency(args)
    _check_model(args.model)
    written = ["metrics.json"] if _is_results_file(args.model) else ["metrics.json", _results_name(args)]
    if latency is not None:
        _check_latency(args, latency)
    with output_folder(args.out, written):
        return _evaluate(args, latency)


def _check_latency(args: argparse.Namespace, latency: Latency) -> None:
    """A benchmark of another bundle is refused; one that calls itself unstable is used, and said to be."""
    if args.model.is_dir() and latency.bundle is not None:
        from qdbev_deploy.engine import Bundle

        if (here := Bundle.open(args.model).manifest_sha256) != latency.bundle:
            raise QdbevError(
                f"{args.latency_from} measured another bundle (manifest {latency.bundle[:12]}) than {args.model} "
                f"(manifest {here[:12]})",
                "latencies of the bundle whose boxes are scored",
                f"qdbev-deploy bench {args.model} -o BENCH.json, or pass --latency-ms X",
            )
    if latency.unstable:
        _log.warning(
            "%s calls its run unstable: %s. The streaming scores rest on it all the same, and metrics.json says so",
            args.latency_from, "; ".join(latency.unstable),
        )  # fmt: skip


def _evaluate(args: argparse.Namespace, latency: Latency | None) -> int:
    from qdbev_deploy.data.nuscenes import NuScenesSequences
    from qdbev_deploy.evaluate.nuscenes_eval import choose_split, official_scores
    from qdbev_deploy.evaluate.submission import write_submission
    from qdbev_deploy.files import write_json

    sequences = NuScenesSequences(args.dataroot, args.version)
    split = choose_split(sequences.version, sequences.dataroot / sequences.version, args.split)
    report: dict[str, Any] = {
        "model": str(args.model), "version": sequences.version, "split": split, "ego_motion": sequences.can_bus_source,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="qdbev-evaluate-") as scratch:
        results_path: Path = args.model
        scenes = sequences.scenes(split, key_frames_only=args.key_frames or not args.streaming)
        if not _is_results_file(args.model):
            results = _detect(args.model, scenes)
            results_path = Path(scratch) / "results.json"
            if args.out is not None:
                results_path = args.out / _results_name(args)
                report["results"] = str(results_path)
            write_submission(results_path, results)
        if latency is None:
            scores = official_scores(sequences.nusc, results_path, split)
            report["scores"] = scores.to_dict()
        else:
            stream = _stream(args, sequences, scenes, split, results_path, latency)
            scores = stream.streaming
            report["streaming"] = stream.to_dict()
            if args.latency_from is not None:
                report["streaming"]["latency_is_unstable"] = list(latency.unstable)
                report["streaming"]["latency_of_manifest"] = latency.bundle
    if args.out is not None:
        write_json(args.out / "metrics.json", report)
    if args.json:
        print(json.dumps(report))
        return int(ExitCode.DONE)

    from rich.console import Console

    from qdbev_deploy.evaluate.scores import class_table

    title = f"{args.model.name} on {split} of {sequences.version}"
    Console().print(class_table(scores, title, f"ego motion: {sequences.can_bus_source}"))
    if latency is not None:
        _print_stream(stream)
    return int(ExitCode.DONE)
