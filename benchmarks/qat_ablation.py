"""The shape of QD-BEV's Tables 1 to 4 on synthetic data: PTQ, standard and progressive QAT, distillation.

    python benchmarks/qat_ablation.py --dataroot data/synth [--steps 1000] [--seeds 0 1]

Every row is trained (or calibrated) by the command line as a user would, then scored by the official evaluator on the
validation split. One row is trained on in float: it has the additional steps of QAT, and nothing else of it. Rows that
are there already are kept, so an interrupted run goes on. Writes benchmarks/results/qat-ablation.json and
qat-ablation.png.
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

TEACHER, CONTROL = "FP32 teacher", "FP32 trained on"
# Row of the table -> how it is made from the teacher. A distillation's weight is such that the three terms begin alike
# (`distill_begins_at` in the JSON); the product of two losses is small, so its weight is large.
W4A6 = ["--recipe", "w4a6"]
TRAINED = {
    CONTROL: ["--freeze-norm-from", "0"],
    "W4A6 standard QAT": [*W4A6, "--at-once"],
    "W4A6 progressive QAT": W4A6,
    "W4A6 progressive + cwd-img": [*W4A6, "--distill", "cwd-img", "--distill-weight", "120"],
    "W4A6 progressive + cwd-bev": [*W4A6, "--distill", "cwd-bev", "--distill-weight", "54"],
    "W4A6 progressive + VGD": [*W4A6, "--distill", "vgd", "--distill-weight", "1e5"],
}
CALIBRATED = {"W8A8 PTQ": "w8a8", "W6A6 PTQ": "w6a6", "W4A6 PTQ": "w4a6"}
SETTINGS = ("steps", "batch", "queue", "lr", "warmup_steps", "dense_weight", "dropout", "precision")


def qdbev(*arguments: str) -> None:
    """Run the command line; its bars stay visible."""
    subprocess.run([sys.executable, "-m", "qdbev_deploy.cli", *arguments], check=True, stdout=subprocess.DEVNULL)


def score(model: Path, dataroot: str, out: Path) -> dict[str, float]:
    if not (out / "metrics.json").exists():
        qdbev("evaluate", str(model), "--dataroot", dataroot, "--out", str(out))
    scores = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["scores"]
    return {"nds": scores["nds"], "map": scores["map"]}


def distillation_begins_at(folder: Path) -> float | None:
    """The weighted distillation term, median of its first twenty steps; None where nothing was distilled."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    terms = [step["distill"] for step in map(json.loads, lines) if "distill" in step]
    return round(statistics.median(terms[:20]), 4) if terms else None


def calibrated_row(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Calibration has no randomness: one row, whatever the seeds."""
    folder = args.work / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.pt"
    if not model.exists():
        qdbev("calibrate", "--checkpoint", str(args.teacher), "--recipe", CALIBRATED[name], "--method", args.method,
              "--dataroot", args.dataroot, "-o", str(model))  # fmt: skip
    return score(model, args.dataroot, folder / "scores")


def trained_row(name: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    folder = args.work / f"{name.replace(' ', '-').replace('+', 'and')}-seed{seed}"
    model = folder / "model.pt"
    if not model.exists():
        schedule = [word for key in SETTINGS for word in (f"--{key.replace('_', '-')}", str(getattr(args, key)))]
        resume = ["--resume"] if (folder / "config.json").exists() else []
        qdbev("train", "--dataroot", args.dataroot, "--init", str(args.teacher), "--out", str(folder),
              "--seed", str(seed), *schedule, *resume, *TRAINED[name])  # fmt: skip
    return score(model, args.dataroot, folder / "scores") | {"distill": distillation_begins_at(folder)}


def sensitivity(args: argparse.Namespace) -> dict[str, Any]:
    """What it costs to quantise one part alone, without training."""
    path: Path = args.work / "sensitivity.json"
    if not path.exists():
        qdbev("calibrate", "--checkpoint", str(args.teacher), "--recipe", "w4a6", "--method", args.method,
              "--dataroot", args.dataroot, "--sensitivity", "-o", str(path))  # fmt: skip
    return dict(json.loads(path.read_text(encoding="utf-8")))


def summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        key: {
            "mean": round(statistics.fmean(sample[key] for sample in samples), 4),
            "spread": round(max(s[key] for s in samples) - min(s[key] for s in samples), 4),
            "seeds": [round(sample[key], 4) for sample in samples],
        }
        for key in ("nds", "map")
    }
    if samples[0].get("distill") is not None:
        row["distill_begins_at"] = [sample["distill"] for sample in samples]
    return row


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Every seed a dot, the mean a line: what differs less than its dots do differs by chance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(rows)
    for place, name in enumerate(reversed(names)):
        row = rows[name]["nds"]
        colour = "#54a24b" if "FP32" in name else "#f58518" if "PTQ" in name else "#4c78a8"
        axes.plot([row["mean"]] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2)
        axes.scatter(row["seeds"], [place] * len(row["seeds"]), color=colour, s=22, zorder=3)
        axes.annotate(f"{row['mean']:.3f}", (max(row["seeds"]), place), (6, 0), textcoords="offset points",
                      va="center", fontsize=8)  # fmt: skip
    axes.axvline(rows[TEACHER]["nds"]["mean"], color="#54a24b", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(names)), names[::-1])
    axes.margins(x=0.12)
    axes.set_xlabel("NDS on held-out synthetic scenes; a dot a seed, a line their mean")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", required=True)
    parser.add_argument("--teacher", type=Path, default=Path("examples/micro/teacher.pt"))
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="where the rows' models are kept")
    parser.add_argument("--method", default="mse", help="of the rows without training")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--queue", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--dense-weight", type=float, default=0.0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()

    args.work.mkdir(parents=True, exist_ok=True)
    samples: dict[str, list[dict[str, Any]]] = {TEACHER: [score(args.teacher, args.dataroot, args.work / "teacher")]}
    samples |= {name: [calibrated_row(name, args)] for name in CALIBRATED}
    samples |= {name: [] for name in TRAINED}
    for seed in args.seeds:  # one seed after the other: an interrupted run has whole columns
        for name in TRAINED:
            samples[name].append(trained_row(name, args, seed))
    rows = {name: summary(found) for name, found in samples.items()}

    console, table = Console(), Table(box=None)
    for heading in ("", "NDS", "spread", "mAP", "spread"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key][part]:.4f}" for key in ("nds", "map") for part in ("mean", "spread")))
    console.print(table)
    settings = {key: getattr(args, key) for key in (*SETTINGS, "seeds", "method")}
    path = record.write("qat-ablation", {"settings": settings, "rows": rows, "sensitivity": sensitivity(args)})
    plot(rows, path.with_suffix(".png"))
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
