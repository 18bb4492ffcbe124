"""The sections of the report, top to bottom. Each takes the benchmark and returns an element."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from qdbev_deploy.report import bar_plots, latency_plots
from qdbev_deploy.report.bar_plots import Bar
from qdbev_deploy.report.document import Bench, LayerRow, is_number, mappings
from qdbev_deploy.report.latency_plots import percentiles
from qdbev_deploy.report.markup import Element, join, tag, text
from qdbev_deploy.report.units import byte_size, milliseconds, number, share, titled, valued

STAGES = {
    "host_prep": "host prep", "h2d": "host to device", "preprocess": "preprocess", "enqueue": "enqueue",
    "compute": "compute", "d2h": "device to host", "decode": "decode", "rest": "all else",
}  # fmt: skip
OVERHEAD = {
    "session": "with an engine that does nothing: ego motion and state", "harness": "loop and recording around that",
    "beyond_step": "both together", "decode": "decoding then",
    "sensors": "reading all sensors, in no frame's latency", "timer": "reading the clock",
}  # fmt: skip
PRECISIONS = ("int8", "float16", "bfloat16", "mixed", "float32", "int32", "")
TOP_LAYERS = 25


def precision_class(precision: str) -> str:
    """The class that colours a precision."""
    return f"precision-{precision}" if precision in PRECISIONS and precision else "precision-none"


def precision_label(precision: str) -> str:
    return {"": "moves data", "float16": "fp16", "float32": "fp32", "bfloat16": "bf16"}.get(precision, precision)


def _section(title: str, *children: object, note: str = "") -> Element:
    return tag("section", tag("h2", title), *children, tag("p", note, class_="note") if note else "")


def _missing(title: str, reason: str) -> Element:
    return _section(title, tag("p", f"Not measured: {reason}.", class_="missing"))


def _table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, numbers_from: int = 1) -> Element:
    """A table whose columns from `numbers_from` on hold numbers."""
    head = tag("tr", *(tag("th", name, scope="col", class_="n" if i >= numbers_from else None)
                       for i, name in enumerate(headings)))  # fmt: skip
    body = [
        tag("tr", *(tag("td", cell, class_="n" if i >= numbers_from else None) for i, cell in enumerate(row)))
        for row in rows
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll")


def _facts(values: Mapping[str, Any]) -> Element:
    """Nested values as pairs; lists of numbers are plots elsewhere and are left out."""
    return _pairs([pair for key, value in values.items() for pair in _flat(str(key), value)])


def _asked(value: Any) -> Any:
    """Settings without those that are null, which nobody asked for."""
    if isinstance(value, Mapping):
        return {key: _asked(item) for key, item in value.items() if item is not None}
    return [_asked(item) for item in value if item is not None] if isinstance(value, list) else value


def _pairs(pairs: Sequence[tuple[str, str]]) -> Element:
    return tag("dl", *(join(tag("dt", name), tag("dd", said)) for name, said in pairs), class_="facts")


def _flat(key: str, value: object, before: str = "") -> list[tuple[str, str]]:
    name = f"{before} {titled(key)}".strip()
    if isinstance(value, Mapping):
        if "value" in value:  # with its interval
            interval = _interval(value)
            return [(name, valued(key, value["value"]) + (f" ({interval})" if interval else ""))]
        return [pair for inner, item in value.items() for pair in _flat(str(inner), item, name)]
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        return [pair for index, item in enumerate(value, start=1) for pair in _flat(str(index), item, name)]
    return [] if is_series(value) else [(name, valued(key, value))]


def _reasons(values: Mapping[str, Any]) -> Element:
    """What could not be measured, and why."""
    why = values.get("why_not")
    if not isinstance(why, Mapping) or not why:
        return text("")
    told = (str(reason) if name == "all" else f"{titled(str(name))} ({reason})" for name, reason in why.items())
    return tag("p", "Not measured: ", "; ".join(told), ".", class_="missing")


def is_series(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 1 and all(map(is_number, value))


# ----------------------------------------------------------------------------------------------------------------------


def header(bench: Bench) -> Element:
    bundle, system, scenario = bench.part("bundle"), bench.part("system"), bench.part("scenario")
    data = scenario.get("data") if isinstance(scenario.get("data"), Mapping) else {}
    machine = system.get("gpu") or system.get("cpu") or "an unnamed machine"
    if isinstance(machine, Mapping):
        machine = machine.get("name", "an unnamed machine")
    precision = bundle.get("precision")
    if bundle.get("emulated") is True:
        precision = f"{precision}, emulated"
    chips = [
        ("scenario", scenario.get("name")), ("data", data.get("kind") if data else None),
        ("variant", bundle.get("variant")), ("backend", bundle.get("backend")), ("precision", precision),
        ("image", bundle.get("image")), ("state", bundle.get("io")),
    ]  # fmt: skip
    source = data.get("source") if data else None
    return tag(
        "header",
        tag("p", "qdbev-deploy bench", class_="eyebrow"),
        tag("h1", bundle.get("name", "an unnamed bundle")),
        tag("p", f"on {machine}, {bench.document.get('date', 'at an unknown time')}", class_="where"),
        tag("ul", *(tag("li", tag("span", name), value) for name, value in chips if value), class_="chips"),
        tag("p", f"Frames: {source}", class_="note") if source else "",
    )


def verdict(bench: Bench) -> Element:
    """What must be known before any number is read."""
    stability, bundle = bench.part("stability"), bench.part("bundle")
    data = bench.part("scenario").get("data")
    reasons = stability.get("reasons")
    reasons = list(reasons) if isinstance(reasons, (list, tuple)) else [reasons] if reasons else []
    said = []
    if not stability:
        said.append(_banner("unknown", "STABILITY NOT JUDGED", "the document does not say whether the run was stable"))
    elif stability.get("stable") is True:
        said.append(_banner("good", "STABLE", "nothing in this run asks for its numbers to be doubted"))
    else:
        listed = tag("ul", *(tag("li", reason) for reason in reasons or ["no reason was recorded"]))
        said.append(_banner("bad", "UNSTABLE", "do not quote these numbers:", listed))
    if isinstance(data, Mapping) and data.get("kind") == "random":
        words = "the inputs were noise; what a gather costs depends on its data, so a drive may take longer or shorter"
        said.append(_banner("warn", "RANDOM DATA", words))
    if bundle.get("emulated") is True:
        words = bundle.get("precision_note") or "the low precision is emulated: these times say nothing of its speed"
        said.append(_banner("warn", "EMULATED", str(words)))
    if bench.document.get("partial") is True:
        said.append(_banner("warn", "PARTIAL", "the run was interrupted; what it had measured by then is here"))
    return join(*said)


def _banner(kind: str, word: str, says: str, *more: Element) -> Element:
    return tag("div", tag("strong", word), tag("div", tag("p", says), *more), class_=f"banner {kind}", role="status")


def _value(entry: object) -> float | None:
    found = entry.get("value") if isinstance(entry, Mapping) else entry
    return float(found) if is_number(found) else None


def cards(bench: Bench) -> Element:
    """The few numbers that are asked for first."""
    summary, stream = bench.summary, bench.part("stream")
    shown: list[tuple[str, str, str]] = []
    doubted = set()
    for name in ("p50", "p99", "max"):
        entry = summary.get(name)
        value = _value(entry)
        if value is not None:
            interval = _interval(entry)
            note = f"{interval}, {bench.confidence}" if interval else ""
            if isinstance(entry, Mapping) and entry.get("enough") is False:
                doubted.add(name)
                note = _too_few(entry)
            shown.append((name, milliseconds(value), note))
    if is_number(summary.get("cov")):
        shown.append(("variation", f"{100 * summary['cov']:.1f} %", "deviation over mean"))
    shown.append(("frames", f"{len(bench.samples):,}", f"{bench.document.get('repeats', 1)} repeat(s)"))
    for key, label in (("dropped", "frames dropped"), ("misses", "deadlines missed")):
        if is_number(stream.get(key)):
            shown.append(
                (
                    label,
                    number(stream[key]),
                    f"of {number(stream['arrived'])}" if is_number(stream.get("arrived")) else "",
                )
            )
    return tag(
        "div",
        *(
            tag("div", tag("span", name), tag("b", value), tag("small", note),
                class_="card doubted" if name in doubted else "card")
            for name, value, note in shown
        ),
        class_="cards",
    )  # fmt: skip


def _too_few(entry: Mapping[str, Any]) -> str:
    needed = entry.get("needed")
    return f"too few samples: it takes {number(needed)}" if is_number(needed) else "too few samples"


def _interval(entry: object) -> str:
    """The interval as far as the samples give it; "" where they give none."""
    low, high = (entry.get("low"), entry.get("high")) if isinstance(entry, Mapping) else (None, None)
    if not is_number(low) and not is_number(high):
        return ""
    ends = [number(end) if is_number(end) else "?" for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"


def latency(bench: Bench) -> Element:
    summary = bench.summary
    lines: list[tuple[str, float, str]] = [
        (name, value, "p50" if name == "p50" else "tail")
        for name, entry in percentiles(summary)
        if name in ("p50", "p99") and (value := _value(entry)) is not None
    ]
    deadline = bench.part("stream").get("deadline_ms")
    if is_number(deadline):
        lines.append((f"deadline {milliseconds(deadline)}", float(deadline), "limit"))
    return _section(
        "Latency, end to end",
        _percentile_table(bench.summary, len(bench.samples), bench.confidence),
        _figure(latency_plots.timeline(bench.samples, lines, bench.repeat_starts), "every frame, in order"),
        _figure(latency_plots.histogram(bench.samples, lines), "how often each latency occurred"),
        _figure(latency_plots.percentile_curve(bench.samples, summary, bench.confidence),
                f"percentiles with intervals of {bench.confidence}; hollow marks stand on too few samples"),
        _by_events(bench),
    )  # fmt: skip


def _figure(picture: Element, caption: str) -> Element:
    return tag("figure", picture, tag("figcaption", caption))


def _by_events(bench: Bench) -> Element:
    """The same frames by the device's own clock, without what the host did."""
    events = bench.part("latency_ms").get("by_events")
    if not isinstance(events, Mapping):
        return text("")
    return join(
        tag("h3", "On the device, by its own events"), _percentile_table(events, len(bench.samples), bench.confidence)
    )


def _percentile_table(summary: Mapping[str, Any], count: int, confidence: str) -> Element:
    rows: list[list[object]] = []
    for name, entry in percentiles(summary):
        value = _value(entry)
        needed, enough = entry.get("needed"), entry.get("enough", True)
        mark = tag("span", "enough", class_="ok") if enough else tag("span", "too few samples", class_="weak")
        rows.append([
            name, "not measured" if value is None else number(value), _interval(entry) or "–",
            number(needed) if is_number(needed) else "–", mark,
        ])  # fmt: skip
    simple = [
        [key, number(summary[key]), "", "", ""] for key in ("min", "mean", "std", "max") if is_number(summary.get(key))
    ]
    return _table(["", "ms", f"interval of {confidence}", "samples needed", f"of {count:,}"], [*rows, *simple])


def stages(bench: Bench) -> Element:
    measured = bench.part("stages_ms")
    if not measured:
        return _missing("Stages of a frame", "this run did not time them")
    known = {name: entry for name, entry in measured.items() if _summary_value(entry, "p50", "mean") is not None}
    bars, table = [], []
    for name in dict.fromkeys((*STAGES, *measured)):
        if name not in measured:
            continue
        label = STAGES.get(name, titled(name))
        index = list(STAGES).index(name) if name in STAGES else len(STAGES)
        marked = join(tag("i", class_=f"swatch stage-{index}"), label)
        if name not in known:
            table.append([marked, *["not measured"] * 4])
            continue
        middle = _summary_value(known[name], "p50", "mean") or 0.0
        bars.append(Bar(label, middle, f"stage-{index}", f"{label}: {milliseconds(middle)} (p50)",
                        f"{label} {number(middle)}"))  # fmt: skip
        cells = [_summary_value(known[name], key) for key in ("p50", "mean", "p99", "max")]
        table.append([marked, *("–" if cell is None else number(cell) for cell in cells)])
    picture = bar_plots.stacked(
        "Stages of a frame", ", ".join(bar.said for bar in bars), [("p50 of each", bars)]
    )  # fmt: skip
    return _section(
        "Stages of a frame",
        tag("figure", picture) if bars else "",
        _table(["stage", "p50 ms", "mean ms", "p99 ms", "max ms"], table),
        note="Medians of stages need not add up to the median of the whole. A stage that is not measured is one that "
        "this backend does not have or cannot tell apart.",
    )


def _summary_value(entry: object, *names: str) -> float | None:
    if isinstance(entry, Mapping):
        return next((value for name in names if (value := _value(entry.get(name))) is not None), None)
    return float(entry) if is_number(entry) else None


def stream(bench: Bench) -> Element:
    """What became of the frames that arrived; only of a run in which frames arrive."""
    measured = bench.part("stream")
    if not measured:
        return text("")
    summaries = [(key, value) for key, value in measured.items() if isinstance(value, Mapping) and "p50" in value
                 and is_number(value.get("count"))]  # fmt: skip
    tables = [
        join(tag("h3", f"{titled(key)}, ms"), _percentile_table(value, int(value["count"]), bench.confidence))
        for key, value in summaries
    ]
    others = {key: value for key, value in measured.items() if key not in dict(summaries)}
    return _section("The stream", _facts(_asked(others)), *tables)


def by_scenario(bench: Bench) -> Element:
    """What a scenario alone has: phases of a cold start, neighbours, LoadGen's own result."""
    found = []
    for key, title in (("cold", "From a cold start"), ("co_located", "Beside others"), ("loadgen", "MLPerf LoadGen")):
        measured = bench.part(key)
        if not measured:
            continue
        phases = {name: value for name, value in measured.items() if isinstance(value, Mapping) and "p50" in value
                  and "mean" in value}  # fmt: skip
        rows = [
            [titled(name), *("–" if (cell := _summary_value(value, kind)) is None else number(cell)
                             for kind in ("p50", "mean", "min", "max"))]
            for name, value in phases.items()
        ]  # fmt: skip
        table = _table(["phase", "p50 ms", "mean ms", "min ms", "max ms"], rows) if rows else ""
        others = {name: value for name, value in measured.items() if name not in phases}
        found.append(_section(title, table, _facts(others)))
    return join(*found)


def soak(bench: Bench) -> Element:
    """Medians and memory in windows of equal time; only of a long run."""
    measured = bench.part("soak")
    windows = [window for window in mappings(measured.get("windows")) if is_number(window.get("from_s"))]
    if len(windows) < 2:
        return text("")
    hours = float(windows[-1]["from_s"]) / 3600

    def column(name: str) -> list[float]:
        return [float(window[name]) for window in windows if is_number(window.get(name))]

    figures = []
    for title, unit, names in (
        ("Latency over time", "ms", ("p50_ms", "max_ms")),
        ("Clocks over time", "MHz", ("gpu_clock_mhz", "cpu_clock_mhz")),
        ("Temperature over time", "°C", ("gpu_temperature_c", "board_temperature_c")),
    ):
        lines = [(titled(name), values) for name in names if len(values := column(name)) > 1]
        if lines:
            figures.append(bar_plots.series(title, "windows of equal time", "hours", unit, lines, x_end=hours))
    sizes = [(titled(name), values) for name in ("rss_bytes", "gpu_process_bytes") if len(values := column(name)) > 1]
    if sizes:
        figures.append(bar_plots.series("Memory over time", "to see growth", "hours", "", sizes, x_end=hours,
                                        format_value=byte_size))  # fmt: skip
    drift = measured.get("drift_ms_per_hour")
    facts = _facts({"drift in ms an hour": drift}) if drift else text("")
    return _section("Over hours", *(tag("figure", figure) for figure in figures), facts)


def layers(rows: Sequence[LayerRow]) -> Element:
    """Shares of each precision, and the layers that cost most."""
    if not rows:
        return _missing("Layers", "the run took no profile; `qdbev-deploy inspect BUNDLE --profile` does")
    timed = any(row.time_ms is not None for row in rows)
    groups = [("layers", _by_precision(rows, lambda row: 1.0, number))]
    if any(row.macs for row in rows):
        groups.insert(0, ("MACs", _by_precision(rows, lambda row: float(row.macs), _giga)))
    if timed:
        groups.insert(0, ("time", _by_precision(rows, lambda row: row.time_ms or 0.0, milliseconds)))
    said = "; ".join(f"{name}: " + ", ".join(bar.said for bar in bars) for name, bars in groups)
    used = [precision for precision in PRECISIONS if any(row.precision == precision for row in rows)]
    legend = tag(
        "ul",
        *(tag("li", tag("i", class_=f"swatch {precision_class(p)}"), precision_label(p)) for p in used),
        class_="legend",
    )
    note = "" if timed else "Times were not measured: the bars are multiply-accumulates."
    shares = tag("figure", bar_plots.stacked("Shares of each precision", said, groups))
    return _section("Layers", legend, shares, tag("figure", _slowest(rows, timed)), note=note)


def _giga(macs: float) -> str:
    return f"{number(macs / 1e9)} GMAC"


def _by_precision(rows: Sequence[LayerRow], weight: Any, said: Any) -> list[Bar]:
    sums: dict[str, float] = defaultdict(float)
    for row in rows:
        sums[row.precision] += weight(row)
    whole = sum(sums.values())
    order = sorted((p for p in sums if sums[p]), key=lambda p: PRECISIONS.index(p) if p in PRECISIONS else 99)
    return [
        Bar(precision_label(p), sums[p], precision_class(p), f"{precision_label(p)} {said(sums[p])} "
            f"({share(sums[p], whole)})", f"{precision_label(p)} {share(sums[p], whole)}")
        for p in order
    ]  # fmt: skip


def _slowest(rows: Sequence[LayerRow], timed: bool) -> Element:
    def weight(row: LayerRow) -> float:
        return (row.time_ms or 0.0) if timed else float(row.macs)

    said = milliseconds if timed else _giga
    ordered = sorted(rows, key=weight, reverse=True)
    whole = sum(map(weight, rows))
    bars = [
        Bar(row.name, weight(row), precision_class(row.precision),
            f"{row.name}, {row.kind}, {precision_label(row.precision)}: {said(weight(row))}, "
            f"{share(weight(row), whole)}", said(weight(row)))
        for row in ordered[:TOP_LAYERS]
    ]  # fmt: skip
    rest = ordered[TOP_LAYERS:]
    if rest:
        left = sum(map(weight, rest))
        # A bar of its own would dwarf those that are named.
        words = f"{said(left)}, {share(left, whole)} together"
        bars.append(Bar(f"{len(rest)} further layers", 0.0, "precision-rest", words, words))
    what = "by time" if timed else "by multiply-accumulates"
    return bar_plots.rows(f"Largest layers {what}", f"{len(rows)} layers, {said(whole)} in all", bars)


def memory(bench: Bench) -> Element:
    measured = bench.part("memory")
    if not measured:
        return _missing("Memory", "the document has none")
    sizes = [(name, value) for name, value in _sizes(measured) if value]
    bars = [Bar(name, value, f"series-{index % 4}", f"{name}: {byte_size(value)}", byte_size(value))
            for index, (name, value) in enumerate(sizes)]  # fmt: skip
    picture = bar_plots.rows("Memory", "sizes side by side", bars, names_width=240) if bars else ""
    growths = {f"{name} growth": part["growth"] for name, part in measured.items()
               if isinstance(part, Mapping) and isinstance(part.get("growth"), Mapping)}  # fmt: skip
    return _section("Memory", tag("figure", picture) if picture else "", *map(_growth, growths, growths.values()),
                    _reasons(measured))  # fmt: skip


def _growth(name: str, entry: Mapping[str, Any]) -> Element:
    """A sentence on whether memory grows with the frames."""
    rise = entry.get("bytes_per_1000_frames")
    if not is_number(rise):
        return text("")
    low, high = entry.get("low"), entry.get("high")
    interval = f" ({byte_size(low)} to {byte_size(high)})" if is_number(low) and is_number(high) else ""
    verdict_ = "it grows" if entry.get("shown") else "no growth is shown"
    return tag("p", f"{name}: {byte_size(rise)} a 1000 frames{interval}; {verdict_}.",
               class_="weak" if entry.get("shown") else None)  # fmt: skip


def _sizes(values: Mapping[str, Any], before: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in values.items():
        name = f"{before} {titled(str(key))}".strip()
        if isinstance(value, Mapping) and key not in ("growth", "why_not"):
            found += _sizes(value, name)
        elif is_number(value) and str(key).endswith("bytes"):
            found.append((name, float(value)))
    return found


def power(bench: Bench) -> Element:
    measured = bench.part("power")
    sources = mappings(measured.get("sources"))
    if not sources:
        why = measured.get("why_not")
        reasons = (
            "; ".join(str(reason) if name == "all" else f"{name}: {reason}" for name, reason in why.items())
            if isinstance(why, Mapping)
            else ""
        )
        return _missing("Power", reasons or "this machine does not say")
    rows = [
        [source.get("source"), source.get("covers"), valued("mean_w", source.get("mean_w")),
         valued("energy_j", source.get("energy_per_frame_j")), source.get("how")]
        for source in sources
    ]  # fmt: skip
    table = _table(["source", "covers", "mean power", "energy a frame", "how"], rows, numbers_from=99)
    return _section("Power", table, _reasons(measured))


def rest(bench: Bench) -> Element:
    """Everything else that was recorded, as pairs."""
    parts = []
    for key, title in (
        ("warmup", "Warm-up"), ("overhead_us", "Overhead of the harness"), ("clocks", "Clocks and throttling"),
        ("scenario", "Scenario"), ("bundle", "Bundle"), ("system", "Machine and versions"),
    ):  # fmt: skip
        value = bench.document.get(key)
        if key not in ("overhead_us", "clocks"):
            value = _asked(value)
        if isinstance(value, Mapping) and value:
            facts = {str(inner): item for inner, item in value.items() if inner != "why_not"}
            said = _overhead(facts) if key == "overhead_us" else _facts(facts)
            parts.append(tag("div", tag("h3", title), said, _reasons(value)))
        elif isinstance(value, list):
            parts.append(tag("div", tag("h3", title), _facts({"repeat": value})))
        elif value is not None and not isinstance(value, Mapping):
            parts.append(tag("div", tag("h3", title), tag("p", value)))
    return _section("How it was measured", *parts)


def _overhead(facts: Mapping[str, Any]) -> Element:
    """Microseconds a frame, each with what it is of; those of the measured frames first."""
    real = facts.get("in_measured_frames")
    pairs = [
        (f"in the measured frames: {STAGES.get(name, titled(str(name)))}", f"{number(value)} µs")
        for name, value in (real.items() if isinstance(real, Mapping) else ())
        if is_number(value)
    ]
    for key, value in facts.items():
        if key in OVERHEAD and is_number(value):
            pairs.append((OVERHEAD[key], f"{number(value)} µs"))
        elif key != "in_measured_frames":
            pairs += _flat(key, value)
    return _pairs(pairs)


def footer(bench: Bench) -> Element:
    tool, command = bench.document.get("tool", "qdbev-deploy"), bench.document.get("command")
    command = " ".join(map(str, command)) if isinstance(command, (list, tuple)) else command
    if isinstance(tool, Mapping):
        tool = " ".join(str(tool[key]) for key in ("name", "version") if key in tool)
    return tag(
        "footer",
        tag("pre", tag("code", f"$ {command}")) if command else "",
        tag("p", f"{tool}, schema {bench.document.get('schema')}. "
            f"Percentiles are of whole frames by the wall clock; intervals are of {bench.confidence}."),
        tag("p", tag("a", "Download the document as JSON", id="download", href="#document", download="bench.json")),
    )  # fmt: skip
