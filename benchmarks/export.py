"""Exported graphs in ONNX Runtime on this CPU: our encoder against a peer-style one, micro's step, and exporting tiny.

    python benchmarks/export.py [--runs N] [--only encoder micro tiny proof]

The peer-style encoder is what other BEVFormer ports export: the queries repeated for all six cameras, offsets and
weights computed for each, all of them sampled by GridSample, what a camera does not see masked afterwards. Both are
float, from the same weights, on the geometry of a nuScenes rig, and their outputs are compared before they are timed.
Micro's int8 numbers say what a CPU does with Q/DQ; they are no claim about speed in int8. Tiny is exported by the
command, in float and as a W4A6 student with both carriers; `proof` exports it for MLPerf's harness and proves it over
20 frames. Its random weights are calibrated on a synthetic drive.
Writes benchmarks/results/export-cpu.json, and what was proved to export-tiny-mlperf.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import model as model_benchmark
import numpy as np
import onnx
import record
import torch
from peer import awake, peer_style, random_student
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.export import export_onnx
from qdbev_deploy.export.assemble import attach_functions
from qdbev_deploy.model import save_checkpoint
from qdbev_deploy.ops.emission import emit_nodes
from qdbev_deploy.quant import load_recipe, quantise, save_student
from qdbev_deploy.quant.quantise import observing, set_scales
from qdbev_deploy.reference import UNFUSED, session_of

THREADS = torch.get_num_threads()


def session(path: Path, config: Mapping[str, str] = MappingProxyType({})) -> Any:
    """As ONNX Runtime runs a file by itself: its own fusion of Q/DQ, its threads waiting awake."""
    return session_of(str(path), config, threads=THREADS, spin=True)


def encoder_inputs(name: str) -> dict[str, Tensor]:
    spec = VARIANTS[name]
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in spec.feature_hws)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "query": noise(spec.bev_cells, spec.embed_dim),
        "position": noise(spec.bev_cells, spec.embed_dim),
        "tokens": noise(6, tokens, spec.embed_dim),
        "lidar2img": model_benchmark.inputs(spec)[4][0],
        "prev_bev": noise(spec.bev_cells, spec.embed_dim),
        "use_prev": torch.tensor(True),
        "shift": torch.tensor([0.01, 0.02]),
    }


def export_encoder(encoder: nn.Module, inputs: dict[str, Tensor], path: Path, *, ours: bool) -> None:
    arguments = {
        "dynamo": True, "opset_version": 18, "input_names": list(inputs), "output_names": ["bev"],
        "external_data": False, "verbose": False,
    }  # fmt: skip
    with torch.no_grad():
        if ours:
            with emit_nodes():
                program = torch.onnx.export(encoder, tuple(inputs.values()), **arguments)
        else:
            program = torch.onnx.export(encoder, tuple(inputs.values()), **arguments)
    proto = program.model_proto
    if ours:
        attach_functions(proto)
    onnx.save(proto, path)


def measure_encoder(folder: Path, runs: int) -> dict[str, Any]:
    inputs = encoder_inputs("tiny")
    model = awake("tiny")
    encoder = model.pts_bbox_head.transformer.encoder
    export_encoder(encoder, inputs, folder / "ours.onnx", ours=True)
    peer_style(encoder)
    export_encoder(encoder, inputs, folder / "peer.onnx", ours=False)
    feed = {name: value.numpy() for name, value in inputs.items()}
    sessions = {name: session(folder / f"{name}.onnx") for name in ("ours", "peer")}
    ours, peer = (runner.run(None, feed)[0] for runner in sessions.values())
    gap = float(np.abs(ours - peer).max())
    assert gap < 1e-3, gap
    # And the cameras matter: without a view, both say something else.
    blind = {**feed, "lidar2img": np.zeros_like(feed["lidar2img"])}
    assert all(np.abs(runner.run(None, blind)[0] - ours).max() > 0.1 for runner in sessions.values())
    result: dict[str, Any] = {"max_abs_difference": gap}
    for name, runner in sessions.items():
        result[name] = record.timed_ms(lambda runner=runner: runner.run(None, feed), runs=runs, warmup=2)
    result["times_faster"] = round(result["peer"]["median_ms"] / result["ours"]["median_ms"], 2)
    return result


def measure_micro(folder: Path, runs: int) -> dict[str, Any]:
    frame = model_benchmark.inputs(VARIANTS["micro"])
    feed = model_benchmark.feed(VARIANTS["micro"])
    model = awake("micro")
    export_onnx(model, folder / "float.onnx", verify=False)
    recipe = load_recipe("w4a6")
    student = quantise(model, recipe).eval()
    with observing(student) as histograms, torch.inference_mode():
        student.step(*frame)
    set_scales(student, histograms, "percentile")
    export_onnx(student, folder / "w4a6.onnx", recipe=recipe, verify=False)
    sessions = {
        "float": session(folder / "float.onnx"),
        "w4a6_unfused": session(folder / "w4a6.onnx", UNFUSED),
        "w4a6_fused": session(folder / "w4a6.onnx"),
    }
    return {
        name: record.timed_ms(lambda runner=runner: runner.run(None, feed), runs=runs, warmup=2)
        for name, runner in sessions.items()
    }


# What is exported -> arguments of `qdbev-deploy export`; but for "float" of a student.
TINY: dict[str, list[str]] = {
    "float": ["--no-verify"],
    "w4a6_int8": ["--no-verify"],
    "w4a6_int4": ["--no-verify", "--carrier", "int4"],
    "proof": ["--io", "mlperf"],
}


# A child's peak counts from the peak of who starts it, here the benchmark's own: so a small process does it.
LAUNCH = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def make_tiny(path: Path, *, student: bool) -> None:
    """A checkpoint of random weights; a student's scales are from frames of a synthetic drive."""
    if student:
        recipe = load_recipe("w4a6")
        save_student(path, random_student("tiny", recipe), recipe)
    else:
        save_checkpoint(path, awake("tiny"))


def measure_tiny(kind: str, folder: Path) -> dict[str, Any]:
    """The command as a user gives it, in a process of its own."""
    checkpoint, path = folder / ("float.pt" if kind == "float" else "student.pt"), folder / f"{kind}.onnx"
    if not checkpoint.exists():
        make_tiny(checkpoint, student=kind != "float")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, sys.executable, "-m", "qdbev_deploy.cli", "export",
         "--checkpoint", str(checkpoint), "-o", str(path), *TINY[kind]],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"exporting tiny ({kind}) failed")
    command_s = time.perf_counter() - started
    report = json.loads(path.with_suffix(".export.json").read_text(encoding="utf-8"))
    bytes_of = {
        kind: sum(part.get(kind, 0) for part in report["weight_bytes"].values())
        for kind in sorted({kind for part in report["weight_bytes"].values() for kind in part})
    }
    result = {
        "command_s": round(command_s, 1),  # with reading the checkpoint and, for the proof, drawing the frames
        "written_s": round(report["export_s"], 1),
        "peak_gb": round(int(done.stdout) * 1024 / 1e9, 2),
        "file_mb": round(path.stat().st_size / 1e6, 2),
        "weights_mb": {name: round(count / 1e6, 3) for name, count in bytes_of.items()},
    }
    if kind == "proof":
        parity = report["parity"]
        result |= {
            "proved_s": round(report["parity_s"], 1),
            "passed": parity["passed"],
            "frames": parity["frames"],
        }
        shutil.copyfile(path.with_suffix(".export.json"), record.RESULTS / "export-tiny-mlperf.json")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    kinds = ("encoder", "micro", "tiny", "proof")
    parser.add_argument("--only", nargs="+", default=kinds, choices=kinds)
    args = parser.parse_args()
    console = Console()
    # A run of some parts leaves the others, each with its own command, as they were.
    results: dict[str, Any] = {**record.previous("export-cpu"), "threads": THREADS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "encoder" in args.only:
            results["encoder_tiny"] = {"command": record.command(), **measure_encoder(folder, args.runs)}
        if "micro" in args.only:
            results["micro_step"] = {"command": record.command(), **measure_micro(folder, args.runs)}
        for kind in TINY:
            if ("proof" if kind == "proof" else "tiny") in args.only:
                row = {"command": record.command(), **measure_tiny(kind, folder)}
                results.setdefault("export_tiny", {})[kind] = row
    table = Table(title=f"ONNX Runtime on the CPU, {THREADS} threads", box=None)
    for heading in ("graph", "median ms", "min ms", "max ms"):
        table.add_column(heading, justify="left" if heading == "graph" else "right")
    for group in ("encoder_tiny", "micro_step"):
        for key, row in results.get(group, {}).items():
            if isinstance(row, dict):
                table.add_row(f"{group}, {key}", *(f"{row[k]:.1f}" for k in ("median_ms", "min_ms", "max_ms")))
    console.print(table)
    if "encoder_tiny" in results:
        console.print(f"our encoder is {results['encoder_tiny']['times_faster']} times as fast as the peer-style one")
    for kind, row in results.get("export_tiny", {}).items():
        facts = ", ".join(f"{name} {value}" for name, value in row.items() if name != "command")
        console.print(f"tiny, {kind}: {facts}", highlight=False)
    console.print(f"written to {record.write('export-cpu', results)}")


if __name__ == "__main__":
    main()
