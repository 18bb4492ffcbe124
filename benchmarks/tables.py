"""Tables in README.md and docs/, made from benchmarks/results/*.json: nothing measured is typed by hand.

    python benchmarks/tables.py [--check]

Rewrites what stands between `<!-- table: NAME -->` and `<!-- end -->`; with --check, says which file is out of
date and exits 1 where one is. A table whose JSON is not there says "not measured yet".
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
_BLOCK = re.compile(r"(<!-- table: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _source(document: dict[str, Any], commands: Sequence[str] = ()) -> str:
    """When and where by which command, or by which `commands`, where parts were measured apart."""
    machine = document["machine"]
    said = " and ".join(f"`{command}`" for command in commands or [document["command"]])
    cores = "one core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    return (
        f"\nMeasured {document['date']} on {cores} of {machine['cpu']} by {said} "
        f"(`benchmarks/results/{document['benchmark']}.json`).\n"
    )


def model_cpu(document: dict[str, Any]) -> str:
    rows = []
    for name in ("micro", "tiny", "small", "base"):
        result = document["results"].get(name)
        if result is None:
            rows.append([name, *["not measured yet"] * 5])
            continue
        official = f"{result['official_gmac']:.1f}" if "official_gmac" in result else "–"
        rows.append([
            name, f"{result['parameters'] / 1e6:.2f} M", f"{result['gmac']['total']:.1f}", official,
            f"{result['forward']['median_ms']:,.0f} ms", f"{result['head']['median_ms']:,.0f} ms",
        ])  # fmt: skip
    headings = ["variant", "parameters", "GMAC a frame", "official GMAC", "PyTorch step on the CPU", "of it the head"]
    return _markdown(headings, rows) + _source(document)


def train_cpu(document: dict[str, Any]) -> str:
    rows = [
        [name, f"{row['median_ms']:.0f} ms", f"{row['min_ms']:.0f} to {row['max_ms']:.0f} ms"]
        for name, row in document["results"].items()
    ]
    return _markdown(["a training step of micro, one thread", "median", "fastest to slowest"], rows) + _source(document)


def qat_ablation(document: dict[str, Any]) -> str:
    results = document["results"]
    teacher, rows = results["rows"]["FP32 teacher"], []
    for name, row in results["rows"].items():
        nds, mean_ap = row["nds"], row["map"]
        spread = "–" if nds["spread"] is None else f"{nds['spread']:.4f}"
        off = 100 * (nds["mean"] - teacher["nds"]["mean"])
        rows.append([
            name, f"{nds['mean']:.4f}", spread, f"{off:+.2f}" if row is not teacher else "–", f"{mean_ap['mean']:.4f}",
        ])  # fmt: skip
    headings = ["", "NDS, mean", "spread over seeds", "points off the teacher", "mAP, mean"]
    settings = results["settings"]
    trained = (
        f"\nWhat is trained: {settings['steps']:,} steps each, {len(settings['seeds'])} seeds. A point is 0.01 NDS.\n"
    )
    return _markdown(headings, rows) + trained + _source(document)


def data(document: dict[str, Any]) -> str:
    results = document["results"]
    workers = sorted({count for loader in results["loader"].values() for count in loader}, key=int)
    rows = []
    for name in ("micro", "tiny", "small", "base"):
        preprocessing, loader = results["one_core_ms"].get(name), results["loader"].get(name, {})
        rows.append([
            name,
            f"{preprocessing['median_ms']:.0f} ms" if preprocessing else "not measured yet",
            *(f"{loader[count]['frames_per_s']:.1f}" if count in loader else "not measured yet" for count in workers),
        ])  # fmt: skip
    headings = [
        "variant", "six frames preprocessed, one core",
        *("loader, frames/s: alone" if count == "0" else f"{count} worker{'s' * (count != '1')}" for count in workers),
    ]  # fmt: skip
    synth, decode = results["synth"], results["one_core_ms"]["decode"]["median_ms"]
    beside = f"\nDecoding the six JPEGs takes {decode:.0f} ms beside."
    if synth:
        beside += (
            f" The synthetic data set is drawn at {synth['images_per_s']:.0f} images a second "
            f"({synth['core_ms_per_image']:.0f} ms of processor time and {synth['kilobytes_per_image']:.0f} kB each)."
        )
    return _markdown(headings, rows) + beside + "\n" + _source(document)


def export_cpu(document: dict[str, Any]) -> str:
    results = document["results"]
    said = {
        "float": "float", "w4a6_int8": "W4A6, int8", "w4a6_int4": "W4A6, int4", "proof": "W4A6, `--io mlperf`, proved",
        "w4a6_unfused": "W4A6, as the file says", "w4a6_fused": "W4A6, ONNX Runtime's fusion of Q/DQ",
    }  # fmt: skip
    written = []
    for kind, row in results["export_tiny"].items():
        proved = f", {row['proved_s']:.0f} s to prove {row['frames']} frames" if "proved_s" in row else ""
        written.append([
            said[kind], f"{row['written_s']:.0f} s{proved}", f"{row['command_s']:.0f} s",
            f"{row['peak_gb']:.1f} GB", f"{row['file_mb']:.1f} MB",
        ])  # fmt: skip
    timed = [[f"`micro`, {said[kind]}", f"{row['median_ms']:.0f} ms"]
             for kind, row in results["micro_step"].items() if kind != "command"]  # fmt: skip
    encoder = results["encoder_tiny"]
    parts = (encoder, results["micro_step"], *results["export_tiny"].values())
    commands = list(dict.fromkeys(part["command"] for part in parts))
    timed += [["encoder of `tiny`, ours", f"{encoder['ours']['median_ms']:.0f} ms"],
              ["encoder of `tiny`, as others export it", f"{encoder['peer']['median_ms']:.0f} ms"]]  # fmt: skip
    return (
        _markdown(["`tiny`", "written in", "the whole command", "largest memory", "file"], written)
        + "\n"
        + _markdown([f"ONNX Runtime, {results['threads']} threads", "a frame"], timed)
        + f"\nOur encoder is {encoder['times_faster']} times as fast.\n"
        + _source(document, commands)
    )


def export_tiny_mlperf(report: dict[str, Any]) -> str:
    """From the report that export writes, which holds every tensor of it."""
    parity = report["parity"]
    outputs, boxes = parity["outputs_relative_difference_from_same_integers"], parity["boxes_from_same_integers"]
    activations = parity["activations"].values()
    elements, different = (sum(item[key] for item in activations) for key in ("elements", "different"))
    worst = max(item["different"] / item["elements"] for item in activations)
    others = max(boxes[key] for key in ("size_share", "yaw_sin_cos", "velocity_mps", "score"))
    control, mode = parity["torch_against_itself"], parity["default_mode"]
    rows = [
        ["outputs from the same integers, share of themselves", f"{max(outputs.values()):.1e} at most"],
        ["box centres from the same integers", f"{boxes['center_m']:.1e} m"],
        ["sizes, sine and cosine of yaw, velocities, scores from the same integers", f"{others:.1e} at most"],
        [
            "detections without a partner, from the same integers",
            f"{boxes['detections_moved']:,} of {boxes['detections']:,}",
        ],
        ["weights' integers that differ", f"{parity['weights']['different']:,} of {parity['weights']['integers']:,}"],
        ["activations' integers that differ", f"{different:,} of {elements:,}; {worst:.1e} of the worst tensor"],
        ["by how many steps, at most", f"{max(item['largest_step'] for item in activations)}"],
        ["box centres, each with its own state", f"{parity['boxes']['center_m']:.1f} m"],
    ]
    for what, run in (("torch against itself", control), ("ONNX Runtime's fusion of Q/DQ", mode)):
        own = run["file_boxes_over_these_frames"]["center_m"]
        rows.append([
            f"box centres, {what}, first {run['frames']} frames",
            f"{run['boxes']['center_m']:.1f} m, the file's own {own:.1f} m",
        ])  # fmt: skip
    verdict = "Parity holds" if parity["passed"] else "Parity FAILS"
    return _markdown(["compared", f"{parity['frames']} frames"], rows) + f"\n{verdict}.\n"


def levels(document: dict[str, Any]) -> str:
    runs, nudged = document["results"]["runs"], []
    rows = []
    for name, row in runs.items():
        if "nudged" in name:
            nudged.append(row)
        else:
            rows.append([name, f"{row['nds']:.4f}", f"{row['map']:.4f}"])
    if nudged:
        spread = [
            f"{min(row[key] for row in nudged):.4f} to {max(row[key] for row in nudged):.4f}" for key in ("nds", "map")
        ]
        rows.append([f"torch, {len(nudged)} times with every bias a millionth off", *spread])
    return _markdown(["the student of `micro`, run by", "NDS", "mAP"], rows) + _source(document)


def kernels(document: dict[str, Any]) -> str:
    results = document["results"]
    rows = []
    for row in results["kernels"]:
        peer = f"{row['peer_over_ours']:.1f}x" if "peer_over_ours" in row else "–"
        rows.append([
            f"{row['op']}, {row['variant']}", row["dtype"], f"{row['warm_us']:.1f}", f"{row['cold_us']:.1f}",
            f"{row['gather_over_copy_bandwidth']:.2f}", peer,
        ])  # fmt: skip
    headings = ["kernel", "value", "warm us", "cold us", "gathered over copy bandwidth", "the peers' way over ours"]
    where = f"\n{results['gpu']}, driver {results['driver']}, CUDA {results['cuda']}."
    return _markdown(headings, rows) + where + _source(document)


def runtime_cpu(document: dict[str, Any]) -> str:
    rows, worst = [], 0.0
    for bundle, found in document["results"].items():
        for form, row in found.items():
            if not isinstance(row, dict):
                continue
            cpp, python, ratio = row["cpp_ms"], row["python_ms"], row["ratio_of_p50"]
            rows.append([
                f"{bundle}, {form}", f"{cpp['total_p50']:.2f}", f"{python['total_p50']:.2f}",
                f"{ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['most']:.3f})",
                f"{cpp['prepare_p50']:.2f}", f"{cpp['decode_p50']:.3f}",
            ])  # fmt: skip
            worst = max(worst, *row["boxes"]["largest_difference"].values())
    headings = ["bundle, frames", "C++ p50, ms", "Python p50, ms", "C++ over Python", "of it preparing", "decoding"]
    beside = f"\nBoxes of both differ by {worst:.1g} at most.\n"
    return _markdown(headings, rows) + beside + _source(document)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "model-cpu": model_cpu,
    "data": data,
    "train-cpu": train_cpu,
    "export-cpu": export_cpu,
    "export-tiny-mlperf": export_tiny_mlperf,
    "levels": levels,
    "qat-ablation": qat_ablation,
    "kernels": kernels,
    "runtime-cpu": runtime_cpu,
}


def render(text: str) -> str:
    """The text with every table made anew."""

    def block(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        path = RESULTS / f"{name}.json"
        if not path.exists():
            return f"{begin}Not measured yet.\n{end}"
        return f"{begin}{TABLES[name](json.loads(path.read_text(encoding='utf-8')))}{end}"

    return _BLOCK.sub(block, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a table is out of date")
    args = parser.parse_args()
    stale = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        before = path.read_text(encoding="utf-8")
        after = render(before)
        if before != after:
            stale.append(str(path.relative_to(ROOT)))
            if not args.check:
                path.write_text(after, encoding="utf-8")
    if args.check and stale:
        print(f"{', '.join(stale)}: not what benchmarks/results/ holds. Next: python benchmarks/tables.py")
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
