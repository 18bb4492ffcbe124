"""What a training step of micro costs on one core of this machine's CPU, as the command line trains it.

    python benchmarks/train.py [--steps N]

Each row is a run of `qdbev-deploy train` on one thread, over a synthetic data set of two scenes whose pictures are in
memory after the first steps; the time is the median of the later ones. Writes benchmarks/results/train-cpu.json.
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

import record
from rich.console import Console
from rich.table import Table

ONE_FRAME = ["--queue", "1", "--batch", "1"]
PLAIN = ["--dense-weight", "0"]
FAST = ["--precision", "bf16", "--dropout", "0", "--freeze-norm-from", "0"]
HELPED = [*FAST, "--query-groups", "2"]
STUDENT = ["--queue", "2", "--batch", "1", "--dense-weight", "0", "--dropout", "0", "--precision", "bf16",
           "--recipe", "w4a6", "--at-once", "--init", "examples/micro/teacher.pt"]  # fmt: skip
# Row of the table -> (arguments of train, further environment).
ROWS: dict[str, tuple[list[str], dict[str, str]]] = {
    "one frame, float32, torch's own attention": ([*ONE_FRAME, *PLAIN], {"CXX": "false"}),
    "one frame, float32, compiled attention": ([*ONE_FRAME, *PLAIN], {}),
    "one frame, bfloat16, frozen norms, no dropout": ([*ONE_FRAME, *PLAIN, *FAST], {}),
    "the same, two query groups and the dense heads": ([*ONE_FRAME, *HELPED], {}),
    "the same, a frame of history as well": (["--queue", "2", "--batch", "1", *HELPED], {}),
    "W4A6 student, a frame of history": (STUDENT, {}),
    "W4A6 student, a frame of history, VGD": ([*STUDENT, "--distill", "vgd"], {}),
}


def train(dataroot: Path, out: Path, arguments: list[str], environment: dict[str, str], steps: int) -> list[float]:
    """Milliseconds of each step; where there is distillation, the last quarter of a run has it."""
    subprocess.run(
        [sys.executable, "-m", "qdbev_deploy.cli", "train", "--dataroot", str(dataroot), "--out", str(out),
         "--split", "mini_train", "--steps", str(steps), "--warmup-steps", "5", "--seed", "0", *arguments],
        check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    queue = int(arguments[arguments.index("--queue") + 1])
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [queue / json.loads(line)["frames_per_s"] * 1e3 for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="of each run; the last fifth of them counts")
    args = parser.parse_args()
    console, table = Console(), Table(title="a training step of micro, one thread", box=None)
    for heading in ("", "median ms", "min ms", "max ms"):
        table.add_column(heading, justify="left" if not heading else "right")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="qdbev-train-") as scratch:
        dataroot = Path(scratch) / "synth"
        subprocess.run(
            [sys.executable, "-m", "qdbev_deploy.cli", "data", "synth", "--out", str(dataroot),
             "--scenes", "2", "--frames", "5", "--sweeps", "none"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for number, (name, (arguments, environment)) in enumerate(ROWS.items()):
            with console.status(f"{name} ..."):
                counted = train(dataroot, Path(scratch) / str(number), arguments, environment, args.steps)
            counted = counted[-max(args.steps // 5, 1) :]
            results[name] = row = {
                "median_ms": round(statistics.median(counted), 1),
                "min_ms": round(min(counted), 1),
                "max_ms": round(max(counted), 1),
                "steps": len(counted),
                "arguments": arguments,
                "environment": environment,
            }
            table.add_row(name, *(f"{row[key]:.0f}" for key in ("median_ms", "min_ms", "max_ms")))
    console.print(table)
    console.print(f"written to {record.write('train-cpu', results)}")


if __name__ == "__main__":
    main()
