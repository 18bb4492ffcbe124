"""The page of a benchmark: whole, self-contained, honest, and closed to what its document may hold."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from qdbev_deploy.engine.interface import Layer
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.report import write_report
from qdbev_deploy.report.page import report_html
from tests.report.documents import bench_document

NASTY = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Reader(HTMLParser):
    """All tags with their attributes, and the text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.shown: list[str] = []
        self._inside: list[str] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.shown).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.shown.append(data)


def svgs(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_the_page_needs_nothing_but_itself() -> None:
    page = report_html(bench_document())
    for name, attributes in Reader(page).tags:
        assert name not in ("link", "img", "iframe", "object", "base")
        assert not {"src", "srcset", "onload", "onclick", "onerror"} & set(attributes)
        assert attributes.get("href", "#document") == "#document"
    assert not re.search(r"@import|url\(", page)
    assert "default-src &#x27;none&#x27;" in page
    drawings = svgs(page)
    assert len(drawings) >= 7
    for drawing in drawings:  # well-formed, and said to who cannot see it
        title = drawing.find("{http://www.w3.org/2000/svg}title")
        assert title is not None
        assert title.text
        assert drawing.get("role") == "img"
        numbers = re.findall(r"-?\d+(?:\.\d+)?|nan|inf", " ".join(filter(None, (e.get("d") for e in drawing.iter()))))
        assert not {"nan", "inf"} & set(numbers)


def test_the_document_can_be_taken_out_again() -> None:
    document = bench_document(50, command=["qdbev-deploy", "bench", NASTY])
    found = re.search(r'<script type="application/json" id="document">(.*?)</script>', report_html(document), re.DOTALL)
    assert found is not None
    assert json.loads(found.group(1)) == document


def test_nothing_in_a_document_becomes_markup() -> None:
    def nasty(value: Any) -> Any:
        """Every text of the document, and every key that we do not know, is an attempt."""
        if isinstance(value, dict):
            return {**{key: nasty(item) for key, item in value.items()}, NASTY: NASTY}
        if isinstance(value, list):
            return [nasty(item) for item in value]
        return NASTY if isinstance(value, str) else value

    plain, document = bench_document(60), nasty(bench_document(60))
    document["schema"] = plain["schema"]
    page = report_html(document)
    reader = Reader(page)
    assert sum(name == "script" for name, _ in reader.tags) == 2  # the document, and ours
    assert not any(name == "img" or "onerror" in attributes for name, attributes in reader.tags)
    assert NASTY in reader.text  # it is shown, as text
    for drawing in svgs(page):
        assert not any(element.tag.endswith("script") for element in drawing.iter())


def test_a_spike_among_a_hundred_thousand_frames_is_in_sight() -> None:
    document = bench_document(100_000)
    samples = document["latency_ms"]["samples"]
    spike = samples.index(58.25)
    timeline = svgs(report_html(document))[0]
    paths = [element.get("d") or "" for element in timeline.iter() if element.get("class") == "span"]
    heights = [float(value) for value in re.findall(r"V(-?[\d.]+)", paths[0])]
    assert len(heights) == 900
    column = int(np.argmin(heights))
    assert column == pytest.approx(900 * spike / len(samples), abs=1)
    assert min(heights) < min(h for i, h in enumerate(heights) if i != column) - 50  # pixels above all others
    titles = [element.text for element in timeline.iter() if element.tag.endswith("title")]
    assert f"frame {spike}: 58.2 ms, among the 5 slowest" in titles
    assert len("".join(paths)) < 30_000


def test_an_unstable_run_says_so_before_any_number() -> None:
    reasons = ["the GPU throttled: power cap", "CoV 14 %"]
    page = report_html(bench_document(stability={"stable": False, "reasons": reasons}))
    text = Reader(page).text
    assert re.search(r'<div class="banner bad" role="status"><strong>UNSTABLE', page)
    assert text.index("UNSTABLE") < text.index("31.6 ms")
    for reason in reasons:
        assert reason in text
    assert "STABLE nothing" not in text
    assert "UNSTABLE" not in Reader(report_html(bench_document())).text
    assert "STABILITY NOT JUDGED" in Reader(report_html(bench_document(stability=None))).text


def test_random_data_emulation_and_breaking_off_are_labelled() -> None:
    document = bench_document(partial=True)
    document["scenario"]["data"]["kind"] = "random"
    document["bundle"].update(emulated=True, precision_note="int8 is emulated in float")
    text = Reader(report_html(document)).text
    for word in ("RANDOM DATA", "EMULATED int8 is emulated in float", "PARTIAL"):
        assert word in text
    plain = Reader(report_html(bench_document())).text
    assert not any(word in plain for word in ("RANDOM DATA", "EMULATED", "PARTIAL"))


def test_percentiles_say_how_far_they_can_be_trusted() -> None:
    document = bench_document(2000)
    document["latency_ms"]["summary"]["p99.9"].update(low=33.0, high=None)
    page = report_html(document)
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    row = next(Reader(row).text for row in rows if "p99.9" in row)
    assert re.fullmatch(r"p99\.9 [\d.]+ 33 to \? 10,000 too few samples", row)
    assert "too few samples" not in next(Reader(row).text for row in rows if "p90" in row)
    assert "interval of 95 %" in Reader(page).text
    document["scenario"]["options"]["confidence"] = 0.999
    assert "interval of 99.9 %" in Reader(report_html(document)).text
    assert "95 %" not in Reader(report_html(document)).text


def test_a_percentile_of_too_few_samples_is_no_headline() -> None:
    document = bench_document(500)
    cards = dict(re.findall(r'<div class="(card[^"]*)"><span>(p50|p99)</span>', report_html(document)))
    assert cards == {"card": "p50", "card doubted": "p99"}
    assert "too few samples: it takes 1,000" in Reader(report_html(document)).text
    assert "card doubted" not in report_html(bench_document(2000))


def test_what_nobody_asked_for_is_not_called_unmeasured() -> None:
    document = bench_document(
        40,
        warmup=[{"frames": 10, "settled": None, "criterion": "10 frames, as asked for"}],
        clocks={"gpu_clock_mhz": None, "why_not": {"NVML": "no driver"}},
        overhead_us={
            "session": 5.9,
            "sensors": 755.8,
            "frames": 400,
            "share_of_p50": 0.0013,
            "in_measured_frames": {"rest": 95.6, "decode": None},
        },
    )
    document["scenario"]["options"]["duration_s"] = None
    text = Reader(report_html(document)).text
    assert "settled" not in text
    assert "duration" not in text
    assert "10 frames, as asked for" in text
    assert "gpu clock not measured" in text
    assert "reading all sensors, in no frame's latency 755.8 µs" in text
    assert (
        "in the measured frames: all else 95.6 µs with an engine that does nothing: ego motion and state 5.90" in text
    )
    assert "share of p50 0.130 %" in text


WRONG: tuple[Any, ...] = (
    None, True, "x", -1, 3.5, 10**400, float("nan"), [], {}, [None], ["x"], [3.5, 4.5], [[]], [{}], {"x": 1},
    {"value": "x"},
)  # fmt: skip


def everything(count: int = 8) -> dict[str, Any]:
    """A document with every section that there is."""
    document = bench_document(count)
    summary = document["latency_ms"]["summary"]
    phase = {"p50": {"value": 1.0, "low": None, "high": None}, "mean": 2.0, "min": 1.0, "max": 3.0}
    window = {"from_s": 0.0, "p50_ms": 3.0, "max_ms": 4.0, "rss_bytes": 4e8}
    document["stream"]["age_ms"] = document["latency_ms"]["by_events"] = summary
    document["power"]["sources"] = [{"source": "a", "covers": "b", "mean_w": 1.0, "energy_per_frame_j": 0.1}]
    return document | {
        "layers": document["layers"][:2], "warmup": [{"frames": 3, "settled": True}], "clocks": {"cpu_clock_mhz": 3.0},
        "soak": {"windows": [window, window | {"from_s": 60.0}], "drift_ms_per_hour": {"value": 0.6, "low": 0.4}},
        "cold": {"imports": phase, "first_start_ms": 3.0}, "co_located": {"each_ms": [{"p50": 1.0}, {"p50": 2.0}]},
        "loadgen": {"p50_ms": 3.0}, "overhead_us": {"session": 3.0, "in_measured_frames": {"rest": 90.0}},
    }  # fmt: skip


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a document; of a list to the first two."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [path for key, item in inner for path in ((*before, key), *places(item, (*before, key)))]


def test_whatever_a_document_holds_is_drawn_or_refused() -> None:
    """Every place in turn holds what it must not: a page comes out, or one of our errors."""
    drawn = refused = 0
    whole = everything()
    for index, path in enumerate(places(whole)):
        for wrong in WRONG[index % 4 :: 4]:  # every fourth one, as neighbours are of a kind
            document = copy.deepcopy(whole)
            inside = document
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = wrong
            try:
                assert report_html(document).startswith("<!doctype html>")
                drawn += 1
            except QdbevError:
                refused += 1
    assert refused > 50
    assert drawn > 500


def test_what_was_not_measured_is_said_with_the_reason() -> None:
    text = Reader(report_html(bench_document(layers=None, stages_ms=None, memory={}))).text
    assert "Not measured: RAPL: the kernel does not let it be read." in text
    assert "Not measured: the run took no profile" in text
    assert "Not measured: this run did not time them" in text
    assert (
        "Not measured: engine.context (the backend cannot tell); device (no NVML)"
        in Reader(report_html(bench_document())).text
    )
    stages = Reader(report_html(bench_document())).text
    assert "preprocess not measured" in stages
    assert "host to device 0.800" in stages


def test_layers_are_the_slowest_first_and_the_rest_is_told() -> None:
    document = bench_document(40)
    page = report_html(document)
    names = re.findall(r'class="name">([^<]*layers\.\d+/Gemm)<', page)
    assert [name.rpartition("layers.")[2] for name in names[:3]] == ["0/Gemm", "1/Gemm", "2/Gemm"]
    assert "35 further layers" in page
    total = sum(layer["time_ms"] for layer in document["layers"])
    int8 = sum(layer["time_ms"] for layer in document["layers"] if layer["precision"] == "int8")
    assert f"int8 {100 * int8 / total:.1f} %" in page
    assert "MACs" not in Reader(page).text
    # The bundle's layers know the multiply-accumulates, and join by name.
    layers = [Layer(entry["name"], "Gemm", "int8", (), macs=1_000_000) for entry in document["layers"]]
    joined = Reader(report_html(document, layers)).text
    assert "MACs" in joined
    assert "2 ms" in joined


def test_a_long_run_shows_its_windows() -> None:
    windows = [{"from_s": 60.0 * i, "frames": 100, "p50_ms": 31.0 + i / 100, "max_ms": 40.0, "rss_bytes": 4e8,
                "gpu_clock_mhz": None} for i in range(60)]  # fmt: skip
    drift = {"value": 0.6, "low": 0.4, "high": 0.8}
    text = Reader(report_html(bench_document(soak={"windows": windows, "drift_ms_per_hour": drift}))).text
    assert "Over hours" in text
    assert "0.600 (0.400 to 0.800)" in text


def test_what_one_scenario_alone_has_is_shown() -> None:
    phase = {"p50": {"value": 120.0, "low": None, "high": None}, "mean": 130.0, "min": 110.0, "max": 170.0, "count": 5}
    cold = {"imports": phase, "first_start_ms": 900.5, "file_cache": "not dropped"}
    beside = {"instances": 3, "as": "processes", "each_ms": [{"p50": 30.0, "p99": 33.0}, {"p50": 31.0, "p99": 34.0}],
              "times_slower": {"p50": 2.4}}  # fmt: skip
    text = Reader(report_html(bench_document(40, cold=cold, co_located=beside))).text
    assert "From a cold start" in text
    assert "imports 120 130 110 170" in text
    assert "first start 900.5 ms" in text
    assert "Beside others" in text
    assert "times slower p50 2.40" in text
    assert "each 2 p99 34" in text
    assert "From a cold start" not in Reader(report_html(bench_document(40))).text


@pytest.mark.parametrize("samples", [[30.0], [30.0] * 7, [0.0, 0.0], [1e-6, 5e5], [30.0, 30.0, 31.0]])
def test_few_or_strange_samples_are_drawn_all_the_same(samples: list[float]) -> None:
    document = bench_document(20)
    document["latency_ms"] = {"samples": samples, "summary": {"p50": {"value": samples[0]}}}
    page = report_html(document)
    assert not re.search(r'="-?(nan|inf)', page)
    assert svgs(page)


@pytest.mark.parametrize(
    ("document", "said"),
    [({}, "schema None"), ({"schema": "other/1"}, "'other/1'"),
     ({"schema": "qdbev-bench/1"}, "without a list of frame"),
     (bench_document(9) | {"latency_ms": {"samples": [1.0, None]}}, "without a list of frame"),
     (bench_document(9) | {"latency_ms": {"samples": []}}, "without a list of frame"),
     (bench_document(9) | {"latency_ms": {"samples": [float("inf")]}}, "samples is no finite number"),
     (bench_document(9) | {"repeats": 10**400}, "repeats is no finite number")],
)  # fmt: skip
def test_what_is_no_benchmark_is_refused(document: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match=said):
        write_report(document, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_the_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(bench_document(30), path)
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]
