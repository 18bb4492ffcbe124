"""Which frames a slow processor takes, and whose output is on display."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.schedule import Latency, simulate

ARRIVALS = [index * 80_000 for index in range(9)]


def run(*latencies_ms: float, arrivals: list[int] = ARRIVALS):
    return simulate(arrivals, Latency(latencies_ms, "test").cycle_us())


def test_no_latency_shows_each_frame_at_once():
    schedule = run(0.0)
    assert schedule.shown == tuple(range(9))
    assert schedule.dropped == ()


def test_one_period_is_one_frame_late_and_drops_nothing():
    schedule = run(80.0)
    assert schedule.shown == (None, 0, 1, 2, 3, 4, 5, 6, 7)
    assert schedule.dropped == ()


def test_a_hair_more_than_a_period_waits_and_stays_two_frames_late():
    """Each frame starts a little later after its arrival than the one before, until one has to be dropped."""
    schedule = run(80.001)
    assert schedule.shown == (None, None, 0, 1, 2, 3, 4, 5, 6)
    assert schedule.dropped == ()


def test_worked_example_of_the_documentation():
    """200 ms at 12.5 Hz: frame 0 runs 0-200, 2 runs 200-400 (1 was ousted), 5 runs 400-600 (3 and 4 were ousted; 5
    arrived in the very moment), 7 from 600 (6 was ousted)."""
    schedule = run(200.0)
    assert schedule.shown == (None, None, None, 0, 0, 2, 2, 2, 5)
    assert schedule.dropped == (1, 3, 4, 6)


def test_latencies_are_taken_in_turn_by_the_frames_that_are_processed():
    # 0: 0-200; 1 is ousted by 2; 2: 200-230; 3: 240-440; 4 is ousted by 5; 5: 440-470; 6: 480-680; 7 is ousted by 8
    schedule = run(200.0, 30.0)
    assert schedule.shown == (None, None, None, 2, 2, 2, 5, 5, 5)
    assert schedule.dropped == (1, 4, 7)


def test_output_of_a_scene_never_comes_when_it_is_shorter_than_the_latency():
    schedule = run(5000.0)
    assert set(schedule.shown) == {None}
    assert schedule.dropped == (1, 2, 3, 4, 5, 6, 7)  # 8 still waits


@pytest.mark.parametrize("latency", [(-1.0,), (float("nan"),), (float("inf"),), (1e307,), ()])
def test_a_latency_that_is_none_is_refused(latency: tuple[float, ...]):
    with pytest.raises(QdbevError, match="latency"):
        Latency(latency, "test")


def test_latencies_come_from_a_benchmark(tmp_path: Path):
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps({"latency_ms": {"p50": 3.0, "samples": [3.0, 4.5]}}))
    assert Latency.from_bench(bench) == Latency((3.0, 4.5), "2 samples of bench.json")


def test_what_a_benchmark_says_of_itself_is_kept(tmp_path: Path):
    bench = tmp_path / "bench.json"
    document = {"latency_ms": {"samples": [3.0]}, "bundle": {"manifest_sha256": "ab"}}
    for stability, unstable in (
        ({"stable": True, "reasons": []}, ()),
        ({"stable": False, "reasons": ["it drifts"]}, ("it drifts",)),
        ({"stable": False}, ("the benchmark does not say why",)),
        ("steady", ()),
    ):
        bench.write_text(json.dumps(document | {"stability": stability}))
        found = Latency.from_bench(bench)
        assert (found.unstable, found.bundle) == (unstable, "ab")
        assert ("unstable" in found.source) == bool(unstable)
    bench.write_text(json.dumps({"latency_ms": {"samples": [3.0]}, "bundle": 3}))
    assert Latency.from_bench(bench).bundle is None


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ("[10, NaN]", r"samples\[1\] is NaN"),
        ("[10, 20, -0.5]", r"samples\[2\] is -0\.5"),
        ("[Infinity]", r"samples\[0\] is Infinity"),
        ('[1, "3"]', r"samples\[1\] is \"3\""),
        ("[1, true]", r"samples\[1\] is true"),
        ("[1, " + "9" * 400 + "]", r"samples\[1\] is 9{40}\.\.\.$"),
        ("[" + "9" * 5000 + "]", "cannot be read as JSON"),
    ],
)
def test_a_sample_that_is_no_latency_is_named_with_its_index(tmp_path: Path, samples: str, said: str):
    bench = tmp_path / "bench.json"
    bench.write_text(f'{{"latency_ms": {{"samples": {samples}}}}}')
    with pytest.raises(QdbevError) as caught:
        Latency.from_bench(bench)
    assert re.search(said, caught.value.found)
    assert "bench.json" in caught.value.found
    assert "qdbev-deploy bench BUNDLE -o BENCH.json" in caught.value.next_step


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"latency_ms": 3}', '{"latency_ms": {"samples": []}}', '{"latency_ms": {"samples": ["3"]}}'],
)
def test_a_file_that_is_no_benchmark_is_named(tmp_path: Path, content: str):
    bench = tmp_path / "bench.json"
    bench.write_text(content)
    with pytest.raises(QdbevError, match=r"bench\.json"):
        Latency.from_bench(bench)
    with pytest.raises(QdbevError, match="there is no file"):
        Latency.from_bench(tmp_path / "other.json")
