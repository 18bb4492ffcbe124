"""Documents that are none, and two that are compared: no verdict that the noise does not allow."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdbev_deploy.bench import sections
from qdbev_deploy.bench.compare import compare
from qdbev_deploy.bench.document import read, validate
from qdbev_deploy.bench.run import Request, bench, repeats_of
from qdbev_deploy.bench.samples import SampleRequest
from qdbev_deploy.bench.statistics import Series
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import write_json
from tests.bench.fakes import FakeBundle, FakeClock, FakeEngine, drive, scripted, tools
from tests.bench.test_run import plan
from tests.model.reference import SPEC


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    clock = FakeClock()
    bundle = FakeBundle(tmp_path_factory.mktemp("bench") / "fake.qdbev", FakeEngine(SPEC, clock, scripted([10, 11])))
    return bench(bundle, Request(plan(), SampleRequest()), tools=tools(clock, drive()))


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
    found = verdicts(template, [noise(1, scale=1.07), noise(2, scale=1.01)], [noise(3), noise(4)])
    assert found["p50"] == "no difference shown"
    assert verdicts(template, [noise(1, scale=1.04), noise(2, scale=1.04)], [noise(3), noise(4)])["p50"] == "faster"


def test_half_a_percent_is_never_shown(template: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    a, b = 10 + rng.normal(0, 0.001, 5000), 9.95 + rng.normal(0, 0.001, 5000)
    assert verdicts(template, [a], [b])["p50"] == "no difference shown"


def test_correlated_noise_is_not_taken_for_a_difference(template: dict[str, Any]) -> None:
    from tests.bench.test_statistics import correlated

    shown = 0
    for seed in range(12):
        a, b = (20 + correlated(np.random.default_rng(seed * 2 + side), 800, 0.97) for side in (0, 1))
        shown += verdicts(template, [a], [b])["p50"] != "no difference shown"
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
    a, b = document(template, noise(1)), document(template, noise(2))
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


def test_a_document_comes_back_as_it_was(template: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", template)
    assert read(tmp_path / "run.json") == json.loads(json.dumps(template))
