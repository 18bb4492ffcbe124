"""Variants and the streaming graph's shapes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from qdbev_deploy.contract import VARIANTS, VariantSpec, stream_inputs, stream_outputs, variant
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.model import build_model


def test_the_model_keeps_the_contract() -> None:
    spec = VARIANTS["micro"]
    model = build_model(spec, seed=0).eval()
    inputs = [torch.zeros(tensor.shape) for tensor in stream_inputs(spec)]
    with torch.inference_mode():
        outputs = model.step(*inputs)
    assert [tuple(output.shape) for output in outputs] == [tensor.shape for tensor in stream_outputs(spec)]
    assert {output.dtype for output in outputs} == {torch.float32}


@pytest.mark.parametrize("index", range(5))
def test_an_input_of_another_shape_is_named(index: int) -> None:
    spec = VARIANTS["micro"]
    model = build_model(spec, seed=0).eval()
    inputs = [torch.zeros(tensor.shape) for tensor in stream_inputs(spec)]
    inputs[index] = torch.cat([inputs[index], inputs[index]])  # a batch of two, say
    with pytest.raises(QdbevError, match=f"an input {stream_inputs(spec)[index].name} of shape"):
        model.step(*inputs)


@pytest.mark.parametrize(
    ("name", "image", "bev", "queries"),
    [
        ("micro", (192, 320), (50, 50), 300),
        ("tiny", (480, 800), (50, 50), 900),
        ("small", (736, 1280), (150, 150), 900),
        ("base", (928, 1600), (200, 200), 900),
    ],
)
def test_sizes(name: str, image: tuple[int, int], bev: tuple[int, int], queries: int) -> None:
    spec = variant(name)
    assert (spec.image_hw, spec.bev_hw, spec.queries) == (image, bev, queries)


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=list(VARIANTS))
def test_a_specification_survives_json(spec: VariantSpec) -> None:
    assert VariantSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"embed_dim": 250}, {"embed_dim": 0}, {"heads": -8}, {"spatial_points": 7}, {"num_levels": 5},
        {"num_levels": 0}, {"max_boxes": 10_000_000}, {"decoder_layers": 65}, {"bev_hw": (0, 50)},
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(QdbevError, match="variant 'tiny' has"):
        dataclasses.replace(VARIANTS["tiny"], **change)


def test_unknown_variant() -> None:
    with pytest.raises(QdbevError, match=r"unknown variant .huge.*micro, tiny, small, base"):
        variant("huge")
