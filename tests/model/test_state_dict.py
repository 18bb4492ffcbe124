"""Keys, shapes, dtypes and counts of the official checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.model import BEVFormer, build_model
from qdbev_deploy.model.checkpoint import expected_tensors

OFFICIAL = json.loads((Path(__file__).parent / "bevformer_state_dict_keys.json").read_text())


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_keys_shapes_and_dtypes_are_the_official_ones(name: str) -> None:
    official = {key: (tuple(shape), dtype) for key, shape, dtype in OFFICIAL[f"bevformer_{name}"]}
    ours = {
        key: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for key, tensor in expected_tensors(VARIANTS[name]).items()
    }
    assert sorted(set(official) - set(ours)) == []  # missing
    assert sorted(set(ours) - set(official)) == []  # unexpected
    assert {key: value for key, value in ours.items() if official[key] != value} == {}


# Parameters, and how many of them the official training trains.
COUNTS = {
    "tiny": (33_521_157, 33_245_627),
    "small": (59_463_619, 59_135_865),
    "base": (69_034_947, 68_707_193),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_and_what_is_frozen(name: str) -> None:
    import torch

    with torch.device("meta"):
        parameters = list(BEVFormer(VARIANTS[name]).parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    assert (sum(parameter.numel() for parameter in parameters), trainable) == COUNTS[name]


def test_micro_is_small_enough_for_a_cpu() -> None:
    backbone = sum(p.numel() for p in build_model("micro").img_backbone.parameters())
    assert 1_000_000 <= backbone <= 3_000_000


def test_a_seed_makes_the_weights_and_leaves_the_generator_alone() -> None:
    import torch

    torch.manual_seed(5)
    untouched = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (build_model("micro", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), untouched)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["img_backbone.conv1.weight"], other["img_backbone.conv1.weight"])
