"""Multiply-accumulates: against published counts, and against what really runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.model import build_model
from qdbev_deploy.model.cost import model_cost

# GMAC of the official modules for one frame: backbone, neck, total. The total counts box regression twice and spatial
# attention's offsets once a camera and all class branches, and leaves out the projections of dot-product attention;
# hence the 2 %.
OFFICIAL = {"tiny": (187.7, 2.5, 200.9), "small": (886.2, 6.2, 953.1), "base": (1396.8, 141.0, 1847.0)}


@pytest.mark.parametrize("name", OFFICIAL)
def test_agrees_with_the_official_count(name: str) -> None:
    backbone, neck, total = OFFICIAL[name]
    gmacs = {part.part: part.macs / 1e9 for part in model_cost(VARIANTS[name])}
    assert gmacs["backbone"] == pytest.approx(backbone, abs=0.05)
    assert gmacs["neck"] == pytest.approx(neck, abs=0.06)
    assert sum(gmacs.values()) == pytest.approx(total, rel=0.02)


def test_every_counted_linear_runs_on_as_many_vectors_as_counted() -> None:
    spec = VARIANTS["micro"]
    model = build_model(spec, seed=0).eval()
    ran = 0

    def count(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal ran
        ran += inputs[0].numel() // module.in_features * module.weight.numel()

    for module in model.pts_bbox_head.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(count)
    features = [torch.zeros(1, 6, spec.embed_dim, *hw) for hw in spec.feature_hws]
    with torch.inference_mode():
        model.head_step(
            features,
            torch.zeros(spec.bev_cells, 1, spec.embed_dim),
            torch.zeros(1),
            torch.zeros(18),
            torch.zeros(1, 6, 4, 4),
        )
    counted = sum(part.macs for part in model_cost(spec) if part.part not in ("backbone", "neck"))
    packed = spec.decoder_layers * spec.queries * 3 * spec.embed_dim**2  # these projections are not Linears
    assert ran == counted - packed


def test_parameters_add_up() -> None:
    for spec in VARIANTS.values():
        with torch.device("meta"):
            model = build_model(spec)
        assert sum(part.parameters for part in model_cost(spec)) == sum(p.numel() for p in model.parameters())
