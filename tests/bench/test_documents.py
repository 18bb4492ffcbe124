"""Documents that are none, and two that are compared: no verdict that the noise does not allow."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from qdbev_deploy.bench import sections
from qdbev_deploy.bench.cold import ColdStart, cold_section
from qdbev_deploy.bench.colocated import Neighbours, Side
from qdbev_deploy.bench.compare import UNREPEATED_DIFFERENCE, compare
from qdbev_deploy.bench.document import read, validate
from qdbev_deploy.bench.run import Request, bench, repeats_of
from qdbev_deploy.bench.samples import SampleRequest
from qdbev_deploy.bench.scenarios import StreamPlan
from qdbev_deploy.bench.statistics import Series
from qdbev_deploy.bench.table import show, show_comparison
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import write_json
from tests.bench.fakes import FakeBundle, FakeClock, FakeEngine, FakeSensor, drive, measured, scripted, tools
from tests.bench.test_run import plan
from tests.model.reference import SPEC


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    clock = FakeClock()
    bundle = FakeBundle(tmp_path_factory.mktemp("bench") / "fake.qdbev", FakeEngine(SPEC, clock, scripted([10, 11])))
    return bench(bundle, Request(plan(), SampleRequest()), tools=tools(clock, drive()))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A document with every section that there is."""
    clock = FakeClock()
    bundle = FakeBundle(tmp_path_factory.mktemp("bench") / "fake.qdbev", FakeEngine(SPEC, clock, scripted([5, 6])))
    sensors = (
        FakeSensor("NVML", gpu_process_bytes=float, gpu_energy_j=float, gpu_clock_mhz=float, gpu_throttle_mask=float),
        FakeSensor("processor time", machine_busy_s=float, process_busy_s=float, stolen_s=float, preempted_count=float),
    )
    soak = plan(scenario="soak", duration_s=1.2, stream=StreamPlan(100))
    found = bench(bundle, Request(soak, SampleRequest()), tools=tools(clock, drive(), *sensors))
    side = Side(measured([10.0, 11.0]), (measured([12.0, 13.0]),), {})
    found["co_located"] = side.to_dict(Neighbours(1, load="cpu"), 0.95)
    found["cold"] = cold_section([ColdStart(1, 2, 3, 4, 5)] * 2, 0.95)
    found["loadgen"] = {
        "scenario": "Server", "asked": 2, "result": {"Result is": "VALID", "Early stopping satisfied": "NO"},
        "valid": "VALID", "logs": ["a.txt"], "order": "as they come", "note": "none", "latency_ms": {"p50": 3.0},
        "samples_per_second": 4.0, "latency_of": "a query",
    }  # fmt: skip
    found["system"]["gpu"] = {
        "name": "A GPU", "compute_capability": "9.0", "memory_bytes": 5, "driver": "1", "count": 1, "mig": False,
    }  # fmt: skip
    return found


def document(template: dict[str, Any], *repeats: Series) -> dict[str, Any]:
    """The template with other samples, in repeats."""
    values = np.concatenate(repeats)
    return {
        **copy.deepcopy(template),
        **repeats_of(repeats),
        "latency_ms": sections.latency_section(values, 0.95, None),
        "stability": {"stable": True, "reasons": []},
    }


def noise(seed: int, count: int = 600, scale: float = 1.0) -> Series:
    return scale * (10 + np.random.default_rng(seed).gamma(2.0, 0.3, count))


def verdicts(template: dict[str, Any], a: list[Series], b: list[Series]) -> dict[str, str]:
    found = compare(document(template, *a), document(template, *b))
    return {name: ratio.verdict for name, ratio in found.ratios.items()}


def test_the_same_twice_is_no_difference(template: dict[str, Any]) -> None:
    for seed in range(5):
        found = verdicts(template, [noise(seed), noise(seed + 50)], [noise(seed + 100), noise(seed + 150)])
        assert found["p50"] == "no difference shown"
        assert found["p99"] == "no difference shown"


def test_a_real_difference_is_shown_in_its_direction(template: dict[str, Any]) -> None:
    slow, fast = [noise(1, scale=1.2), noise(2, scale=1.2)], [noise(3), noise(4)]
    assert verdicts(template, slow, fast) == {"p50": "faster", "p99": "faster"}
    found = compare(document(template, *fast), document(template, *slow))
    assert found.verdict == "slower"
    assert found.slower
    ratio = found.ratios["p50"]
    assert ratio.low < 1.2 < ratio.high
    assert ratio.ratio == pytest.approx(1.2, abs=0.02)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_difference_smaller_than_that_between_repeats_is_not_shown(template: dict[str, Any]) -> None:
    """B is 4 % faster with tight intervals, but A's own repeats lie 6 % apart."""
    fast = [noise(3), noise(4), noise(7)]
    found = verdicts(template, [noise(seed, scale=scale) for seed, scale in ((1, 1.07), (2, 1.01), (5, 1.04))], fast)
    assert found["p50"] == "no difference shown"
    assert verdicts(template, [noise(seed, scale=1.04) for seed in (1, 2, 5)], fast)["p50"] == "faster"


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_runs_that_differ_by_chance_are_no_difference(
    template: dict[str, Any], repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same thing against itself, with 3 % of deviation from run to run: as often wrong as promised, at most."""
    rng = np.random.default_rng(repeats)

    def runs() -> list[Series]:
        return [noise(int(rng.integers(1 << 30)), 80, 1 + 0.03 * rng.standard_normal()) for _ in range(repeats)]

    monkeypatch.setattr("qdbev_deploy.bench.compare.ROUNDS", 100)
    shown = sum(verdicts(template, runs(), runs())["p50"] in ("faster", "slower") for _ in range(25))
    assert shown <= 2


def test_without_repeats_only_a_large_difference_is_shown_and_it_is_said(template: dict[str, Any]) -> None:
    assert verdicts(template, [noise(1, scale=1.1)], [noise(2)])["p50"] == "no difference shown"
    found = compare(document(template, noise(1, scale=1.3)), document(template, noise(2)))
    assert found.verdict == "faster"
    assert found.floor == UNREPEATED_DIFFERENCE
    assert any("too few repeats" in warning for warning in found.warnings)
    # Instances side by side are one run, however many they are.
    pair = [
        document(template, *(noise(seed + side, scale=1.1 - 0.1 * side) for seed in (10, 20, 30))) for side in (0, 1)
    ]
    assert compare(*pair).verdict == "faster"
    for one in pair:
        one["scenario"]["name"] = "co-located"
    assert compare(*pair).verdict == "no difference shown"


def test_a_series_that_hangs_together_throughout_has_no_verdict(template: dict[str, Any]) -> None:
    from tests.bench.test_statistics import correlated

    rng = np.random.default_rng(0)
    a, b = ([scale * (20 + correlated(rng, 300, 0.99)) for _ in range(3)] for scale in (1.5, 1.0))
    assert verdicts(template, a, b)["p50"] == "too few samples"


def test_half_a_percent_is_never_shown(template: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    a, b = ([middle + rng.normal(0, 0.001, 1000) for _ in range(3)] for middle in (10, 9.95))
    assert verdicts(template, a, b)["p50"] == "no difference shown"


def test_correlated_noise_is_not_taken_for_a_difference(template: dict[str, Any]) -> None:
    from tests.bench.test_statistics import correlated

    shown = 0
    for seed in range(12):
        a, b = (20 + correlated(np.random.default_rng(seed * 2 + side), 800, 0.97) for side in (0, 1))
        shown += verdicts(template, [a], [b])["p50"] in ("faster", "slower")
    assert shown <= 2


def test_p99_of_few_samples_has_no_verdict(template: dict[str, Any]) -> None:
    found = verdicts(template, [noise(1, 100)], [noise(2, 100, 2.0)])
    assert found == {"p50": "slower", "p99": "too few samples"}


def test_random_and_sequence_are_not_compared(template: dict[str, Any]) -> None:
    a, b = document(template, noise(1)), document(template, noise(2))
    b["scenario"]["data"]["kind"] = "random"
    with pytest.raises(QdbevError, match="sequence data and one on random"):
        compare(a, b)
    b = document(template, noise(2))
    b["scenario"]["name"] = "cold"
    with pytest.raises(QdbevError, match="'single' and 'cold'"):
        compare(a, b)


def test_what_differs_besides_is_named(template: dict[str, Any]) -> None:
    a, b = (document(template, *(noise(seed + side) for seed in (1, 4, 7))) for side in (0, 1))
    b["system"]["cpu"] = "Another CPU"
    b["bundle"]["precision"] = "fp32"
    b["scenario"]["options"]["wait"] = "spin"
    b["system"]["versions"]["onnxruntime"] = "9.9"
    b["stability"] = {"stable": False, "reasons": ["latency scatters"]}
    text = "\n".join(compare(a, b).warnings)
    for words in ("different processors", "different precisions: int8 and fp32", "wait block and spin",
                  "versions of onnxruntime", "B is UNSTABLE: latency scatters"):  # fmt: skip
        assert words in text
    assert compare(a, a).warnings == ()


# ----------------------------------------------------------------------------------------------------------------------
# Foreign and broken documents


def break_at(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    broken = copy.deepcopy(document)
    *folders, last = path.split(".")
    inside = broken
    for name in folders:
        inside = inside[name]
    if value is None:
        del inside[last]
    else:
        inside[last] = value
    return broken


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("schema", "qdbev-bench/2", "schema 'qdbev-bench/2'"),
        ("schema", None, "no benchmark of qdbev-deploy"),
        ("latency_ms.samples", [], "empty"),
        ("latency_ms.samples", [1, float("nan")], "latency_ms.samples"),
        ("latency_ms.samples", [1, -2], "latency_ms.samples"),
        ("latency_ms.samples", ["1"], "latency_ms.samples"),
        ("latency_ms.samples", [1.0], "do not add up"),
        ("latency_ms.samples", [10**400], "latency_ms.samples"),
        ("by_repeat.frames", [3.5, 8.5], "by_repeat.frames"),
        ("by_repeat.medians_ms", [], "one entry a repeat"),
        ("latency_ms.histogram.edges", [], "one edge more"),
        ("clocks", "x", "clocks is no object"),
        ("co_located", {}, "co_located.instances is missing"),
        ("stages_ms.decode", 3, "stages_ms.decode is no object"),
        ("warmup", [3], "warmup[0] is no object"),
        ("scenario.options.confidence", 7, "confidence"),
        ("latency_ms.summary.p99", None, "latency_ms.summary.p99 is missing"),
        ("latency_ms.summary.p50", 3, "latency_ms.summary.p50 is no object"),
        ("scenario.data.kind", "other", "neither sequence nor random"),
        ("stability.stable", "yes", "stability.stable"),
        ("system", [], "system is no object"),
        ("bundle.engine_bytes", -1, "bundle.engine_bytes"),
    ],
)
def test_what_is_no_document_is_refused_with_the_field(
    template: dict[str, Any], path: str, value: Any, says: str
) -> None:
    with pytest.raises(QdbevError) as caught:
        validate(break_at(template, path, value), "run.json")
    assert says in str(caught.value)
    assert "run.json" in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", '"text"', '{"latency_ms": {"samples": [1]}}', "\xff"])
def test_files_that_are_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(QdbevError):
        read(path)
    with pytest.raises(QdbevError, match="no file"):
        read(tmp_path / "absent.json")


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a document with every key of it; of a list, the first item stands for all."""
    keys = list(value) if isinstance(value, dict) else list(range(min(len(value), 1)))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def test_whatever_stands_at_any_place_is_refused_or_shown(everything: dict[str, Any], tmp_path: Path) -> None:
    """Each value of a document of all sections, replaced by values of every kind: an error of ours, or a table."""
    wrong: list[Any] = [None, -1, 3.5, 10**400, float("nan"), "[/x]", [], [None], {}]
    fuzzed = json.loads(json.dumps(everything))
    validate(fuzzed, "as it is")
    console, shown, refused = Console(file=io.StringIO(), width=200), 0, 0
    for number, (container, key) in enumerate(places(fuzzed)):
        kept = container[key]
        for index, value in enumerate(wrong):
            container[key] = value
            try:
                validate(fuzzed, "run.json")
            except QdbevError:
                refused += 1
                continue
            # Rendering is slow: each place is shown with some of what it may hold, text first.
            if value == "[/x]" or (number + index) % 29 == 0:
                show(fuzzed, console)
                shown += 1
        container[key] = kept
    assert refused > 2000
    assert shown > 50


def test_a_comparison_of_odd_documents_is_an_error_of_ours_or_a_verdict(everything: dict[str, Any]) -> None:
    fuzzed, whole = (json.loads(json.dumps(everything)) for _ in range(2))
    checked = 0
    for part in ("by_repeat", "latency_ms", "stability", "bundle", "scenario"):
        for container, key in places(fuzzed[part]):
            kept = container[key]
            for value in (None, 0, 3.5, "[/x]", []):
                container[key] = value
                with contextlib.suppress(QdbevError):
                    validate(fuzzed, "b.json")
                    if key in ("samples", "name", "frames", 0, "stream", "reasons"):
                        show_comparison("a", "b", compare(whole, fuzzed), Console(file=io.StringIO()))
                        checked += 1
            container[key] = kept
    assert checked > 5


def test_a_document_comes_back_as_it_was(template: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", template)
    assert read(tmp_path / "run.json") == json.loads(json.dumps(template))
