"""Parameters, multiply-accumulates and forward time of the four variants in PyTorch.

    python benchmarks/model.py [--variants micro tiny ...] [--runs N]

Time is that of one streaming step (six cameras, with a previous BEV) on this machine's CPU, weights random, geometry
that of the synthetic rig: the encoder's cost depends on which camera sees what.
Writes benchmarks/results/model-cpu.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt
import record
import torch
from rich.console import Console
from rich.table import Table

from qdbev_deploy.contract import CAN_BUS_SIZE, VARIANTS, VariantSpec, stream_inputs
from qdbev_deploy.data.preprocess import scale_lidar2img
from qdbev_deploy.data.synth.rig import Rig, make_rig
from qdbev_deploy.model import build_model
from qdbev_deploy.model.cost import model_cost

# GMAC of the official modules, counted with hooks: they run box regression twice, all class branches, and the
# offsets of spatial attention once a camera; the projections of dot-product attention escaped the hooks.
# Hence a per cent or so.
OFFICIAL_GMAC = {"tiny": 200.9, "small": 953.1, "base": 1847.0}


def projections(rig: Rig) -> np.ndarray:
    """LiDAR frame to pixels for each camera, the car standing still.  # [6, 4, 4]"""
    matrices = []
    for camera in rig.cameras:
        intrinsic = np.eye(4)
        intrinsic[:3, :3] = camera.intrinsic
        matrices.append(intrinsic @ np.linalg.inv(camera.cam2ego) @ rig.lidar2ego)
    return np.stack(matrices)


def inputs(spec: VariantSpec) -> list[torch.Tensor]:
    """One frame of noise seen by a real rig, mid-sequence."""
    generator = torch.Generator().manual_seed(0)
    rig = make_rig(np.random.default_rng(0))
    can_bus = torch.zeros(CAN_BUS_SIZE)
    can_bus[0], can_bus[3], can_bus[-1] = 4.0, 1.0, 2.0
    return [
        torch.randn(1, 6, 3, *spec.image_hw, generator=generator),
        torch.randn(spec.bev_cells, 1, spec.embed_dim, generator=generator),
        torch.ones(1),
        can_bus,
        torch.from_numpy(scale_lidar2img(projections(rig), spec.preprocess))[None].float(),
    ]


def feed(spec: VariantSpec) -> dict[str, npt.NDArray[Any]]:
    """The same, as ONNX Runtime takes it."""
    return {item.name: value.numpy() for item, value in zip(stream_inputs(spec), inputs(spec), strict=True)}


def measure(spec: VariantSpec, runs: int) -> dict[str, Any]:
    parts = model_cost(spec)
    model, frame = build_model(spec, seed=0).eval(), inputs(spec)
    with torch.inference_mode():
        forward = record.timed_ms(lambda: model.step(*frame), runs=runs)
        features = model.extract_features(frame[0])
        head = record.timed_ms(lambda: model.head_step(features, *frame[1:]), runs=runs)
    total = sum(part.macs for part in parts) / 1e9
    result: dict[str, Any] = {
        "parameters": sum(part.parameters for part in parts),
        "gmac": {**{part.part: round(part.macs / 1e9, 3) for part in parts}, "total": round(total, 3)},
        "forward": forward,
        "head": head,
    }
    if spec.name in OFFICIAL_GMAC:
        result["official_gmac"] = OFFICIAL_GMAC[spec.name]
        result["gmac_deviation"] = round(total / OFFICIAL_GMAC[spec.name] - 1, 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    console = Console()
    table = Table(title=f"one streaming step in PyTorch, {torch.get_num_threads()} threads", box=None)
    for heading in ("variant", "parameters", "GMAC", "official GMAC", "deviation", "forward ms", "of it the head ms"):
        table.add_column(heading, justify="right")
    # A run of some variants leaves the others' rows, each with its own command, as they were.
    results: dict[str, Any] = {**record.previous("model-cpu"), "threads": torch.get_num_threads()}
    for name in args.variants:
        with console.status(f"{name} ..."):
            results[name] = row = {"command": record.command(), **measure(VARIANTS[name], args.runs)}
        deviation = f"{row['gmac_deviation']:+.1%}" if "gmac_deviation" in row else "-"
        table.add_row(
            name, f"{row['parameters']:,}", f"{row['gmac']['total']:.1f}", str(row.get("official_gmac", "-")),
            deviation,
            f"{row['forward']['median_ms']:.0f}", f"{row['head']['median_ms']:.0f}",
        )  # fmt: skip
    console.print(table)
    console.print(f"written to {record.write('model-cpu', results)}")


if __name__ == "__main__":
    main()
