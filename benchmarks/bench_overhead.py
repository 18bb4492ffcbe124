"""What the harness costs a frame, and whether memory grows over many frames; on a micro of random weights.

    python benchmarks/bench_overhead.py [--frames N] [--runs N]

Both go through `bench` as a user would run it: the overhead is its section `overhead_us`, the growth its
`memory.host.growth`. Writes benchmarks/results/bench-overhead-cpu.json.
"""

from __future__ import annotations

import argparse
import statistics
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000, help="of the memory run (default: 10000)")
    parser.add_argument("--runs", type=int, default=5, help="short runs whose overheads are taken (default: 5)")
    parser.add_argument("--keep-partial", action="store_true", help="on Ctrl-C, record the frames that were run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_onnx(build_model("micro", seed=0).eval(), folder / "micro.onnx", verify=False)
        bundle = build(folder / "micro.onnx", folder / "micro.qdbev", precision="fp32", verify=False)
        short = Request(Plan(frames=10, repeats=1, warmup_frames=2), SampleRequest())
        overheads = [bench(bundle, short)["overhead_us"] for _ in range(args.runs)]
        long = Plan(frames=args.frames, repeats=1, warmup_frames=10, keep_partial=args.keep_partial)
        document = bench(bundle, Request(long, SampleRequest()))
    parts = ("session", "harness", "beyond_step", "decode", "timer")
    results: dict[str, Any] = {
        "overhead_us": {part: round(statistics.median(run[part] for run in overheads), 2) for part in parts},
        "overhead_share_of_p50": statistics.median(run["share_of_p50"] for run in overheads),
        "memory": {
            "variant": "micro, fp32, ONNX Runtime",
            "frames": document["latency_ms"]["summary"]["count"],
            "growth": document["memory"]["host"]["growth"],
            "peak_bytes": document["memory"]["host"]["peak_bytes"],
        },
        "stability": document["stability"],
    }
    print(f"beyond the engine's step: {results['overhead_us']['beyond_step']} us a frame")
    print(f"memory over {results['memory']['frames']} frames: {results['memory']['growth']}")
    print(f"written to {record.write('bench-overhead-cpu', results)}")


if __name__ == "__main__":
    main()
