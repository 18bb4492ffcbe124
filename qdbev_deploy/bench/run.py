"""A benchmark from its request to its document: the one place where scenario, system and samples meet."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qdbev_deploy.bench import cold, document, loadgen, overhead, sections, stability
from qdbev_deploy.bench.children import Child, prepare_samples
from qdbev_deploy.bench.clock import Clock, WallClock
from qdbev_deploy.bench.colocated import Neighbours, run_side_by_side
from qdbev_deploy.bench.facts import system_facts
from qdbev_deploy.bench.loadgen import LoadgenPlan
from qdbev_deploy.bench.measure import Measurement, Plan, Progress, measure, silent
from qdbev_deploy.bench.recording import Recording
from qdbev_deploy.bench.samples import SampleRequest, Samples, keep_samples, read_samples
from qdbev_deploy.bench.sensors.nvml import Nvml
from qdbev_deploy.bench.sensors.process import FamilyTime, ProcessMemory
from qdbev_deploy.bench.statistics import Series
from qdbev_deploy.bench.system import Subject
from qdbev_deploy.bench.warmup import Warmup
from qdbev_deploy.bench.watch import PERIOD_NS, Readings, Sensors, Watch, find_sensors
from qdbev_deploy.engine.interface import Memory, Stream
from qdbev_deploy.errors import QdbevError

_PROFILED_FRAMES = 10


@dataclass(frozen=True)
class Request:
    """Everything that a benchmark is asked for."""

    plan: Plan
    samples: SampleRequest
    neighbours: Neighbours | None = None  # of the scenario co-located
    loadgen: LoadgenPlan | None = None
    loadgen_out: Path | None = None
    samples_from: Path | None = None  # frames that were made before; None: they are made
    samples_to: Path | None = None  # keep them there
    profile_layers: bool = False
    command: tuple[str, ...] = ("qdbev-deploy", "bench")


@dataclass(frozen=True)
class Tools:
    """What a test replaces: the clock, the sensors, how often they are read, where frames come from."""

    clock: Clock
    sensors: Sensors
    period_ns: int = PERIOD_NS
    samples: Samples | None = None  # None: prepared by another process
    overhead_frames: int = overhead.FRAMES


def bench(
    subject: Subject, request: Request, progress: Progress = silent, tools: Tools | None = None
) -> dict[str, Any]:
    """The document, schema qdbev-bench/1. Nothing is written."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qdbev-bench-")))
        if tools is None:
            sensors = find_sensors()
            stack.callback(sensors.close)
            tools = Tools(WallClock(), sensors)
        samples = tools.samples
        if samples is None:
            image_form = "uint8" if subject.inputs[0].dtype == "uint8" else "float32"
            if request.samples_from is not None:
                folder = request.samples_from
                samples = read_samples(folder, subject.spec, image_form)
            else:
                progress(0, None, "preparing frames")
                samples = prepare_samples(request.samples, subject.spec, image_form, folder)
            if request.samples_to is not None:
                keep_samples(folder, request.samples_to)
        if request.loadgen is not None:
            return _under_loadgen(subject, request, samples, folder, tools, progress)
        if request.plan.scenario == "cold":
            return _cold(subject, request, samples, folder, tools, progress)
        if request.plan.scenario == "co-located":
            return _co_located(subject, request, samples, folder, tools, progress)
        return _in_this_process(subject, request, samples, tools, progress)


def _in_this_process(
    subject: Subject, request: Request, samples: Samples, tools: Tools, progress: Progress
) -> dict[str, Any]:
    process = tools.sensors.named("process memory")
    peak = isinstance(process, ProcessMemory) and process.restart_peak()
    result = measure(subject, samples, request.plan, tools.clock, tools.sensors, progress, tools.period_ns)
    memory = sections.memory_section(result, tools.sensors, request.plan.confidence, peak)
    found = _document(subject, request, samples, result, tools, memory)
    if request.plan.scenario == "soak":
        found["soak"] = sections.soak_section(result, request.plan)
    if request.profile_layers:
        progress(0, None, "profiling layers")
        found["layers"] = document.layers_section(subject.layers, _profile(subject, samples))
    return found


def _document(
    subject: Subject, request: Request, samples: Samples, result: Measurement, tools: Tools, memory: dict[str, Any],
    spent: dict[str, float | None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What all scenarios that time frames have in common; `spent`: cores in use, where more than this process ran."""
    plan, recording = request.plan, result.recording
    latency = recording.column("total")
    backend = str(subject.manifest["backend"])
    clocks = {**sections.clocks_section(result, tools.sensors), **sections.numbers(spent or {})}
    timed = plan.options.timed
    reasons = stability.reasons(result, plan, latency, memory, clocks)
    spent_us = overhead.measure_overhead(
        subject.spec, samples, plan.options, tools.clock, tools.sensors, recording, tools.overhead_frames
    )  # fmt: skip
    return {
        **document.header(request.command),
        "system": system_facts(_nvml(tools.sensors)),
        "bundle": document.bundle_section(subject),
        "scenario": _scenario(request, samples, int(np.nansum(recording.column("reset")))),
        "warmup": [warmup.to_dict() for warmup in result.warmups],
        **_repeats(recording),
        "latency_ms": sections.latency_section(latency, plan.confidence, sections.device_time(result, backend)),
        "stages_ms": sections.stages_section(
            result, plan.confidence, with_preprocess=samples.native
        ) if timed else None,
        "stream": sections.stream_section(plan.stream, result.streams, plan.confidence)
        if plan.stream is not None and result.streams else None,
        "memory": memory,
        "power": sections.power_section(result, tools.sensors),
        "clocks": clocks,
        "overhead_us": sections.numbers(spent_us),
        "stability": {"stable": not reasons, "reasons": reasons},
        "layers": document.layers_section(subject.layers),
        "partial": result.partial,
    }  # fmt: skip


def _nvml(sensors: Sensors) -> Nvml | None:
    found = sensors.named("NVML")
    return found if isinstance(found, Nvml) else None


def _repeats(recording: Recording) -> dict[str, Any]:
    repeat, total = recording.column("repeat"), recording.column("total")
    parts = [total[repeat == number] for number in np.unique(repeat)]
    return repeats_of(parts)


def repeats_of(parts: Sequence[Series]) -> dict[str, Any]:
    """`repeats` and `by_repeat`."""
    medians = [float(np.median(part)) for part in parts]
    return {
        "repeats": len(parts),
        "by_repeat": {
            "frames": [len(part) for part in parts],
            "medians_ms": [round(median, 5) for median in medians],
            "spread": round(max(medians) / min(medians) - 1, 6) if min(medians) > 0 else 0.0,
        },
    }


def _scenario(request: Request, samples: Samples, resets: int) -> dict[str, Any]:
    plan = request.plan
    options: dict[str, Any] = {
        "frames": plan.frames if plan.duration_s is None else None,
        "duration_s": plan.duration_s,
        "confidence": plan.confidence,
        "cuda_graph": plan.options.cuda_graph,
        "wait": plan.options.wait,
        "stages_timed": plan.options.timed,
        "with_preprocess": samples.native,
        "seed": request.samples.seed,
        "garbage_collection": "off while measured",
    }
    if plan.stream is not None:
        options["stream"] = asdict(plan.stream)
    if plan.scenario == "co-located" and request.neighbours is not None:
        options["neighbours"] = asdict(request.neighbours)
    if request.loadgen is not None:
        options["loadgen"] = asdict(request.loadgen)
    return {
        "name": plan.scenario if request.loadgen is None else "loadgen",
        "options": options,
        "data": {"kind": samples.kind, "source": samples.source, "frames": len(samples.frames), "resets": resets},
    }


def _profile(subject: Subject, samples: Samples) -> dict[str, float]:
    """Milliseconds of each layer, from frames of the same drive run with the backend's profiler."""
    from qdbev_deploy.streaming import StreamingSession

    def feed(stream: Stream) -> None:
        session = StreamingSession(stream.step)
        for index in range(_PROFILED_FRAMES):
            if index % len(samples.frames) == 0:
                session.reset()
            frame = samples.frames[index % len(samples.frames)]
            image = frame.image
            if samples.native:
                from qdbev_deploy.data.preprocess import preprocess

                image = preprocess(image[0], subject.spec.preprocess)[None]
            session.step(image, frame.lidar2img, frame.ego, frame.scene)

    engine = subject.engine()
    try:
        return engine.profile(feed)
    finally:
        engine.close()


# ----------------------------------------------------------------------------------------------------------------------
# Scenarios with other processes


def _co_located(
    subject: Subject, request: Request, samples: Samples, folder: Path, tools: Tools, progress: Progress
) -> dict[str, Any]:
    neighbours = request.neighbours or Neighbours()
    plan = replace(request.plan, repeats=1)
    side, facts = run_side_by_side(
        subject, samples, folder, plan, neighbours, tools.clock, tools.sensors, progress
    )  # fmt: skip
    together = side.merged()
    memory = sections.memory_section(side.together[0], tools.sensors, plan.confidence, False)
    if neighbours.as_ == "processes" and memory["host"] is not None:
        memory["host"] = {**memory["host"], "peak_bytes": facts["peak_bytes"], "of": "the first instance"}
    found = _document(subject, request, samples, together, tools, memory, side.spent)
    found["power"] = sections.no_power("the machine's energy is shared by all that ran beside each other")
    found["co_located"] = side.to_dict(neighbours, plan.confidence)
    return found


def _cold(
    subject: Subject, request: Request, samples: Samples, folder: Path, tools: Tools, progress: Progress
) -> dict[str, Any]:
    plan = request.plan
    watch = Watch(tools.sensors.present, Recording(0), tools.clock)
    before = FamilyTime.now()
    starts = cold.cold_starts(subject.path, folder, plan.options, plan.repeats, progress, between=watch.read)
    spent = FamilyTime.now().since(before, sections.LEAST_SECONDS)
    totals = np.array([start.total for start in starts])
    around = Measurement(Recording(0), watch.readings())
    clocks = {**sections.clocks_section(around, tools.sensors), **sections.numbers(spent)}
    reasons = stability.starts(totals, clocks)
    return {
        **document.header(request.command),
        "system": system_facts(_nvml(tools.sensors)),
        "bundle": document.bundle_section(subject),
        "scenario": _scenario(replace(request, plan=replace(plan, frames=1)), samples, len(starts)),
        "warmup": [],
        **repeats_of([totals]),
        "latency_ms": sections.latency_section(totals, plan.confidence, None),
        "stages_ms": None,
        "stream": None,
        "memory": sections.no_memory("not measured in cold starts: their processes are gone"),
        "power": sections.no_power("not measured in cold starts: they are too short"),
        "clocks": clocks,
        "overhead_us": None,
        "stability": {"stable": not reasons, "reasons": reasons},
        "layers": document.layers_section(subject.layers),
        "partial": False,
        "cold": cold.cold_section(starts, plan.confidence),
    }


def _under_loadgen(
    subject: Subject, request: Request, samples: Samples, folder: Path, tools: Tools, progress: Progress
) -> dict[str, Any]:
    assert request.loadgen is not None
    assert request.loadgen_out is not None
    request.loadgen_out.mkdir(parents=True, exist_ok=True)
    progress(0, None, f"LoadGen, {request.loadgen.scenario}")
    with Child({
        "action": "loadgen", "plan": asdict(request.loadgen), "bundle": str(subject.path), "samples": str(folder),
        "logs": str(request.loadgen_out.resolve()), "options": asdict(request.plan.options),
        "warmup": request.plan.warmup_frames,
    }) as child:  # fmt: skip
        before = FamilyTime.now([child.pid])
        answer = child.expect("result")
        spent = FamilyTime.now([child.pid]).since(before, sections.LEAST_SECONDS)
    rows = np.asarray(answer["rows"], np.float64)
    if not len(rows):
        raise QdbevError("LoadGen asked for no frame", "a run with frames", "pass more --frames")
    recording = Recording.of(rows)
    result = Measurement(recording, Readings({}), [Warmup(**answer["warmup"])], memory=Memory())
    why = "not measured under LoadGen, which runs in a process of its own"
    found = _document(subject, request, samples, result, tools, sections.no_memory(why), spent)
    found["power"] = sections.no_power(why)
    found["clocks"]["why_not"]["clocks and temperature"] = why
    found["loadgen"] = {
        "scenario": request.loadgen.scenario,
        "asked": answer["asked"],
        "latency_ms": loadgen.latencies(answer["summary"]),
        "samples_per_second": loadgen.throughput(answer["summary"]),
        "latency_of": loadgen.LATENCY_OF[request.loadgen.scenario],
        "result": answer["summary"],
        "valid": answer["summary"].get("Result is", "not said"),
        "logs": [str(request.loadgen_out / name) for name in loadgen.LOGS],
        "order": "the k-th sample asked for is the k-th frame of the drive; the drawn sample numbers are not used",
        "note": "no MLPerf submission: the settings are ours",
    }
    return found
