"""Histograms and the scales chosen from them."""

from __future__ import annotations

import pytest
import torch

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.quant.grid import Grid
from qdbev_deploy.quant.observers import METHODS, Histogram

GRID = Grid(6, True)


def histogram(*tensors: torch.Tensor) -> Histogram:
    result = Histogram()
    for tensor in tensors:
        result.add(tensor)
    return result


def gaussian(count: int = 200_000) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def test_nothing_is_lost_when_the_range_grows() -> None:
    grown = histogram(torch.tensor([1.0, 0.5]), torch.tensor([-7.0, 3.0]), torch.tensor([0.1]))
    assert grown.limit == 8.0
    assert grown.largest == 7.0
    assert float(grown.counts.sum()) == 5
    assert float((grown.counts * (grown.centers > 2.5)).sum()) == 2


def test_minmax_covers_everything() -> None:
    assert histogram(torch.tensor([3.1, -6.2])).scale("minmax", GRID) == pytest.approx(6.2 / 31)


def test_percentile_ignores_the_tail() -> None:
    x = torch.cat([torch.linspace(0, 1, 99_990), torch.full((10,), 50.0)])
    assert histogram(x).scale("percentile", GRID, 99.9) * 31 == pytest.approx(1.0, abs=0.05)


def test_mse_is_the_least_error_that_a_search_finds() -> None:
    x = gaussian()
    found = histogram(x).scale("mse", GRID)

    def error(scale: float) -> float:
        return float((x - (x / scale).round().clamp(-32, 31) * scale).square().sum())

    best = min(error(float(clip) / 31) for clip in torch.linspace(0.5, float(x.abs().max()), 200))
    assert error(found) <= best * 1.01


def test_entropy_clips_outliers_that_minmax_keeps() -> None:
    x = torch.cat([gaussian(), torch.tensor([60.0])])
    seen = histogram(x)
    assert seen.scale("entropy", GRID) < 0.25 * seen.scale("minmax", GRID)
    assert seen.scale("entropy", GRID) * 31 > 2  # but not the body of the distribution


@pytest.mark.parametrize("method", METHODS)
def test_zeros_have_a_scale(method: str) -> None:
    assert histogram(torch.zeros(9)).scale(method, GRID) > 0


def test_a_grid_of_few_levels_clips_harder() -> None:
    seen = histogram(gaussian())
    assert seen.scale("mse", Grid(4, True)) * 7 < seen.scale("mse", Grid(8, True)) * 127


def test_bad_input() -> None:
    with pytest.raises(QdbevError, match="not finite"):
        histogram(torch.tensor([float("nan")]))
    with pytest.raises(QdbevError, match="unknown calibration method 'guess'"):
        histogram(torch.ones(3)).scale("guess", GRID)  # type: ignore[arg-type]
