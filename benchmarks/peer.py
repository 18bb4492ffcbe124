"""BEVFormer as other ports export it: every query on all six cameras, sampled by GridSample, masked afterwards.

    python benchmarks/peer.py [--checkpoint FILE | --variant tiny [--recipe w4a6]] [-o FOLDER]

Writes NAME.onnx, as we export it, and NAME-peer.onnx from the same weights (random ones where no checkpoint is named,
quantised with scales from a drive where a recipe is), compares them in ONNX Runtime, and leaves both for engines.py.
Only spatial cross-attention differs: there is most of the work, and there the way through all cameras costs most.
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

from qdbev_deploy.data.stream_frames import parity_frames
from qdbev_deploy.export import export_onnx
from qdbev_deploy.model import BEVFormer, build_model
from qdbev_deploy.model.encoder import Encoder, PillarAttention
from qdbev_deploy.ops.constants import CLAMP_HIGH, CLAMP_LOW
from qdbev_deploy.ops.deform_attn import _attend
from qdbev_deploy.ops.projection import project_pillars
from qdbev_deploy.quant import Recipe, load_model, load_recipe, quantise
from qdbev_deploy.quant.quantise import observing, set_scales
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


def random_student(name: str, recipe: Recipe) -> BEVFormer:
    """Random weights quantised; scales are from four frames of a synthetic drive."""
    model = quantise(awake(name), recipe).eval()
    with observing(model) as histograms, parity_frames(model.spec, "float32", None, 4) as (_, frames):
        stream = model.session(all_layers=True)
        for frame in frames:
            stream.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
    set_scales(model, histograms, "percentile")
    return model


def chosen(args: argparse.Namespace) -> tuple[str, BEVFormer, Recipe | None]:
    """(name, network, how it was quantised)."""
    if args.checkpoint:
        return args.checkpoint.stem, *load_model(args.checkpoint)
    if args.recipe:
        recipe = load_recipe(args.recipe)
        return f"{args.variant}-{recipe.name}", random_student(args.variant, recipe), recipe
    return args.variant, awake(args.variant), None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, help="a float checkpoint or a student")
    source.add_argument("--variant", default="tiny", help="with random weights")
    parser.add_argument("--recipe", help="quantise the random weights so, such as w4a6")
    parser.add_argument("-o", "--output", type=Path, default=Path(), metavar="FOLDER")
    args = parser.parse_args()
    if args.checkpoint and args.recipe:
        parser.error("--recipe quantises random weights; a checkpoint is quantised already, or float")
    console = Console()
    name, model, recipe = chosen(args)
    peer = copy.deepcopy(model)
    peer_style(cast(Encoder, peer.pts_bbox_head.transformer.encoder))
    args.output.mkdir(parents=True, exist_ok=True)
    feed = model_benchmark.feed(model.spec)
    outputs = []
    for label, network in ((name, model), (f"{name}-peer", peer)):
        path = args.output / f"{label}.onnx"
        with console.status(f"{path} ..."):
            export_onnx(network, path, recipe=recipe, verify=False)
            outputs.append(session_of(str(path)).run(None, feed))
        console.print(f"written: {path}")
    gap = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(*outputs))
    console.print(f"their outputs are {gap:.1e} apart{'' if recipe is None else ', ties of rounding among it'}")
    if recipe is None and not gap < TOLERANCE:
        sys.exit(f"more than {TOLERANCE:g}: these are not the same network")


if __name__ == "__main__":
    main()
