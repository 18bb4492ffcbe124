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

from qdbev_deploy.graph.files import sha256_of

TEACHER, CONTROL = "FP32 teacher", "FP32 trained on"
# Row of the table -> how it is made from the teacher. A distillation's weight is such that the three terms begin about
# alike (`distill_begins_at` in the JSON); the product of two losses is small, so its weight is large.
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


def data_of(dataroot: Path) -> dict[str, Any]:
    """What tells one data set from another: of each version its size, and the digest of its samples."""
    return {
        path.parent.name: {
            "scenes": len(json.loads((path.parent / "scene.json").read_text(encoding="utf-8"))),
            "key_frames": len(json.loads(path.read_text(encoding="utf-8"))),
            "sample_sha256": sha256_of(path),
        }
        for path in sorted(dataroot.glob("*/sample.json"))
    }


def score(folder: Path, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    out = folder / "scores"
    if not (out / "metrics.json").exists():
        qdbev("evaluate", str(model), "--dataroot", args.dataroot, "--out", str(out))
    scores = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["scores"]
    return {"nds": scores["nds"], "map": scores["map"]}


def row_folder(name: str, args: argparse.Namespace, made_by: list[str]) -> Path:
    """The folder of a row. What lies in it already must have been made by the same arguments from the same files."""
    folder: Path = args.work / name.replace(" ", "-").replace("+", "and")
    note, made = folder / "made.json", {"teacher": args.teacher_sha256, "data": args.data, "arguments": made_by}
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != made:
        sys.exit(f"{folder} was made otherwise ({note}). Next: pass another --work, or remove the folder")
    if folder.exists() and not note.exists():
        sys.exit(f"{folder} is no row of this script. Next: pass another --work, or remove the folder")
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return folder


def distillation_begins_at(folder: Path) -> float | None:
    """The weighted distillation term, median of its first twenty steps; None where nothing was distilled."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    terms = [step["distill"] for step in map(json.loads, lines) if "distill" in step]
    return round(statistics.median(terms[:20]), 4) if terms else None


def calibrated_row(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Calibration has no randomness: one row, whatever the seeds."""
    arguments = ["--recipe", CALIBRATED[name], "--method", args.method]
    folder = row_folder(name, args, arguments)
    model = folder / "model.pt"
    if not model.exists():
        qdbev("calibrate", "--checkpoint", str(args.teacher), "--dataroot", args.dataroot, "-o", str(model), *arguments)
    return score(folder, model, args)


def trained_row(name: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    schedule = [word for key in SETTINGS for word in (f"--{key.replace('_', '-')}", str(getattr(args, key)))]
    arguments = ["--seed", str(seed), *schedule, *TRAINED[name]]
    folder = row_folder(f"{name} seed{seed}", args, arguments)
    run, model = folder / "run", folder / "run" / "model.pt"
    if not model.exists():
        resume = ["--resume"] if (run / "config.json").exists() else []
        qdbev("train", "--dataroot", args.dataroot, "--init", str(args.teacher), "--out", str(run), *arguments, *resume)
    return score(folder, model, args) | {"distill": distillation_begins_at(run)}


def sensitivity(args: argparse.Namespace) -> dict[str, Any]:
    """What it costs to quantise one part alone, without training."""
    arguments = ["--recipe", "w4a6", "--method", args.method, "--sensitivity"]
    path = row_folder("W4A6 one part", args, arguments) / "sensitivity.json"
    if not path.exists():
        qdbev("calibrate", "--checkpoint", str(args.teacher), "--dataroot", args.dataroot, "-o", str(path), *arguments)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        key: {
            "mean": round(statistics.fmean(sample[key] for sample in samples), 4),
            "spread": round(max(s[key] for s in samples) - min(s[key] for s in samples), 4) if samples[1:] else None,
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
    if len(set(args.seeds)) < 2:
        parser.error("at least two different --seeds: one says nothing of how far chance moves a row")

    args.teacher_sha256, args.data = sha256_of(args.teacher), data_of(Path(args.dataroot))
    samples: dict[str, list[dict[str, Any]]] = {TEACHER: [score(row_folder(TEACHER, args, []), args.teacher, args)]}
    samples |= {name: [calibrated_row(name, args)] for name in CALIBRATED}
    samples |= {name: [] for name in TRAINED}
    for seed in args.seeds:  # one seed after the other: an interrupted run has whole columns
        for name in TRAINED:
            samples[name].append(trained_row(name, args, seed))
    rows = {name: {**summary(found), "arguments": TRAINED.get(name)} for name, found in samples.items()}

    console, table = Console(), Table(box=None)
    for heading in ("", "NDS", "spread", "mAP", "spread"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, row in rows.items():
        numbers = (row[key][part] for key in ("nds", "map") for part in ("mean", "spread"))
        table.add_row(name, *("-" if number is None else f"{number:.4f}" for number in numbers))
    console.print(table)
    settings = {key: getattr(args, key) for key in (*SETTINGS, "seeds", "method", "teacher_sha256", "data")}
    path = record.write("qat-ablation", {"settings": settings, "rows": rows, "sensitivity": sensitivity(args)})
    plot(rows, path.with_suffix(".png"))
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
