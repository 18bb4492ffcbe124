"""The official head's recorded numbers, and our model of the same size with its weights."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qdbev_deploy.contract import VARIANTS, BackboneSpec, VariantSpec
from qdbev_deploy.model import BEVFormer
from qdbev_deploy.model.head import HeadOutputs

HERE = Path(__file__).parent

SPEC = VariantSpec(
    name="official_head_dev",
    preprocess=dataclasses.replace(
        VARIANTS["tiny"].preprocess, source_hw=(90, 160), resized_hw=(90, 160), padded_hw=(96, 160)
    ),
    # The recording begins at the neck's output: stride 16 and 6x10 maps; the backbone is ours to choose.
    backbone=BackboneSpec("basic", (1, 1, 1, 1), 8, "pytorch", (3,)),
    bev_hw=(9, 14),
    encoder_layers=2,
    num_levels=1,
    embed_dim=64,
    ffn_dim=128,
    decoder_layers=2,
    queries=16,
    max_boxes=50,
)


class Recording(NamedTuple):
    """The archive, and the step's inputs as tensors."""

    arrays: dict[str, np.ndarray]
    features: list[Tensor]
    prev_bev: Tensor
    can_bus: Tensor
    lidar2img: Tensor


@cache
def recording() -> Recording:
    arrays = dict(np.load(HERE / "official_head_dev.npz"))
    tensor = {key: torch.from_numpy(arrays[key]).float() for key in ("feat0", "prev_bev", "can_bus", "lidar2img")}
    return Recording(
        arrays, [tensor["feat0"]], tensor["prev_bev"].transpose(0, 1), tensor["can_bus"], tensor["lidar2img"][None]
    )


def official_model(spec: VariantSpec = SPEC) -> BEVFormer:
    """Our model with the recorded weights in its head."""
    model = BEVFormer(spec).eval()
    weights = {
        key.removeprefix("w/pts_bbox_head."): torch.from_numpy(value)
        for key, value in recording().arrays.items()
        if key.startswith("w/")
    }
    model.pts_bbox_head.load_state_dict(weights, strict=True)
    return model


@torch.inference_mode()
def run(model: BEVFormer, use_prev: bool, **changes: Tensor) -> HeadOutputs:
    """All decoder layers' outputs on the recorded inputs, some of them changed by keyword."""
    record = recording()
    return model.pts_bbox_head(
        record.features,
        changes.get("prev_bev", record.prev_bev),
        torch.tensor([float(use_prev)]),
        changes.get("can_bus", record.can_bus),
        changes.get("lidar2img", record.lidar2img),
        all_layers=True,
    )


def deviation(outputs: HeadOutputs, kind: str) -> float:
    """Largest absolute difference from the official outputs; `kind` is 'prev' or 'noprev'."""
    arrays = recording().arrays
    pairs = zip(outputs, (arrays[f"{name}_{kind}"] for name in ("bev_embed", "cls", "bbox")))
    return max(float(np.abs(ours.numpy().reshape(theirs.shape) - theirs).max()) for ours, theirs in pairs)
