"""BEVFormer as other ports export it: every query on all six cameras, sampled by GridSample, masked afterwards.

    python benchmarks/peer.py [--checkpoint FILE | --variant tiny] [-o FOLDER]

Writes NAME.onnx, as we export it, and NAME-peer.onnx from the same weights (random ones where no checkpoint is named),
compares them in ONNX Runtime, and leaves both for benchmarks/engines.py. Only spatial cross-attention differs: there is
most of the work, and there the way through all cameras costs most.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import cast

import model as model_benchmark
import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from qdbev_deploy.export import export_onnx
from qdbev_deploy.model import BEVFormer, build_model
from qdbev_deploy.model.encoder import Encoder, PillarAttention
from qdbev_deploy.ops.constants import CLAMP_HIGH, CLAMP_LOW
from qdbev_deploy.ops.deform_attn import _attend
from qdbev_deploy.ops.projection import project_pillars
from qdbev_deploy.quant import load_model
from qdbev_deploy.reference import session_of

TOLERANCE = 1e-3  # of float outputs; a student's ties fall either way


class PeerAttention(PillarAttention):
    """PillarAttention as the peers export it."""

    def forward(self, query: Tensor, tokens: Tensor, lidar2img: Tensor) -> Tensor:
        repeated = query.repeat(len(tokens), 1, 1)
        geometry = self.geometry
        uv, visible = project_pillars(
            lidar2img, geometry.bev_hw, geometry.pc_range, geometry.z_anchors, geometry.image_hw
        )
        references = uv.clamp(CLAMP_LOW, CLAMP_HIGH).repeat(1, 1, self.points // len(geometry.z_anchors), 1)
        offsets = self.sampling_offsets(repeated).unflatten(-1, (self.heads, self.levels, self.points, 2))
        weights = self.attention_weights(repeated).unflatten(-1, (self.heads, self.levels * self.points)).softmax(-1)
        attended = _attend(
            self.value_tap(self.value_proj(tokens)).unflatten(-1, (self.heads, -1)),
            references,
            offsets,
            weights.unflatten(-1, (self.levels, self.points)),
            self.spatial_shapes,
        )
        seen = visible.any(dim=-1)[..., None].to(attended.dtype)  # [cams, Q, 1]
        return (attended * seen).sum(dim=0) / seen.sum(dim=0).clamp(min=1)


def peer_style(encoder: Encoder) -> None:
    """Let every layer look into the cameras in the peers' way: the same weights under the same names."""
    for layer in encoder.layers:
        layer.attentions[1].deformable_attention.__class__ = PeerAttention


def awake(name: str) -> BEVFormer:
    """Random weights; offsets and attention weights, which start out constant, depend on their inputs."""
    model = build_model(name, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("sampling_offsets.weight", "attention_weights.weight")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, help="a float checkpoint or a student")
    source.add_argument("--variant", default="tiny", help="with random weights")
    parser.add_argument("-o", "--output", type=Path, default=Path(), metavar="FOLDER")
    args = parser.parse_args()
    console = Console()
    model, recipe = load_model(args.checkpoint) if args.checkpoint else (awake(args.variant), None)
    name = args.checkpoint.stem if args.checkpoint else args.variant
    peer = copy.deepcopy(model)
    peer_style(cast(Encoder, peer.pts_bbox_head.transformer.encoder))
    args.output.mkdir(parents=True, exist_ok=True)
    feed = model_benchmark.feed(model.spec)
    outputs = []
    for label, chosen in ((name, model), (f"{name}-peer", peer)):
        path = args.output / f"{label}.onnx"
        with console.status(f"{path} ..."):
            export_onnx(chosen, path, recipe=recipe, verify=False)
            outputs.append(session_of(str(path)).run(None, feed))
        console.print(f"written: {path}")
    gap = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(*outputs))
    console.print(f"their outputs are {gap:.1e} apart{'' if recipe is None else ', ties of rounding among it'}")
    if recipe is None and not gap < TOLERANCE:
        sys.exit(f"more than {TOLERANCE:g}: these are not the same network")


if __name__ == "__main__":
    main()
