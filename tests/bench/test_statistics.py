"""Statistics against formulas by hand and against their own promises on simulated series."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qdbev_deploy.bench.statistics import (
    Series,
    block_bootstrap,
    block_length,
    design_effect,
    histogram,
    nearest_rank,
    percentile,
    rank_of,
    samples_needed,
    slope,
    student_t,
    summarise,
)


def correlated(rng: np.random.Generator, count: int, rho: float) -> Series:
    """A series in which each value keeps `rho` of the last one's deviation."""
    noise = rng.standard_normal(count) * math.sqrt(1 - rho**2)
    values = np.empty(count)
    values[0] = rng.standard_normal()
    for index in range(1, count):
        values[index] = rho * values[index - 1] + noise[index]
    return values + 10


@pytest.mark.parametrize(("percent", "needed"), [(50, 6), (90, 36), (95, 72), (99, 368), (99.9, 3688)])
def test_samples_needed_are_those_of_order_statistics(percent: float, needed: int) -> None:
    """The smallest n with both 1 - (1-p)^n and 1 - p^n at least 97.5 %, counted by hand."""
    assert samples_needed(percent, 0.95) == needed
    share = percent / 100
    assert max(share, 1 - share) ** needed <= 0.025 < max(share, 1 - share) ** (needed - 1)


def test_nearest_rank_is_a_sample_and_the_smallest_that_covers() -> None:
    values = np.arange(1.0, 101.0)
    found = [percentile(values, p, 0.95).value for p in (50, 90, 99, 99.9)]
    assert found == [50, 90, 99, 100]
    assert rank_of(99, 100) == 99  # and not 100 by rounding


def test_the_interval_of_a_median_is_the_table_of_the_binomial() -> None:
    """n = 100: ranks 40 and 61, as every table of the sign test has it."""
    values = np.random.default_rng(3).permutation(np.arange(1.0, 101.0))
    found = percentile(values, 50, 0.95)
    if design_effect((values <= found.value).astype(float)) == 1.0:
        assert (found.low, found.high) == (40.0, 61.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 40.0 < 61.0 <= found.high


def test_too_few_samples_have_no_upper_bound_and_say_so() -> None:
    values = np.random.default_rng(0).standard_normal(200)
    tail = percentile(values, 99.9, 0.95)
    assert tail.high is None
    assert not tail.enough
    assert tail.needed >= 3688
    assert percentile(values, 50, 0.95).enough


@pytest.mark.parametrize(("percent", "count"), [(50, 200), (90, 400), (99, 1000)])
def test_intervals_cover_as_often_as_they_promise(percent: float, count: int) -> None:
    rng = np.random.default_rng(1)
    truth = -math.log(1 - percent / 100)  # of the exponential distribution
    rounds = 400
    hits = 0
    for _ in range(rounds):
        found = percentile(rng.exponential(size=count), percent, 0.95)
        hits += (found.low or -math.inf) <= truth <= (math.inf if found.high is None else found.high)
    assert hits / rounds >= 0.935


def test_correlated_samples_are_worth_fewer_and_their_intervals_still_cover() -> None:
    rng = np.random.default_rng(2)
    rounds, ours, naive = 300, 0, 0
    for _ in range(rounds):
        values = correlated(rng, 500, 0.8)
        found = percentile(values, 50, 0.95)
        assert found.low is not None
        assert found.high is not None
        ours += found.low <= 10 <= found.high
        ordered = np.sort(values)
        naive += ordered[228 - 1] <= 10 <= ordered[273 - 1]  # ranks for 500 independent samples
    assert naive / rounds < 0.75  # the mistake that is avoided
    assert ours / rounds >= 0.9


def test_a_tail_of_samples_that_hang_together_is_not_called_enough() -> None:
    """In 300 samples that each keep 95 % of the last, the 5 % above p95 are two or three excursions."""
    rng = np.random.default_rng(8)
    truth = 10 + 1.6449
    wrong = 0
    for _ in range(150):
        found = percentile(correlated(rng, 300, 0.95), 95, 0.95)
        if found.enough:
            assert found.low is not None
            assert found.high is not None
            wrong += not found.low <= truth <= found.high
    assert wrong / 150 < 0.08  # taken by the indicator alone, it is almost a half


def test_the_design_effect_is_that_of_the_series() -> None:
    rng = np.random.default_rng(4)
    assert design_effect(rng.standard_normal(20_000)) == pytest.approx(1, abs=0.15)
    # An AR(1) with 0.8: (1 + 0.8) / (1 - 0.8) = 9
    assert design_effect(correlated(rng, 100_000, 0.8)) == pytest.approx(9, rel=0.15)
    assert design_effect(np.full(100, 3.7)) == 1
    assert design_effect(np.array([1.0, 2.0])) == 1


def test_slopes_and_their_intervals() -> None:
    x = np.arange(10.0)
    exact = slope(x, 2 * x + 1, 0.95)
    assert exact.value == pytest.approx(2)
    assert exact.low == pytest.approx(2)
    assert exact.rises
    assert slope(x[:2], x[:2], 0.95).low == -math.inf
    # Two groups at other levels, each rising by 1: together they would fall.
    steps = slope(np.array([0.0, 1, 2, 3, 4, 5]), np.array([10.0, 11, 12, 0, 1, 2]), 0.95, np.array([0, 0, 0, 1, 1, 1]))
    assert steps.value == pytest.approx(1)


def test_a_wandering_level_is_not_taken_for_a_slope() -> None:
    rng = np.random.default_rng(5)
    x = np.arange(300.0)
    rises = sum(slope(x, correlated(rng, 300, 0.9), 0.95).rises for _ in range(200))
    assert rises / 200 < 0.1  # 0.025 is promised; taken as independent, it would be a third


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (1e6, 1.96)]
)
def test_students_t_is_that_of_the_tables(freedom: float, value: float) -> None:
    assert student_t(0.95, freedom) == pytest.approx(value, rel=0.01)


def test_the_bootstrap_keeps_what_hangs_together_and_repeats_itself() -> None:
    rng = np.random.default_rng(6)
    values = correlated(rng, 2000, 0.9)
    means = block_bootstrap([values], [lambda v: float(v.mean())], 300, 0)[:, 0]
    # The mean of an AR(1) with 0.9 scatters sqrt(19) times as much as of independent samples: 1 / sqrt(2000) * 4.36
    assert means.std() == pytest.approx(4.36 / math.sqrt(2000), rel=0.35)
    assert np.array_equal(means, block_bootstrap([values], [lambda v: float(v.mean())], 300, 0)[:, 0])
    assert nearest_rank(50)(np.array([3.0, 1.0, 2.0])) == 2.0


def test_a_series_of_few_blocks_is_not_resampled_as_if_it_were_many() -> None:
    rng = np.random.default_rng(9)
    drifting = correlated(rng, 300, 0.999)
    assert block_length(drifting) is None
    assert block_length(correlated(rng, 5000, 0.9)) is not None
    assert block_length(rng.standard_normal(7)) == 2
    # Even so, blocks never fill the series: that would only turn it round, and nothing would vary.
    means = block_bootstrap([drifting], [lambda v: float(v.mean())], 200, 0)[:, 0]
    assert means.std() > 0.2 * drifting.std()


def test_histograms_count_every_sample_also_of_a_constant() -> None:
    values = np.random.default_rng(7).exponential(size=1000)
    found = histogram(values)
    assert sum(found["counts"]) == 1000
    assert found["edges"][0] == pytest.approx(values.min())
    assert 1 <= len(found["counts"]) <= 100
    constant = histogram(np.full(5, 2.0))
    assert constant["counts"] == [5]
    assert constant["edges"][0] < 2 < constant["edges"][1]


def test_a_summary_has_what_the_document_needs() -> None:
    found = summarise(np.array([1.0, 2.0, 3.0, 4.0]), 0.95).to_dict()
    assert found["mean"] == 2.5
    assert found["cov"] == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2.5)
    assert found["p99.9"]["value"] == 4.0
    assert summarise(np.array([5.0]), 0.95).std == 0
