"""The same system under MLPerf LoadGen: it asks, we answer with the next frames of the drive, its logs are kept."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdbev_deploy.bench.clock import WallClock
from qdbev_deploy.bench.recording import Recording
from qdbev_deploy.bench.samples import load
from qdbev_deploy.bench.system import System
from qdbev_deploy.bench.warmup import warm_up
from qdbev_deploy.engine import Bundle
from qdbev_deploy.engine.interface import StreamOptions
from qdbev_deploy.errors import ExitCode, QdbevError

SCENARIOS = ("SingleStream", "MultiStream", "Server", "Offline")
LATENCY_OF = {
    "SingleStream": "a query of one sample, from LoadGen's asking to our answer",
    "MultiStream": "a query of all its samples, from LoadGen's asking to the last answer",
    "Server": "a query of one sample from its scheduled moment to our answer, waiting included",
    "Offline": "a sample from the asking for all of them to its answer, so that most of it is waiting",
}
DEFAULT_QPS = 10.0  # as LoadGen's own settings have it for no model in particular
DEFAULT_LATENCY_MS = 100.0
LOGS = ("mlperf_log_summary.txt", "mlperf_log_detail.txt")


@dataclass(frozen=True)
class LoadgenPlan:
    """What LoadGen is asked for."""

    scenario: str
    frames: int
    samples_per_query: int = 8  # of MultiStream
    target_qps: float = DEFAULT_QPS  # of Server: queries that arrive a second; of Offline: what is expected
    latency_ms: float = DEFAULT_LATENCY_MS  # Server: the bound its verdict is about
    seed: int = 0


def require_loadgen() -> None:
    """Refuse before anything is measured where LoadGen is not installed."""
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise QdbevError(
            "MLPerf LoadGen is not installed", "the Python package mlcommons-loadgen",
            "pip install 'qdbev-deploy[loadgen]'", exit_code=ExitCode.MISSING,
        )  # fmt: skip


def run_under_loadgen(request: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own, since LoadGen cannot be interrupted and keeps its state for good.

    LoadGen draws the numbers of samples at random. A stream's state makes sense only in the order of the drive, so
    that the k-th sample it asks for is answered with the k-th frame; which number it drew plays no part.
    """
    import mlperf_loadgen

    plan = LoadgenPlan(**request["plan"])
    folder = Path(request["logs"])
    bundle = Bundle.open(request["bundle"])
    samples = load(Path(request["samples"]))
    engine = bundle.engine()
    clock = WallClock()
    failures: list[Exception] = []
    with System(engine, bundle.spec, samples, StreamOptions(**request["options"]), clock) as system:
        warmup = warm_up(system.run, clock, request["warmup"])
        system.restart()
        recording = Recording(plan.frames)
        unbooked = Recording(1)  # for frames beyond those that were asked for
        asked = 0

        def issue(queries: list[Any]) -> None:
            nonlocal asked
            for query in queries:
                # An exception must not cross into LoadGen, which would end the process.
                try:
                    if not failures:
                        unbooked.rewind()
                        system.run(asked, recording if recording.count < plan.frames else unbooked)
                except Exception as error:
                    failures.append(error)
                asked += 1
                mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(query.id, 0, 0)])

        _start(mlperf_loadgen, plan, folder, len(samples.frames), issue)
    engine.close()
    if failures:
        raise failures[0]
    return {
        "rows": recording.rows[: recording.count].tolist(), "asked": asked, "warmup": warmup.to_dict(),
        "summary": parse_summary((folder / LOGS[0]).read_text(encoding="utf-8", errors="replace")),
    }  # fmt: skip


def _start(mlperf: Any, plan: LoadgenPlan, folder: Path, library_size: int, issue: Any) -> None:
    settings = mlperf.TestSettings()
    settings.scenario = getattr(mlperf.TestScenario, plan.scenario)
    settings.mode = mlperf.TestMode.PerformanceOnly
    queries = -(-plan.frames // plan.samples_per_query) if plan.scenario == "MultiStream" else plan.frames
    settings.min_query_count = settings.max_query_count = queries
    settings.min_duration_ms = 0
    settings.multi_stream_samples_per_query = plan.samples_per_query
    settings.server_target_qps = settings.offline_expected_qps = plan.target_qps
    settings.server_target_latency_ns = int(plan.latency_ms * 1e6)
    for name in ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed"):
        setattr(settings, name, plan.seed)
    logs = mlperf.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = False
    sut = mlperf.ConstructSUT(issue, lambda: None)
    library = mlperf.ConstructQSL(library_size, library_size, lambda _: None, lambda _: None)
    try:
        # No audit: a file of that name in the working folder must not steer the run.
        mlperf.StartTestWithLogSettings(sut, library, settings, logs, str(folder / "no-audit.config"))
    finally:
        mlperf.DestroyQSL(library)
        mlperf.DestroySUT(sut)


def parse_summary(text: str) -> dict[str, str]:
    """The lines `name : value` of LoadGen's summary, as it wrote them."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(\S[^:]*?)\s*:\s*(\S.*?)\s*", line)
        if match:
            found[match.group(1)] = match.group(2)
    return found


def latencies(summary: dict[str, str]) -> dict[str, float]:
    """Milliseconds of what LoadGen itself measured: `min`, `mean`, `p50` and so on, as far as it says."""
    found: dict[str, float] = {}
    for name, value in summary.items():
        if match := re.fullmatch(r"(?:(Min|Mean|Max)|(\d+(?:\.\d+)?)(?:th)? percentile) latency \(ns\)", name):
            which = match.group(1).lower() if match.group(1) else f"p{float(match.group(2)):g}"
            if re.fullmatch(r"\d+", value):
                found.setdefault(which, int(value) / 1e6)
    return found


def throughput(summary: dict[str, str]) -> float | None:
    """Samples a second, of the scenarios that are about it."""
    for name in ("Samples per second", "Completed samples per second"):
        if re.fullmatch(r"\d+(\.\d+)?(e[+-]?\d+)?", summary.get(name, "")):
            return float(summary[name])
    return None
