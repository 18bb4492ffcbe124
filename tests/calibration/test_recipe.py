"""Recipes: what they say, and what they must not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qdbev_deploy.calibration.recipe import Recipe, part_of, recipe_from_dict, shipped_recipes
from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.model import BEVFormer, build_model
from qdbev_deploy.quant import load_recipe, quantise
from qdbev_deploy.quant.quantise import activation_quantizers, weight_quantizers

GOOD: dict[str, Any] = {
    "name": "test",
    "about": "",
    "weights": [{"match": "*", "bits": 4}],
    "activations": [{"match": "*", "bits": 6}],
    "schedule": {"backbone": 1, "neck": 1, "encoder": 1, "decoder": 1, "distill": 1},
}


def with_rules(**changes: Any) -> Recipe:
    return recipe_from_dict({**GOOD, **changes}, "test recipe")


@pytest.mark.parametrize(("name", "weight_bits", "activation_bits"), [
    ("w8a8", 8, 8), ("w6a6", 6, 6), ("w4a8", 4, 8), ("w4a6", 4, 6),
])  # fmt: skip
def test_shipped_recipes_do_what_their_names_say(name: str, weight_bits: int, activation_bits: int) -> None:
    model = quantise(build_model("micro", seed=0), load_recipe(name))
    weights, activations = weight_quantizers(model), activation_quantizers(model)
    assert {quantizer.grid.bits for key, (quantizer, _) in weights.items() if key != "img_backbone.conv1"} == {
        weight_bits
    }
    assert weights["img_backbone.conv1"][0].grid.bits == 8
    bits = {key: quantizer.grid.bits for key, quantizer in activations.items()}
    assert bits.pop("img_backbone.image_tap") == 8
    assert set(bits.values()) == {activation_bits}


def test_all_shipped_recipes_are_tested() -> None:
    assert shipped_recipes() == ["w4a6", "w4a8", "w6a6", "w8a8"]


def test_what_must_stay_float_does() -> None:
    model = quantise(build_model("micro", seed=0), load_recipe("w4a6"))
    names = set(weight_quantizers(model))
    for part in ("can_bus_mlp", "reference_points", "cls_branches.2.6", "reg_branches.0.4"):
        assert not any(part in name for name in names), part
    assert "pts_bbox_head.transformer.decoder.layers.0.attentions.0.attn.in_proj" in names
    assert not any("sampling_offsets" in name for name in activation_quantizers(model))


def test_every_weight_is_quantised_but_for_those_that_must_stay_float() -> None:
    model = build_model("tiny", seed=0)
    weights = {
        key.removesuffix(".weight").removesuffix("_weight")
        for key, value in model.named_parameters()
        if key.endswith("weight") and value.dim() > 1 and "embed" not in key
    }
    kept_float = weights - set(weight_quantizers(quantise(model, load_recipe("w4a6"))))
    head = "pts_bbox_head."
    assert kept_float == {
        f"{head}transformer.can_bus_mlp.0", f"{head}transformer.can_bus_mlp.2", f"{head}transformer.reference_points",
        *(f"{head}cls_branches.{layer}.6" for layer in range(6)),
        *(f"{head}reg_branches.{layer}.4" for layer in range(6)),
    }  # fmt: skip


def test_later_rules_win_and_float_takes_back() -> None:
    recipe = with_rules(
        weights=[{"match": "*", "bits": 4}, {"match": "img_neck.*", "bits": 8}, {"match": "*.ffns.*", "bits": "float"}],
        activations=[{"match": "img_backbone.output_taps.*", "bits": 6, "grid": "signed"}],
    )
    model = quantise(build_model("micro", seed=0), recipe)
    weights = weight_quantizers(model)
    assert weights["img_neck.fpn_convs.0.conv"][0].grid.bits == 8
    assert not any(".ffns." in name for name in weights)
    activations = activation_quantizers(model)
    assert all(quantizer.grid.signed for quantizer in activations.values())
    assert set(map(part_of, activations)) == {"backbone"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": [{"match": "img_bone.*", "bits": 4}]}, "a rule 'img_bone.*' that fits no weights"),
        ({"activations": [{"match": "nothing", "bits": 4}]}, "a rule 'nothing' that fits no activations"),
        (
            {"weights": [{"match": "*can_bus_mlp*", "bits": 4}]},
            "gives 4 bits to the weights of 'pts_bbox_head.transformer.can_bus_mlp.0'",
        ),
        ({"weights": [{"match": "*reg_branches.0.4", "bits": 8}]}, "geometry, ego motion and final outputs"),
        # Wide rules, too: only `*` passes over what must stay float.
        ({"weights": [{"match": "*cls_branches.*", "bits": 8}]}, "the weights of 'pts_bbox_head.cls_branches.0.6' by"),
        (
            {"weights": [{"match": "pts_bbox_head.*", "bits": 8}]},
            "{match: 'pts_bbox_head.transformer.reference_points'",
        ),
        ({"weights": [{"match": "*", "bits": 4}, {"match": "**", "bits": 8}]}, "by its rule '**'"),
        # The beginning of a name forgotten: what was meant is told.
        ({"weights": [{"match": "cls_branches.2.6", "bits": 8}]}, "of 'pts_bbox_head.cls_branches.2.6' by its rule"),
        ({"weights": [{"match": "cls_branches.2.3", "bits": 8}]}, "such as 'pts_bbox_head.cls_branches.2.3'"),
        ({"weights": [{"match": "cls_branches.*", "bits": 8}]}, "such as 'pts_bbox_head.cls_branches.0.0'"),
    ],
)
def test_rules_that_do_not_fit_the_model(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(QdbevError) as caught:
        quantise(build_model("micro"), with_rules(**changes))
    assert sentence in str(caught.value)


def test_what_must_stay_float_may_be_called_float() -> None:
    taken_back = [{"match": "*cls_branches.*", "bits": 8}, {"match": "*cls_branches.*.6", "bits": "float"}]
    weights = weight_quantizers(quantise(build_model("micro"), with_rules(weights=taken_back)))
    assert {name.removeprefix("pts_bbox_head.cls_branches.") for name in weights} == {
        f"{layer}.{index}" for layer in range(3) for index in (0, 3)
    }
    rules = [{"match": "*", "bits": 4}, {"match": "*can_bus_mlp*", "bits": "float"}]
    assert not any(
        "can_bus" in name for name in weight_quantizers(quantise(build_model("micro"), with_rules(weights=rules)))
    )


def test_the_linears_of_sampling_have_integer_weights_unless_a_rule_takes_them_out() -> None:
    sampling = ("sampling_offsets", "attention_weights")
    shipped = weight_quantizers(quantise(build_model("micro"), load_recipe("w4a6")))
    assert {quantizer.grid.bits for name, (quantizer, _) in shipped.items() if name.endswith(sampling)} == {4}
    rules = [{"match": "*", "bits": 4}, *({"match": f"*.{name}", "bits": "float"} for name in sampling)]
    weights = weight_quantizers(quantise(build_model("micro"), with_rules(weights=rules)))
    assert set(shipped) - set(weights) == {name for name in shipped if name.endswith(sampling)}


@pytest.mark.parametrize("variant", ["micro", "tiny", "small", "base"])
def test_shipped_recipes_fit_every_variant(variant: str) -> None:
    for name in shipped_recipes():
        with torch.device("meta"):
            model = quantise(BEVFormer(VARIANTS[variant]), load_recipe(name))
        assert not any(".6" in key and "branches" in key for key in weight_quantizers(model))


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": []}, {"weights": "all"}, {"weights": [{"match": "*"}]}, {"weights": [{"match": "*", "bits": 9}]},
        {"weights": [{"match": "*", "bits": True}]}, {"activations": [{"match": "*", "bits": 6, "grid": "round"}]},
        {"schedule": {"backbone": 1}}, {"schedule": {**GOOD["schedule"], "neck": -1}}, {"extra": 1},
        {"scales": "guessed"}, {"scales": ["learned"]},
    ],
)  # fmt: skip
def test_recipes_that_say_nonsense(changes: dict[str, Any]) -> None:
    with pytest.raises(QdbevError, match="test recipe"):
        with_rules(**changes)


def test_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match="one of w4a6, w4a8, w6a6, w8a8"):
        load_recipe("w3a3")
    broken = tmp_path / "broken.yaml"
    broken.write_text("weights: [")
    with pytest.raises(QdbevError, match="is not YAML"):
        load_recipe(broken)


def test_the_digest_follows_what_a_recipe_does() -> None:
    assert with_rules(about="other").digest == with_rules().digest
    assert with_rules(weights=[{"match": "*", "bits": 5}]).digest != with_rules().digest
    assert recipe_from_dict(load_recipe("w4a6").to_dict(), "copy") == load_recipe("w4a6")
    # What says nothing of its scales is what it was before they could be said.
    assert with_rules(scales="learned") == with_rules()
    assert "scales" not in with_rules().to_dict()
    assert load_recipe("w4a6").digest.startswith("717983063cd4baea")
    observed = with_rules(scales="observed")
    assert observed.digest != with_rules().digest
    assert recipe_from_dict(observed.to_dict(), "copy") == observed
