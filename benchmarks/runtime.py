"""The C++ runtime beside the Python session, on the same bundles and frames, by turns.

    python benchmarks/runtime.py student.qdbev [more.qdbev ...] [--program build/runtime/qdbev-stream] [--out FILE.json]

For each bundle, frames of a drive are kept (`qdbev-deploy bench --save-samples`), then both run them again and again,
one after the other in processes of their own: `qdbev-stream` and `qdbev-deploy bench`. A run gives the median, and p99
where it has enough frames; the result has the median of the runs and of the ratio within each pair. TensorRT's bundles
are run with CUDA graphs, too; where the graph takes prepared images, both are also measured from native camera frames.
Boxes of both are compared first, frame by frame. Writes benchmarks/results/runtime-cpu.json, or --out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import record

from qdbev_deploy.bench.samples import read_samples
from qdbev_deploy.boxes import decode
from qdbev_deploy.data.preprocess import preprocess
from qdbev_deploy.engine import Bundle
from qdbev_deploy.machine import libraries_in_packages

STAGES = ("prepare", "decode", "total")  # those that cost nothing to tell apart
P99_FRAMES = 368  # below, p99 has no bound at 95 %


def call(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, env={**libraries_in_packages(), **os.environ})
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def python_bench(bundle: Path, samples: Path, frames: int, out: Path, *words: str) -> dict[str, Any]:
    """A document of `qdbev-deploy bench`."""
    call([sys.executable, "-m", "qdbev_deploy.cli", "bench", str(bundle), "--samples", str(samples), "--frames",
          str(frames), "--repeats", "1", "--warmup", "10", "-o", str(out), *words])  # fmt: skip
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def cpp_stream(program: Path, bundle: Path, samples: Path, repeats: int, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        call([str(program), str(bundle), "--samples", str(samples), "--repeats", str(repeats), "--warmup", "10",
              "--json", "-", *words])
    )  # fmt: skip
    return found


def furthest_boxes(document: dict[str, Any], bundle: Bundle, folder: Path) -> dict[str, Any]:
    """How far the boxes of both are apart, over all frames."""
    image = "uint8" if bundle.inputs[0].dtype == "uint8" else "float32"
    samples = read_samples(folder, bundle.spec, image)
    worst: dict[str, float] = dict.fromkeys(("center", "size", "yaw", "velocity", "score"), 0.0)
    count = 0
    with bundle.session() as session:
        for frame, theirs in zip(samples.frames, document["frames"], strict=True):
            pixels = preprocess(frame.image[0], bundle.spec.preprocess)[None] if samples.native else frame.image
            output = session.step(pixels, frame.lidar2img, frame.ego, frame.scene)
            boxes = decode(output.classes, output.coords, bundle.spec)
            if output.reset_reason != theirs["reset_reason"] or [b["label"] for b in theirs["boxes"]] != list(
                boxes.label
            ):
                sys.exit(f"{bundle.name}: the frame at {frame.ego.timestamp_us} has other resets or labels in C++")
            count += len(boxes)
            for name in worst:
                found = np.float32([box[name] for box in theirs["boxes"]])
                worst[name] = max(worst[name], float(np.abs(found - getattr(boxes, name)).max(initial=0)))
    return {"boxes": count, "frames": len(samples.frames), "largest_difference": worst}


def by_turns(
    program: Path, bundle: Bundle, samples: Path, args: argparse.Namespace, folder: Path, *, graph: bool
) -> dict[str, Any]:
    """Both, one after the other, `runs` times."""
    distinct = len(json.loads((samples / "frames.json").read_text(encoding="utf-8"))["frames"])
    repeats = max(args.frames // distinct, 1)
    words = ["--stages", "off", *(["--cuda-graph", "on"] if graph else [])]
    cpp_runs, python_runs, allocations = [], [], None
    for _ in range(args.runs):
        document = cpp_stream(program, bundle.path, samples, repeats, *(["--cuda-graph"] if graph else []))
        times, told = document["milliseconds"], document["allocations"]
        cpp = {f"{stage}_p50": statistics.median(times[stage]) for stage in STAGES}
        if len(times["total"]) >= P99_FRAMES:
            cpp["total_p99"] = float(np.percentile(times["total"], 99, method="inverted_cdf"))
        cpp_runs.append(cpp)
        if told is not None:
            allocations = {name: round(told[name] / told["frames"], 2) for name in ("thread", "process")}
        bench = python_bench(bundle.path, samples, repeats * distinct, folder / "bench.json", *words)
        summary = bench["latency_ms"]["summary"]
        python_runs.append({"total_p50": summary["p50"]["value"]})
        if summary["p99"]["enough"]:
            python_runs[-1]["total_p99"] = summary["p99"]["value"]
    ratios = [cpp["total_p50"] / python["total_p50"] for cpp, python in zip(cpp_runs, python_runs, strict=True)]
    return {
        "cpp_ms": medians(cpp_runs),
        "python_ms": medians(python_runs),
        "ratio_of_p50": {"median": round(statistics.median(ratios), 4), "least": round(min(ratios), 4),
                         "most": round(max(ratios), 4)},
        "allocations_a_frame": allocations,
        "frames_a_run": repeats * distinct,
        "runs": args.runs,
    }  # fmt: skip


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}


def keep_samples(bundle: Bundle, out: Path, distinct: int, *words: str) -> None:
    call([sys.executable, "-m", "qdbev_deploy.cli", "bench", str(bundle.path), "--frames", "1", "--repeats", "1",
          "--warmup", "0", "--distinct", str(distinct), "--save-samples", str(out), *words])  # fmt: skip


def measured(program: Path, bundle: Bundle, args: argparse.Namespace) -> dict[str, Any]:
    on_gpu, prepares = bundle.backend == "tensorrt", bundle.image != "uint8"
    found: dict[str, Any] = {"backend": bundle.backend, "precision": bundle.precision, "variant": bundle.spec.name}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        forms = {"as the graph takes them": False, **({"native camera frames": True} if prepares else {})}
        for form, native in forms.items():
            samples = folder / ("native" if native else "prepared")
            keep_samples(bundle, samples, args.distinct, *(["--with-preprocess"] if native else []))
            equal = furthest_boxes(cpp_stream(program, bundle.path, samples, 1), bundle, samples)
            rows = {"": False, **({", CUDA graph": True} if on_gpu else {})}
            for suffix, graph in rows.items():
                row = by_turns(program, bundle, samples, args, folder, graph=graph)
                found[form + suffix] = {"boxes": equal, **row}
                print(f"{bundle.name}, {form}{suffix}: C++ {row['cpp_ms']['total_p50']:.2f} ms, Python "
                      f"{row['python_ms']['total_p50']:.2f} ms, ratio {row['ratio_of_p50']['median']:.3f}")  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--program", type=Path, default=Path("build/runtime/qdbev-stream"))
    parser.add_argument("--frames", type=int, default=400, help="of a run (default: 400)")
    parser.add_argument("--distinct", type=int, default=10, help="frames held in memory, run over and over")
    parser.add_argument("--runs", type=int, default=5, help="of each, by turns (default: 5)")
    parser.add_argument("--out", type=Path, default=record.RESULTS / "runtime-cpu.json")
    args = parser.parse_args()
    if not args.program.is_file():
        sys.exit(f"there is no {args.program}: cmake -S runtime -B build/runtime && cmake --build build/runtime")
    results = {bundle.name: measured(args.program, bundle, args) for bundle in map(Bundle.open, args.bundles)}
    print(f"written to {record.write_to(args.out, results)}")


if __name__ == "__main__":
    main()
