"""A result for people: what an engineer pastes into a review, with what must be known beside each number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qdbev_deploy.bench.compare import LEAST_DIFFERENCE, LEAST_REPEATS, UNREPEATED_DIFFERENCE, Comparison
from qdbev_deploy.bench.recording import STAGES

_STAGE_NAMES = {
    "host_prep": "host prep", "h2d": "host to device", "preprocess": "preprocess (host)", "enqueue": "enqueue",
    "compute": "compute", "d2h": "device to host", "decode": "decode", "rest": "rest (ego motion, harness)",
}  # fmt: skip


def bytes_text(value: float | None) -> str:
    if value is None:
        return "not known"
    return f"{value / 1e6:.1f} MB"


def ms(value: float | None) -> str:
    """With digits that mean something: three significant ones below 10 ms."""
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"


def interval(percentile: dict[str, Any]) -> str:
    if percentile["low"] is None and percentile["high"] is None:
        return "no interval"
    low = ms(percentile["low"]) if percentile["low"] is not None else "?"
    high = ms(percentile["high"]) if percentile["high"] is not None else "?"
    return f"{low} .. {high}"


def show(document: dict[str, Any], console: Console) -> None:
    """All of it."""
    for part in parts(document):
        console.print(part, soft_wrap=True)


def parts(document: dict[str, Any]) -> Iterable[RenderableType]:
    yield _heading(document)
    if "cold" in document:
        yield _cold(document)
    if "loadgen" in document:
        yield _loadgen(document["loadgen"])
    yield _latency(document)
    if document["stages_ms"]:
        yield _stages(document["stages_ms"])
    if document["stream"]:
        yield _stream(document["stream"], document["scenario"]["options"]["confidence"])
    if "co_located" in document:
        yield _co_located(document["co_located"])
    if "soak" in document:
        yield _soak(document["soak"])
    yield Group(*(Text.from_markup(line) for line in _facts(document)))
    yield verdict(document)


def _heading(document: dict[str, Any]) -> RenderableType:
    bundle, scenario, system = document["bundle"], document["scenario"], document["system"]
    options, data = scenario["options"], scenario["data"]
    where = escape(bundle["backend"] + (f" ({bundle['provider']})" if bundle.get("provider") else ""))
    machine = system["gpu"]["name"] if system["gpu"] and bundle["backend"] == "tensorrt" else system["cpu"]
    lines = [
        f"[bold]{escape(bundle['name'])}[/bold]: variant {escape(bundle['variant'])}, "
        f"{escape(bundle['precision'])}, image {escape(bundle['image'])}, state {escape(bundle['io'])}, on {where}",
        f"machine: {escape(machine)}, {system['cores_allowed']} of {system['cores']} cores; "
        f"power mode {escape(system['power_mode'])}; GPU sharing: {escape(system['sharing'])}",
        f"scenario: {escape(scenario['name'])}; wait {escape(options['wait'])}, "
        f"CUDA graph {'on' if options['cuda_graph'] else 'off'}",
    ]
    words = f"data: {escape(data['source'])}"
    if data["kind"] == "random":
        words = f"[bold yellow]RANDOM DATA[/bold yellow]: {escape(data['source'])}"
    words += f"; {_state(document)}"
    lines.append(words)
    if bundle["emulated"]:
        lines.append(f"[bold yellow]EMULATED[/bold yellow]: {escape(bundle['precision_note'])}")
    if document["partial"]:
        lines.append("[bold red]PARTIAL[/bold red]: the run was interrupted")
    return Text.from_markup("\n".join(lines))


def _state(document: dict[str, Any]) -> str:
    """In how many frames the state was that of the frame before: a frame that begins a scene has none."""
    count, firsts = document["latency_ms"]["summary"]["count"], document["scenario"]["data"]["resets"]
    if "cold" in document:
        return "each start runs a first frame, without a state"
    if firsts >= count:
        return "[bold yellow]STATE NEVER FED BACK[/bold yellow]: every frame begins a scene"
    return f"state fed back in {count - firsts} of {count} frames, {firsts} begin a scene"


def _latency(document: dict[str, Any]) -> RenderableType:
    summary, confidence = document["latency_ms"]["summary"], document["scenario"]["options"]["confidence"]
    random = ", RANDOM DATA" if document["scenario"]["data"]["kind"] == "random" else ""
    what = "process start to first boxes" if "cold" in document else "end to end: frame in host memory to boxes"
    if "loadgen" in document:
        what = f"service time, without LoadGen's queue; {what}"
    table = Table(box=None, title=f"\n{what}, wall clock{random}", title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column(f"{confidence:.0%} interval", justify="right", no_wrap=True)
    table.add_column(f"of {summary['count']} samples", no_wrap=True)
    for name in ("p50", "p90", "p95", "p99", "p99.9"):
        row = summary[name]
        enough = "" if row["enough"] else f"TOO FEW: needs {row['needed']}"
        table.add_row(name, ms(row["value"]), interval(row), enough, style="" if row["enough"] else "dim")
    table.add_row("max", ms(summary["max"]), "", "the largest seen, no bound")
    table.add_row("mean", ms(summary["mean"]), "", f"CoV {summary['cov']:.1%}, min {ms(summary['min'])}")
    worth = f"worth {summary['effective_count']:.0f} independent ones" if summary["count"] > 1 else ""
    events = document["latency_ms"]["by_events"]
    if events:
        table.add_row("by events", ms(events["p50"]["value"]), interval(events["p50"]), "p50 of copies and compute")
    by_repeat = document["by_repeat"]
    medians = ", ".join(ms(median) for median in by_repeat["medians_ms"])
    parts = "instances" if "co_located" in document else "repeats"
    if len(by_repeat["medians_ms"]) > 1:
        table.add_row(parts, "", "", f"medians {medians}: {by_repeat['spread']:.1%} apart")
    return Group(table, Text(f"  {worth}", style="dim")) if worth else table


def _stages(stages: dict[str, Any]) -> RenderableType:
    table = Table(box=None, title="\nstages", title_justify="left", title_style="bold")
    for heading in ("", "p50 ms", "p99 ms", "max ms", "of the mean"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    total = sum(stage["mean"] for stage in stages.values() if stage)
    for name in (*STAGES, "rest"):
        stage = stages.get(name)
        if stage is None:
            continue
        few = "" if stage["p99"]["enough"] else "?"
        table.add_row(
            _STAGE_NAMES[name], ms(stage["p50"]["value"]), ms(stage["p99"]["value"]) + few, ms(stage["max"]),
            f"{stage['mean'] / total:.1%}" if total > 0 else "-",
        )  # fmt: skip
    absent = [_STAGE_NAMES[name] for name in STAGES if stages.get(name) is None]
    return Group(table, Text(f"  not there or not told apart: {', '.join(absent)}", style="dim")) if absent else table


def _stream(stream: dict[str, Any], confidence: float) -> RenderableType:
    age = stream["age_ms"]
    jitter = "" if stream["jitter"] == "none" else f", {escape(stream['jitter'])} jitter of {stream['jitter_ms']:g} ms"
    policy = "drop-oldest" if stream["policy"] == "drop-oldest" else f"queue of {stream['queue_depth']}"
    lines = [
        f"\n[bold]stream[/bold] at {stream['rate_hz']:g} Hz{jitter}, {policy}: {stream['arrived']} arrived, "
        f"{stream['processed']} processed, {stream['dropped']} dropped",
        f"  deadline {stream['deadline_ms']:g} ms after arrival: {stream['late']} late, {stream['misses']} misses "
        f"with those dropped ({stream['miss_share']:.2%})",
    ]
    if age:
        few = "" if age["p99"]["enough"] else f" (TOO FEW samples, needs {age['p99']['needed']})"
        lines.append(
            f"  age of the output when it is done: p50 {ms(age['p50']['value'])}, p99 {ms(age['p99']['value'])}{few}, "
            f"max {ms(age['max'])} ms ({confidence:.0%} of p50: {interval(age['p50'])})"
        )
    if stream["overslept_us"]:
        slept = stream["overslept_us"]
        lines.append(f"  the harness woke for a frame {slept['p50']:.1f} us late (p50), {slept['max']:.0f} us at most")
    return Text.from_markup("\n".join(lines))


def _co_located(side: dict[str, Any]) -> RenderableType:
    load = f" beside a load on the {escape(side['load'])} ({side['load_processes']} processes)" if side["load"] else ""
    each = ", ".join(ms(instance["p50"]) for instance in side["each_ms"])
    slower = side["times_slower"]
    return Text.from_markup(
        f"\n[bold]co-located[/bold]: {side['instances']} {escape(side['as'])}{load}\n"
        f"  alone p50 {ms(side['alone_ms']['p50'])}, p99 {ms(side['alone_ms']['p99'])} ms; together p50 {each} ms: "
        f"{slower['p50']:.2f} times at p50, {slower['p99']:.2f} times at p99"
    )


def _loadgen(loadgen: dict[str, Any]) -> RenderableType:
    failed = [name for name, value in loadgen["result"].items() if name.endswith("satisfied") and value.upper() == "NO"]
    why = f" (not satisfied: {', '.join(name.removesuffix(' satisfied') for name in failed)})" if failed else ""
    lines = [
        f"\n[bold]MLPerf LoadGen[/bold] {escape(loadgen['scenario'])}: result {escape(loadgen['valid'] + why)}, "
        f"{loadgen['asked']} samples asked for; {escape(loadgen['note'])}"
    ]
    measured = loadgen.get("latency_ms") or {}
    if measured:
        values = ", ".join(f"{escape(name)} {ms(value)}" for name, value in measured.items())
        lines += [f"  LoadGen's own latency, ms: [bold]{values}[/bold]", f"  of {escape(loadgen['latency_of'])}"]
    if loadgen.get("samples_per_second") is not None:
        lines.append(f"  {loadgen['samples_per_second']:.2f} samples a second")
    lines.append(f"  logs: {escape(', '.join(loadgen['logs']))}")
    return Text.from_markup("\n".join(lines))


def _cold(document: dict[str, Any]) -> RenderableType:
    cold = document["cold"]
    table = Table(box=None, title="\ncold start", title_justify="left", title_style="bold")
    for heading in ("", "p50 ms", "max ms"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name in ("interpreter", "imports", "verification", "load", "first_frame"):
        table.add_row(name.replace("_", " "), ms(cold[name]["p50"]["value"]), ms(cold[name]["max"]))
    return Group(
        table,
        Text(f"  first start {ms(cold['first_start_ms'])} ms; file cache {cold['file_cache']}", style="dim"),
    )  # fmt: skip


def _soak(soak: dict[str, Any]) -> RenderableType:
    drift = soak["drift_ms_per_hour"]
    known = drift["low"] is not None and drift["high"] is not None
    bounds = f"{drift['low']:+.3f} .. {drift['high']:+.3f}" if known else "too few windows for an interval"
    return Text.from_markup(
        f"\n[bold]soak[/bold]: {len(soak['windows'])} windows of {soak['window_s']:.1f} s; drift of their medians "
        f"{drift['value']:+.3f} ms an hour ({bounds})"
    )


def _facts(document: dict[str, Any]) -> list[str]:
    lines = [""]
    memory, power, clocks, overhead = (document[name] for name in ("memory", "power", "clocks", "overhead_us"))
    if memory and memory["engine"]:
        engine = memory["engine"]
        named = [("weights", "weights_bytes"), ("context", "context_bytes"), ("inputs, outputs, states", "io_bytes")]
        lines.append("engine memory: " + ", ".join(f"{name} {bytes_text(engine[key])}" for name, key in named))
    for place in ("host", "device"):
        section = memory[place] if memory else None
        if section:
            lines.append(_memory_line(place, section))
        elif memory and place in memory["why_not"] and (place == "host" or document["system"]["gpu"]):
            lines.append(f"{place} memory: not known: {escape(memory['why_not'][place])}")
    if power:
        for source in power["sources"]:
            lines.append(
                f"power of {escape(source['covers'])}: {source['mean_w']:.1f} W, "
                f"{source['energy_per_frame_j'] * 1e3:.1f} mJ a frame, idling included "
                f"({escape(source['source'])}: {escape(source['how'])})"
            )
        if not power["sources"]:
            lines.append(f"power: not known: {_absent(power['why_not'])}")
    if clocks:
        lines += _clock_lines(clocks)
    if overhead:
        lines += _overhead_lines(overhead)
    if document["warmup"]:
        frames = ", ".join(str(warmup["frames"]) for warmup in document["warmup"])
        lines.append(f"warm-up: {frames} frames ({escape(document['warmup'][0]['criterion'])})")
    return lines


def _absent(why_not: dict[str, str]) -> str:
    if "all" in why_not:
        return escape(why_not["all"])
    return escape(f"no {', no '.join(why_not)} (the JSON's why_not has the reasons)")


def _overhead_lines(overhead: dict[str, Any]) -> list[str]:
    """What was seen in the measured frames, and what the harness costs at least."""
    share = f"; {overhead['share_of_p50']:.2%} of p50" if overhead["share_of_p50"] is not None else ""
    lines = []
    real = overhead.get("in_measured_frames") or {}
    named = [("rest", "ego motion, state, recording"), ("host_prep", "host prep"), ("decode", "decode")]
    said = [f"{what} {real[name]:.0f}" for name, what in named if real.get(name) is not None]
    if said:
        lines.append(f"host time in the measured frames, us (p50): {', '.join(said)}{share}")
    lines.append(
        f"harness: at least {overhead['beyond_step']:.0f} us a frame{'' if said else share} (ego motion and state "
        f"{overhead['session']:.0f}, loop and recording {overhead['harness']:.0f}, a reading of the clock "
        f"{overhead['timer']:.2f}): with an engine that does nothing, and cold caches"
    )
    return lines


def _memory_line(place: str, section: dict[str, Any]) -> str:
    growth = section["growth"]
    if place == "host":
        line = f"host memory: resident {bytes_text(section['rss_bytes'])}, peak {bytes_text(section['peak_bytes'])}"
        line += escape(f" since {section['peak_since']}" + (f", of {section['of']}" if "of" in section else ""))
    else:
        own, whole = (bytes_text(section[name]) for name in ("process_peak_bytes", "used_peak_bytes"))
        line = escape(f"device memory: peak of this process {own}, of all {whole}; growth of {section['growth_of']}")
    if growth is None:
        return line + "; growth not known: too few readings or frames"
    if growth["low"] is None or growth["high"] is None:
        return line + "; growth not known: the readings hang together too closely"
    said = "[bold red]GROWS[/bold red]" if growth["shown"] else "no lasting growth shown"
    kb = [growth[name] / 1e3 for name in ("bytes_per_1000_frames", "low", "high")]
    return f"{line}; {said}: {kb[0]:+.0f} kB a 1000 frames ({kb[1]:+.0f} .. {kb[2]:+.0f})"


def _clock_lines(clocks: dict[str, Any]) -> list[str]:
    said = []
    for name, unit in (("cpu_clock_mhz", "MHz"), ("gpu_clock_mhz", "MHz"), ("gpu_load_percent", "%"),
                       ("gpu_temperature_c", "C"), ("board_temperature_c", "C")):  # fmt: skip
        if clocks.get(name):
            what = name.rsplit("_", 1)[0].replace("_", " ").replace("gpu", "GPU").replace("cpu", "CPU")
            said.append(f"{what} {clocks[name]['min']:.0f} .. {clocks[name]['max']:.0f} {unit}")
    if clocks["gpu_throttle"] is not None:
        said.append("GPU throttling: " + (escape(", ".join(clocks["gpu_throttle"])) or "none"))
    if clocks["cpu_throttled_times"] is not None:
        said.append(f"CPU throttled {clocks['cpu_throttled_times']} times")
    if not said:
        said.append(f"not known: {_absent(clocks['why_not'])}")
    lines = ["clocks and temperature: " + ", ".join(said)]
    if clocks["own_busy_cores"] is not None and clocks["others_busy_cores"] is not None:
        lines.append(
            f"processor time: the benchmark {clocks['own_busy_cores']:.2f} cores, others "
            f"{clocks['others_busy_cores']:.2f}, hypervisor {clocks['stolen_cores'] or 0:.2f}"
        )
    return lines


def verdict(document: dict[str, Any]) -> RenderableType:
    stability = document["stability"]
    if stability["stable"]:
        return Text.from_markup("\n[bold green]STABLE[/bold green]: no reason was found to doubt these numbers")
    reasons = "\n".join(f"  - {escape(reason)}" for reason in stability["reasons"])
    return Text.from_markup(f"\n[bold red]UNSTABLE[/bold red]: do not quote these numbers\n{reasons}")


def show_comparison(a: str, b: str, comparison: Comparison, console: Console) -> None:
    table = Table(box=None, title=f"B {escape(b)} against A {escape(a)}", title_justify="left", title_style="bold")
    for heading in ("", "A ms", "B ms", "B / A", f"{comparison.confidence:.0%} interval", "verdict"):
        table.add_column(heading, justify="left" if heading in ("", "verdict") else "right", no_wrap=True)
    for name, ratio in comparison.ratios.items():
        table.add_row(
            name, ms(ratio.a_ms), ms(ratio.b_ms), f"{ratio.ratio:.3f}", f"{ratio.low:.3f} .. {ratio.high:.3f}",
            ratio.verdict,
        )  # fmt: skip
    console.print(table)
    for warning in comparison.warnings:
        console.print(f"[yellow]warning[/yellow]: {escape(warning)}", soft_wrap=True, highlight=False)
    ratio = comparison.ratios["p50"]
    shown = comparison.verdict in ("faster", "slower")
    says = f"B is {comparison.verdict}, {abs(ratio.change):.1%}" if shown else comparison.verdict
    console.print(
        f"[bold]{says}[/bold] (median; differences below {comparison.floor:.1%} count as noise: "
        f"{LEAST_DIFFERENCE:.0%}, or as far as repeats lie apart, or {UNREPEATED_DIFFERENCE:.0%} where there are fewer "
        f"than {LEAST_REPEATS}; repeats share a process, so that what varies from process to process is not in it)",
        soft_wrap=True,
        highlight=False,
    )
