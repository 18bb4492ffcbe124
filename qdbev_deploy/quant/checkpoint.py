"""Checkpoints of quantised students, and the one loader for both kinds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from qdbev_deploy.calibration.recipe import Recipe, recipe_from_dict
from qdbev_deploy.contract import VariantSpec, variant
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.model import BEVFormer, build_model, load_checkpoint, save_checkpoint
from qdbev_deploy.model.checkpoint import load_known, misfit, mismatch, read_checkpoint, require_finite
from qdbev_deploy.quant.quantise import quantise, without_scale


def save_student(
    path: str | os.PathLike[str], model: BEVFormer, recipe: Recipe, meta: dict[str, Any] | None = None
) -> None:
    """Write a quantised model with the recipe that made it so."""
    save_checkpoint(path, model, meta, recipe.to_dict())


def load_model(
    path: str | os.PathLike[str], variant_or_spec: str | VariantSpec | None = None, *, unfinished: bool = False
) -> tuple[BEVFormer, Recipe | None]:
    """(model in evaluation mode, its recipe): a quantised student, or a float checkpoint with recipe None.

    A student whose training stopped before all its parts had joined computes partly in float: it is refused, unless
    `unfinished` says that the caller knows.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    if checkpoint.recipe is None or checkpoint.spec is None:
        return load_checkpoint(path, variant_or_spec, checkpoint=checkpoint), None
    if variant_or_spec is not None and variant(variant_or_spec) != checkpoint.spec:
        raise QdbevError(
            f"{path} is a quantised '{checkpoint.spec.name}', not a '{variant(variant_or_spec).name}'",
            "the variant that the file says it is",
            f"use --variant {checkpoint.spec.name}, or leave it out",
        )
    recipe = recipe_from_dict(checkpoint.recipe, f"the recipe in {path}")
    with torch.device("meta"):  # until the file is known to fit, nothing is allocated for what it claims
        expected = quantise(BEVFormer(checkpoint.spec), recipe).state_dict()
    count, first = mismatch(expected, checkpoint.state_dict)
    if count:
        what = f"a '{checkpoint.spec.name}' quantised by its own recipe '{recipe.name}'"
        raise misfit(path, what, count, first, "export it again: the file contradicts itself")
    require_finite(path, checkpoint.state_dict, expected)
    model = quantise(build_model(checkpoint.spec), recipe)
    load_known(model, checkpoint.state_dict)
    if not unfinished and (unset := without_scale(model)):
        more = f" (nor have {len(unset) - 1} others)" if len(unset) > 1 else ""
        raise QdbevError(
            f"{path} is an unfinished student: the activation '{unset[0]}' has no scale yet{more}",
            "one whose training went on until every part had joined",
            "go on with its run: qdbev-deploy train --resume with the arguments it began with",
        )
    model.meta = checkpoint.meta
    return model.eval(), recipe
