"""What the harness costs a frame, and whether memory grows over many frames; on a micro of random weights.

    python benchmarks/bench_overhead.py [--frames N] [--runs N]

Both go through `bench` as a user would run it: the overhead is its section `overhead_us`, the growth its
`memory.host.growth`. Writes benchmarks/results/bench-overhead-cpu.json after a whole run of 10000 frames or more; a
shorter one is printed only.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import record

from qdbev_deploy.bench.measure import Plan
from qdbev_deploy.bench.run import Request, bench
from qdbev_deploy.bench.samples import SampleRequest
from qdbev_deploy.engine import build
from qdbev_deploy.export import export_onnx
from qdbev_deploy.model import build_model

WHOLE_FRAMES = 10_000  # of the memory run; fewer are no such benchmark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=WHOLE_FRAMES, help="of the memory run (default: 10000)")
    parser.add_argument("--runs", type=int, default=5, help="short runs whose overheads are taken (default: 5)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_onnx(build_model("micro", seed=0).eval(), folder / "micro.onnx", verify=False)
        bundle = build(folder / "micro.onnx", folder / "micro.qdbev", precision="fp32", verify=False)
        short = Request(Plan(frames=30, repeats=1, warmup_frames=2), SampleRequest())
        overheads = [bench(bundle, short)["overhead_us"] for _ in range(args.runs)]
        long = Plan(frames=args.frames, repeats=1, warmup_frames=10)
        document = bench(bundle, Request(long, SampleRequest()))
    parts = ("session", "harness", "beyond_step", "decode", "timer")
    results: dict[str, Any] = {
        "overhead_us": {part: round(statistics.median(run[part] for run in overheads), 2) for part in parts},
        "in_measured_frames_us": {
            part: round(statistics.median(run["in_measured_frames"][part] for run in overheads), 2)
            for part in ("rest", "host_prep", "decode")
        },
        "overhead_share_of_p50": statistics.median(run["share_of_p50"] for run in overheads),
        "memory": {
            "variant": "micro, fp32, ONNX Runtime",
            "frames": document["latency_ms"]["summary"]["count"],
            "growth": document["memory"]["host"]["growth"],
            "peak_bytes": document["memory"]["host"]["peak_bytes"],
        },
        "stability": document["stability"],
    }
    print(f"in measured frames: {results['in_measured_frames_us']} us; share of p50 {results['overhead_share_of_p50']}")
    print(f"beyond the engine's step, at least: {results['overhead_us']['beyond_step']} us a frame")
    print(f"memory over {results['memory']['frames']} frames: {results['memory']['growth']}")
    if document["partial"] or results["memory"]["frames"] < WHOLE_FRAMES:
        sys.exit(f"not written: {results['memory']['frames']} frames are not the benchmark's {WHOLE_FRAMES}")
    print(f"written to {record.write('bench-overhead-cpu', results)}")


if __name__ == "__main__":
    main()
