"""Histograms and the scales chosen from them."""

from __future__ import annotations

import numpy as np
import pytest

from qdbev_deploy.calibration.grid import Grid
from qdbev_deploy.calibration.histogram import METHODS, Histogram
from qdbev_deploy.errors import QdbevError

GRID = Grid(6, True)


def histogram(*arrays: np.ndarray | list[float]) -> Histogram:
    result = Histogram()
    for array in arrays:
        result.add(np.asarray(array, dtype=np.float32))
    return result


def gaussian(count: int = 200_000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(count).astype(np.float32)


def test_nothing_is_lost_when_the_range_grows() -> None:
    grown = histogram([1.0, 0.5], [-7.0, 3.0], [0.1], [])
    assert grown.limit == 8.0
    assert grown.largest == 7.0
    assert float(grown.counts.sum()) == 5
    assert float((grown.counts * (grown.centers > 2.5)).sum()) == 2


def test_each_value_is_counted_where_it_belongs() -> None:
    counted = histogram([4.0], (np.arange(2048) + 0.25) / 512)
    assert counted.counts[-1] == 2  # the largest of all belongs to the last bin
    assert np.array_equal(counted.counts[:-1], np.ones(2047))


def test_minmax_covers_everything() -> None:
    assert histogram([3.1, -6.2]).scale("minmax", GRID) == pytest.approx(6.2 / 31)


def test_percentile_ignores_the_tail() -> None:
    x = np.concatenate([np.linspace(0, 1, 99_990), np.full(10, 50.0)])
    assert histogram(x).scale("percentile", GRID, 99.9) * 31 == pytest.approx(1.0, abs=0.05)


def test_mse_is_the_least_error_that_a_search_finds() -> None:
    x = gaussian()
    found = histogram(x).scale("mse", GRID)

    def error(scale: float) -> float:
        return float(np.square(x - np.clip(np.rint(x / scale), -32, 31) * scale).sum())

    best = min(error(float(clip) / 31) for clip in np.linspace(0.5, float(np.abs(x).max()), 200))
    assert error(found) <= best * 1.01


def test_entropy_clips_outliers_that_minmax_keeps() -> None:
    seen = histogram(np.concatenate([gaussian(), [60.0]]))
    assert seen.scale("entropy", GRID) < 0.25 * seen.scale("minmax", GRID)
    assert seen.scale("entropy", GRID) * 31 > 2  # but not the body of the distribution


@pytest.mark.parametrize("method", METHODS)
def test_zeros_have_a_scale(method: str) -> None:
    assert histogram(np.zeros(9)).scale(method, GRID) > 0  # type: ignore[arg-type]


def test_a_grid_of_few_levels_clips_harder() -> None:
    seen = histogram(gaussian())
    assert seen.scale("mse", Grid(4, True)) * 7 < seen.scale("mse", Grid(8, True)) * 127


def test_bad_input() -> None:
    with pytest.raises(QdbevError, match="not finite"):
        histogram([float("nan")])
    with pytest.raises(QdbevError, match="unknown calibration method 'guess'"):
        histogram([1.0]).scale("guess", GRID)  # type: ignore[arg-type]
