"""Quantisers, recipes, calibration: from a float model to one whose every integer is known."""

from qdbev_deploy.calibration.recipe import Recipe, load_recipe
from qdbev_deploy.quant.checkpoint import load_model, save_student
from qdbev_deploy.quant.quantise import Integers, integers, quantise

__all__ = ["Integers", "Recipe", "integers", "load_model", "load_recipe", "quantise", "save_student"]
