"""Engines on this machine: each file built in each precision, guarded, proved and measured, side by side in one run.

    python benchmarks/engines.py --out benchmarks/results/NAME student.onnx [peer.onnx ...] [--precision int8 fp16 fp32]

Every file becomes a bundle (`qdbev-deploy build`, which fails where an int8 node did not run in int8 or where the
engine and ONNX Runtime differ over a sequence) and is measured by `qdbev-deploy bench`: frame after frame, the same
replayed as a CUDA graph, layer by layer, and as a stream with a deadline. All bundles of a file see the same frames.
Needs no torch. A build that fails is a row that says so. Bundles stay in --work; what is there is not done again, so
that an interrupted run goes on. Writes NAME/engines.json, beside it what `bench` and the guard wrote.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import record
from rich.console import Console
from rich.table import Table

from qdbev_deploy.files import write_json
from qdbev_deploy.graph.files import content_sha256_of, sha256_of
from qdbev_deploy.graph.parts import PARTS, part_of

PERCENTILES = ("p50", "p99", "p99.9")
SEVERAL = "several parts"


def command(console: Console, words: list[str], log: Path) -> tuple[int, float]:
    """(exit status, seconds) of a command of ours; all it says is kept."""
    started = time.perf_counter()
    with console.status(f"{' '.join(words)} ..."), log.open("w", encoding="utf-8") as said:
        done = subprocess.run([sys.executable, "-m", "qdbev_deploy.cli", *words], stdout=said, stderr=subprocess.STDOUT)
    return done.returncode, time.perf_counter() - started


def failure(status: int, log: Path) -> dict[str, Any]:
    """A row in a measurement's place: the exit status and what the command said."""
    lines = log.read_text(encoding="utf-8").splitlines()
    said = [line.strip() for line in lines if line.startswith(("error:", "parity", "  - "))] or lines[-1:]
    return {"failed": status, "says": said[0] if said else ""}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def latency_of(document: dict[str, Any]) -> dict[str, Any]:
    """What may be quoted of a measurement: a percentile of too few samples is None."""
    summary = document["latency_ms"]["summary"]
    return {
        **{name: summary[name]["value"] if summary[name]["enough"] else None for name in PERCENTILES},
        "frames": summary["count"],
        "stable": document["stability"]["stable"],
    }


def parts_of(bundle: Path, document: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of each part; what runs nodes of several parts in one layer is told apart."""
    nodes = {layer["name"]: layer["nodes"] for layer in read(bundle / "layers.json")["layers"]}
    times: dict[str, float] = defaultdict(float)
    for layer in document["layers"]:
        parts = {part_of(name) for name in nodes.get(layer["name"]) or [layer["name"]]}
        times[parts.pop() if len(parts) == 1 else SEVERAL] += layer["time_ms"] or 0.0
    return {part: round(times[part], 4) for part in (*PARTS, SEVERAL) if part in times}


def build(console: Console, file: Path, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    bundle = args.work / f"{file.stem}-{precision}.qdbev"
    seconds = bundle.with_suffix(".seconds")
    if bundle.exists():
        made_from = read(bundle / "manifest.json")["provenance"]["onnx"]["sha256"]
        if made_from != content_sha256_of(file):
            sys.exit(f"{bundle} was made from another {file.name}: remove it, or pass another --work")
    else:
        words = ["build", "--onnx", str(file), f"--{precision}", "-o", str(bundle), "--backend", args.backend,
                 "--frames", str(args.parity_frames)]  # fmt: skip
        if args.tactic_sources:
            words += ["--tactic-sources", args.tactic_sources]
        if args.dataroot:
            words += ["--dataroot", str(args.dataroot)]
        log = args.out / f"{bundle.stem}.build.txt"
        status, took = command(console, words, log)
        if status:
            return failure(status, log)
        seconds.write_text(f"{took:.1f}", encoding="utf-8")
    manifest = read(bundle / "manifest.json")
    shutil.copyfile(bundle / "guard.json", args.out / f"{bundle.stem}.guard.json")
    guard, parity = manifest["precision"], manifest["parity"]
    return {
        "bundle": bundle,
        "build_s": float(seconds.read_text(encoding="utf-8")) if seconds.exists() else None,
        "engine_bytes": (bundle / manifest["engine_file"]).stat().st_size,
        "guard": {name: guard[name] for name in ("passed", "emulated", "asked_int8", "ran_int8")},
        "parity": {name: parity[name] for name in ("passed", "frames", "reference", "box_center_m", "detections")},
        "versions": manifest["versions"],
        "gpu": manifest["gpu"],
    }


def measure(console: Console, file: Path, bundle: Path, args: argparse.Namespace) -> dict[str, Any]:
    samples = args.work / f"{file.stem}.samples"
    scenarios = {
        "single": ["--frames", str(args.frames), "--layers"],
        "single, CUDA graph": ["--frames", str(args.frames), "--cuda-graph", "on"],
        "stream": ["--scenario", "stream", "--frames", str(args.stream_frames), "--rate", str(args.rate)],
    }
    if read(bundle / "manifest.json")["backend"] != "tensorrt":
        del scenarios["single, CUDA graph"]
    found: dict[str, Any] = {}
    for name, words in scenarios.items():
        path = args.out / f"{bundle.stem}.{name.replace(', CUDA graph', '-graph')}.json"
        if not path.exists() or read(path)["bundle"]["manifest_sha256"] != sha256_of(bundle / "manifest.json"):
            frames = ["--samples", str(samples)]
            if not samples.exists():
                frames = ["--save-samples", str(samples), "--distinct", str(args.distinct)]
                frames += ["--dataroot", str(args.dataroot)] if args.dataroot else []
            log = path.with_suffix(".txt")
            status, _ = command(console, ["bench", str(bundle), *words, *frames, "-o", str(path)], log)
            if status:
                found[name] = failure(status, log)
                continue
        document = read(path)
        found[name] = latency_of(document)
        if name == "single":
            found["parts_ms"], found["memory"] = parts_of(bundle, document), document["memory"]
        if document["stream"] is not None:
            found[name] |= {key: document["stream"][key] for key in ("rate_hz", "arrived", "dropped", "misses")}
    return found


def shown(row: dict[str, Any], scenario: str, percentile: str) -> str:
    value = row.get(scenario, {}).get(percentile)
    return f"{value:.3f}" if value is not None else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.onnx")
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder in benchmarks/results, such as h200-2026-11-20"
    )
    parser.add_argument("--work", type=Path, default=Path("engines"), help="bundles and frames (default: ./engines)")
    parser.add_argument("--precision", nargs="+", default=["int8", "fp16", "fp32"], choices=("int8", "fp16", "fp32"))
    parser.add_argument("--backend", default="auto", choices=("auto", "tensorrt", "onnxruntime"))
    parser.add_argument("--tactic-sources", help="as build takes them")
    parser.add_argument("--dataroot", type=Path, help="nuScenes; without it, a synthetic drive is drawn")
    parser.add_argument("--frames", type=int, default=6000, help="of a measurement; p99.9 needs about 5,100")
    parser.add_argument("--stream-frames", type=int, default=600)
    parser.add_argument("--rate", type=float, default=20.0, help="of the stream, frames a second")
    parser.add_argument("--distinct", type=int, default=20, help="frames held in memory, run over and over")
    parser.add_argument("--parity-frames", type=int, default=20)
    args = parser.parse_args()
    if len({file.stem for file in args.files}) < len(args.files):
        sys.exit("two files of one name: rename one, rows are named after their files")
    settings = {
        name: str(value) for name, value in vars(args).items() if name not in ("files", "out", "work", "precision")
    }
    for folder in (args.out, args.work):
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "settings.json"
        if kept.exists() and read(kept) != settings:
            sys.exit(f"{folder} is of a run with other settings ({kept}): pass another --out and --work, or remove it")
        write_json(kept, settings)
    console, rows = Console(), {}
    for file in args.files:
        for precision in args.precision:
            row = build(console, file, precision, args)
            if "bundle" in row:
                row |= measure(console, file, row.pop("bundle"), args)
            rows[f"{file.stem}, {precision}"] = row
            record.write_to(args.out / "engines.json", rows)
    table = Table(title="milliseconds a frame, state on the device", box=None)
    for heading in ("engine", "p50", "p99.9", "graph p50", "stream p99", "built", "parity"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for name, row in rows.items():
        if "failed" in row:
            table.add_row(name, *["–"] * 4, f"exit {row['failed']}", row["says"])
            continue
        table.add_row(
            name, shown(row, "single", "p50"), shown(row, "single", "p99.9"), shown(row, "single, CUDA graph", "p50"),
            shown(row, "stream", "p99"), f"{row['build_s']:.0f} s" if row["build_s"] is not None else "before",
            "holds" if row["parity"]["passed"] else "FAILS",
        )  # fmt: skip
    console.print(table)
    console.print(f"written to {args.out / 'engines.json'}")


if __name__ == "__main__":
    main()
