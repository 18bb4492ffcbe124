"""What calibrating needs with and without torch: recipes, grids, scales from histograms, frames, the cache."""

from qdbev_deploy.calibration.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe"]
