"""The shape of QD-BEV's tables on synthetic data: post-training, standard and progressive QAT, and three distillations.

    python benchmarks/qat_ablation.py --dataroot data/synth --teacher runs/teacher/model.pt --steps 3000 --seeds 0 1

Every row is trained (or calibrated) by the command line as a user would, then scored by the official evaluator on the
validation split. Rows that are there already are kept, so an interrupted run goes on. Writes
benchmarks/results/qat-ablation.json and qat-ablation.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import record
from rich.console import Console
from rich.table import Table

# Row of the table -> how it is made from the teacher.
TRAINED = {
    "W4A6 standard QAT": ["--recipe", "w4a6", "--at-once"],
    "W4A6 progressive QAT": ["--recipe", "w4a6"],
    "W4A6 progressive + cwd-img": ["--recipe", "w4a6", "--distill", "cwd-img"],
    "W4A6 progressive + cwd-bev": ["--recipe", "w4a6", "--distill", "cwd-bev"],
    "W4A6 progressive + VGD": ["--recipe", "w4a6", "--distill", "vgd"],
}
CALIBRATED = {"W8A8 PTQ": "w8a8", "W6A6 PTQ": "w6a6", "W4A6 PTQ": "w4a6"}


def qdbev(*arguments: str) -> None:
    """Run the command line; its bars stay visible."""
    subprocess.run([sys.executable, "-m", "qdbev_deploy.cli", *arguments], check=True, stdout=subprocess.DEVNULL)


def score(model: Path, dataroot: str, out: Path) -> dict[str, float]:
    if not (out / "metrics.json").exists():
        qdbev("evaluate", str(model), "--dataroot", dataroot, "--out", str(out))
    scores = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["scores"]
    return {"nds": scores["nds"], "map": scores["map"]}


def make_row(name: str, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Train or calibrate one row with one seed, unless that was done before, and score it."""
    folder = args.work / f"{name.replace(' ', '-').replace('+', 'and')}-seed{seed}"
    model = folder / "model.pt"
    if name in CALIBRATED:
        folder.mkdir(parents=True, exist_ok=True)
        if not model.exists():
            qdbev("calibrate", "--checkpoint", str(args.teacher), "--recipe", CALIBRATED[name],
                  "--dataroot", args.dataroot, "-o", str(model))  # fmt: skip
    elif not model.exists():
        resume = ["--resume"] if (folder / "config.json").exists() else []
        sizes = {"--seed": seed, "--steps": args.steps, "--batch": args.batch, "--queue": args.queue, "--lr": args.lr}
        schedule = [word for option, value in sizes.items() for word in (option, str(value))]
        qdbev("train", "--dataroot", args.dataroot, "--init", str(args.teacher), "--out", str(folder),
              *schedule, *resume, *TRAINED[name])  # fmt: skip
    return score(model, args.dataroot, folder / "scores")


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(rows)
    means = [rows[name]["nds"]["mean"] for name in names]
    spreads = [rows[name]["nds"]["spread"] for name in names]
    colours = ["#54a24b" if "FP32" in name else "#f58518" if "PTQ" in name else "#4c78a8" for name in names]
    bars = axes.barh(names[::-1], means[::-1], xerr=spreads[::-1], color=colours[::-1], capsize=3)
    axes.bar_label(bars, fmt="%.3f", padding=6, fontsize=8)
    axes.margins(x=0.15)
    axes.set_xlabel("NDS on held-out synthetic scenes; bars: spread over seeds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def summary(samples: list[dict[str, float]]) -> dict[str, Any]:
    return {
        key: {
            "mean": round(statistics.fmean(sample[key] for sample in samples), 4),
            "spread": round(max(s[key] for s in samples) - min(s[key] for s in samples), 4),
            "seeds": [round(sample[key], 4) for sample in samples],
        }
        for key in ("nds", "map")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", required=True)
    parser.add_argument("--teacher", required=True, type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="where the rows' models are kept")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--queue", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()

    args.work.mkdir(parents=True, exist_ok=True)
    rows = {"FP32 teacher": summary([score(args.teacher, args.dataroot, args.work / "teacher")])}
    for name in CALIBRATED:  # calibration has no randomness
        rows[name] = summary([make_row(name, args, 0)])
    for name in TRAINED:
        rows[name] = summary([make_row(name, args, seed) for seed in args.seeds])

    console, table = Console(), Table(box=None)
    for heading in ("", "NDS", "spread", "mAP", "spread"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key][part]:.4f}" for key in ("nds", "map") for part in ("mean", "spread")))
    console.print(table)
    settings = {key: getattr(args, key) for key in ("steps", "batch", "queue", "lr", "seeds")}
    path = record.write("qat-ablation", {"settings": settings, "rows": rows})
    plot(rows, path.with_suffix(".png"))
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
