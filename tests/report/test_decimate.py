"""However many samples there are, the slowest and the fastest are still to be seen."""

from __future__ import annotations

import numpy as np
import pytest

from qdbev_deploy.report.decimate import buckets, tail_ranks


@pytest.mark.parametrize("count", [1, 2, 899, 900, 901, 100_000])
def test_every_sample_is_in_one_bucket_and_extremes_survive(count: int) -> None:
    samples = np.random.default_rng(0).normal(30, 1, count)
    samples[count // 2] = 99.0
    samples[count // 3] = 1.0
    found = buckets(samples.tolist(), 900)
    assert len(found) == min(count, 900)
    assert [run.first for run in found[1:]] == [run.first + run.count for run in found[:-1]]
    assert sum(run.count for run in found) == count
    for run in found:
        inside = samples[run.first : run.first + run.count]
        assert (run.low, run.middle, run.high) == (inside.min(), np.median(inside), inside.max())
    assert max(run.high for run in found) == samples.max()
    assert min(run.low for run in found) == samples.min()


def test_no_samples_no_buckets() -> None:
    assert buckets([], 900) == []


@pytest.mark.parametrize("count", [1, 400, 401, 100_000])
def test_the_tail_is_drawn_sample_by_sample(count: int) -> None:
    ranks = tail_ranks(count)
    assert ranks == sorted(set(ranks))
    assert ranks[0] == 0
    assert ranks[-1] == count - 1
    assert len(ranks) <= 402
    assert set(range(max(count - 20, 0), count)) <= set(ranks)
