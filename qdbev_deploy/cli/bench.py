"""Measure a bundle: how fast, how steadily, with which memory and power, and whether that may be quoted.

Frames of a drive run with their state fed back, back to back (single), as a stream with a rate and a deadline (stream),
beside others (co-located), from the start of a process (cold) or for hours (soak). A run that was not steady is marked
UNSTABLE, with its reasons. docs/bench.md defines every number.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdbev_deploy.cli.progress import progress_bar
from qdbev_deploy.errors import ExitCode, QdbevError, usage_error

if TYPE_CHECKING:
    from qdbev_deploy.bench.loadgen import LoadgenPlan
    from qdbev_deploy.bench.measure import Plan, Progress
    from qdbev_deploy.bench.run import Request
    from qdbev_deploy.bench.scenarios import Jitter, Policy, StreamPlan

EPILOG = """\
examples:
  qdbev-deploy bench student.qdbev
  qdbev-deploy bench student.qdbev --dataroot /data/nuscenes --scene scene-0103 -o run.json --report run.html
  qdbev-deploy bench student.qdbev --scenario stream --rate 10 --deadline-ms 100 --jitter normal --jitter-ms 3
  qdbev-deploy bench student.qdbev --scenario co-located --instances 3
  qdbev-deploy bench student.qdbev --scenario soak --hours 8 --rate 10 -o soak.json
  qdbev-deploy bench student.qdbev --loadgen Server --loadgen-qps 8 --loadgen-latency-ms 150 --loadgen-out logs
  qdbev-deploy bench --compare before.json after.json

exit codes: 0 measured, also when UNSTABLE; 5 with --strict when UNSTABLE, or when --compare shows something slower
"""
SCENARIOS = ("single", "stream", "co-located", "cold", "soak")
_usage = partial(usage_error, "bench")
_LOADGEN = ("SingleStream", "MultiStream", "Server", "Offline")
_DEFAULT_FRAMES = 450  # in all: p99 needs 368 at 95 %, and samples are never quite independent

# Which options mean something in which mode; elsewhere they would be ignored, and are refused.
_FRAMES_IN_ORDER = ("single", "stream", "co-located", "soak", *_LOADGEN)
_MEASURED = (*_FRAMES_IN_ORDER, "cold")
_MODES: dict[str, tuple[str, ...]] = {
    "bundle": _MEASURED,
    "scenario": _MEASURED,
    "frames": ("single", "stream", "co-located", *_LOADGEN),
    "repeats": ("single", "stream", "cold"),
    "warmup": _FRAMES_IN_ORDER,
    "confidence": (*_MEASURED, "--compare"),
    "layers": ("single", "stream", "soak"),
    **dict.fromkeys(("dataroot", "scene", "data", "save_samples", "samples", "seed"), _MEASURED),
    "distinct": _FRAMES_IN_ORDER,
    "with_preprocess": _FRAMES_IN_ORDER,
    **dict.fromkeys(("cuda_graph", "wait"), _MEASURED),
    "stages": _FRAMES_IN_ORDER,
    **dict.fromkeys(("rate", "deadline_ms", "policy", "queue_depth", "jitter", "jitter_ms"), ("stream", "soak")),
    **dict.fromkeys(("instances", "as_", "load", "load_processes"), ("co-located",)),
    **dict.fromkeys(("minutes", "hours"), ("soak",)),
    "loadgen": _LOADGEN,
    "loadgen_out": _LOADGEN,
    "loadgen_samples": ("MultiStream",),
    "loadgen_qps": ("Server", "Offline"),
    "loadgen_latency_ms": ("Server",),
    "out": (*_MEASURED, "--compare"),
    "report": (*_MEASURED, "--read"),
    "strict": (*_MEASURED, "--compare", "--read"),
    "keep_partial": ("single", "stream", "soak"),
}
_MOST_FRAMES = 4_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="a folder NAME.qdbev")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--scenario", choices=SCENARIOS, help="when frames are run (default: single)")
    what.add_argument("--frames", type=int, metavar="N", help="frames measured in all, or that arrive (default: 450)")
    what.add_argument("--repeats", type=int, metavar="R", help="each with a new stream and a warm-up (3; cold: 7)")
    what.add_argument("--warmup", type=int, metavar="N", help="exactly so many frames (default: until it has settled)")
    what.add_argument("--confidence", type=float, metavar="P", help="of all intervals (default: 0.95)")
    what.add_argument("--layers", action="store_true", help="time each layer as well, in a run of its own at the end")
    data = parser.add_argument_group("data")
    data.add_argument("--dataroot", type=Path, metavar="DIR", help="nuScenes; without it, a synthetic drive is drawn")
    data.add_argument("--scene", metavar="NAME", help="a scene or split of the data root (default: from the first on)")
    data.add_argument(
        "--data", choices=("sequence", "random"),
        help="random: noise, and labelled so everywhere; what gathering costs depends on data",
    )  # fmt: skip
    kept = data.add_mutually_exclusive_group()
    kept.add_argument(
        "--save-samples", type=Path, metavar="DIR", help="keep the frames, for machines that cannot make them"
    )
    kept.add_argument("--samples", type=Path, metavar="DIR", help="frames that --save-samples wrote, here or elsewhere")
    data.add_argument("--distinct", type=int, metavar="N", help="frames held in memory, run over and over")
    data.add_argument("--with-preprocess", action="store_true", help="from camera frames: preprocessing is timed, too")
    data.add_argument("--seed", type=int, metavar="S", help="of drives, noise, jitter and LoadGen (default: 0)")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--cuda-graph", choices=("on", "off"), help="replay a captured graph (TensorRT)")
    engine.add_argument("--wait", choices=("spin", "block"), help="how the host waits for the device (default: block)")
    engine.add_argument("--stages", choices=("on", "off"), help="off: end to end alone, without events")
    stream = parser.add_argument_group("stream (and soak with --rate)")
    stream.add_argument("--rate", type=float, metavar="HZ", help="frames that arrive a second")
    stream.add_argument("--deadline-ms", type=float, metavar="MS", help="from arrival to boxes (default: the period)")
    stream.add_argument(
        "--policy", choices=("drop-oldest", "queue"), help="drop-oldest: one waits, a newer one ousts it"
    )
    stream.add_argument(
        "--queue-depth", type=int, metavar="N", help="places of the queue; one that finds it full is dropped"
    )
    stream.add_argument("--jitter", choices=("none", "uniform", "normal"), help="of arrivals (default: none)")
    stream.add_argument("--jitter-ms", type=float, metavar="MS", help="uniform: at most; normal: standard deviation")
    beside = parser.add_argument_group("co-located")
    beside.add_argument("--instances", type=int, metavar="N", help="side by side (default: 2)")
    beside.add_argument("--as", dest="as_", choices=("processes", "streams"), help="streams share one engine")
    beside.add_argument("--load", choices=("cpu", "gpu"), help="a synthetic load beside them")
    beside.add_argument("--load-processes", type=int, metavar="N", help="of it (default: cpu half the cores, gpu 1)")
    soak = parser.add_argument_group("soak").add_mutually_exclusive_group()
    soak.add_argument("--minutes", type=float, metavar="M")
    soak.add_argument("--hours", type=float, metavar="H")
    loadgen = parser.add_argument_group("MLPerf LoadGen")
    loadgen.add_argument(
        "--loadgen", choices=_LOADGEN, help="let LoadGen ask; needs pip install 'qdbev-deploy[loadgen]'"
    )
    loadgen.add_argument(
        "--loadgen-out", type=Path, metavar="DIR", help="for its logs (default: BUNDLE's name-loadgen)"
    )
    loadgen.add_argument("--loadgen-samples", type=int, metavar="N", help="a query of MultiStream (default: 8)")
    loadgen.add_argument(
        "--loadgen-qps", type=float, metavar="Q", help="Server: queries that arrive a second; Offline: expected (10)"
    )
    loadgen.add_argument(
        "--loadgen-latency-ms", type=float, metavar="MS", help="Server: the bound of its 99th percentile (100)"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--out", type=Path, metavar="RUN.json", help="write the document; with --compare, the verdict"
    )
    output.add_argument("--report", type=Path, metavar="RUN.html", help="write a page with plots")
    output.add_argument("--strict", action="store_true", help="exit 5 when UNSTABLE; with --compare, when slower")
    output.add_argument(
        "--keep-partial", action="store_true", help="on Ctrl-C, write what was measured, marked partial"
    )
    stored = parser.add_argument_group("stored results").add_mutually_exclusive_group()
    stored.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="is B faster than A?")
    stored.add_argument("--read", type=Path, metavar="RUN.json", help="show a stored result, or make its --report")


def run(args: argparse.Namespace) -> int:
    mode = _mode(args)
    _refuse_ignored(args, mode)
    _fill_in(args)
    if args.compare is not None:
        return _compare(args)
    if args.read is not None:
        return _read(args)
    if args.bundle is None:
        raise _usage("no bundle", "a folder NAME.qdbev, or --compare or --read with stored results")
    request = _request(args)
    _require_writable(args)
    if request.loadgen is not None:
        from qdbev_deploy.bench.loadgen import require_loadgen

        require_loadgen()
    from qdbev_deploy.bench.run import bench
    from qdbev_deploy.engine import Bundle

    bundle = Bundle.open(args.bundle)
    with _progress(request) as progress:
        document = bench(bundle, request, progress)
    _write(args, document, bundle.layers)
    if args.json:
        print(json.dumps(document, allow_nan=False))
    else:
        _show(document)
        _say_where(args)
    return _code(args, document)


def _code(args: argparse.Namespace, document: dict[str, Any]) -> int:
    if document["partial"]:
        return int(ExitCode.INTERRUPTED)
    return int(ExitCode.GUARD if args.strict and not document["stability"]["stable"] else ExitCode.DONE)


def _show(document: dict[str, Any]) -> None:
    from rich.console import Console

    from qdbev_deploy.bench.table import show

    show(document, Console(highlight=False))


def _say_where(args: argparse.Namespace) -> None:
    for path in (args.out, args.report):
        if path is not None:
            print(f"written: {path}")


def _write(args: argparse.Namespace, document: dict[str, Any], layers: Any = None) -> None:
    if args.out is not None:
        from qdbev_deploy.files import write_json

        write_json(args.out, document)
    if args.report is not None:
        from qdbev_deploy.report import write_report

        write_report(document, args.report, layers)


@contextmanager
def _progress(request: Request) -> Iterator[Progress]:
    """Drawn between frames by the measuring thread itself: no other thread wakes up beside it."""
    with progress_bar("bench", None, threaded=False) as update:

        def progress(done: int, total: int | None, note: str) -> None:
            update(done, total, note)

        yield progress


# ----------------------------------------------------------------------------------------------------------------------
# Stored results


def _compare(args: argparse.Namespace) -> int:
    from qdbev_deploy.bench.compare import compare
    from qdbev_deploy.bench.document import read

    _confidence(args)
    _require_writable(args)
    a, b = (read(path) for path in args.compare)
    comparison = compare(a, b, args.confidence)
    found = {"a": str(args.compare[0]), "b": str(args.compare[1]), **comparison.to_dict()}
    _write(args, found)
    if args.json:
        print(json.dumps(found, allow_nan=False))
    else:
        from rich.console import Console

        from qdbev_deploy.bench.table import show_comparison

        show_comparison(args.compare[0].name, args.compare[1].name, comparison, Console())
        _say_where(args)
    return int(ExitCode.GUARD if args.strict and comparison.slower else ExitCode.DONE)


def _read(args: argparse.Namespace) -> int:
    from qdbev_deploy.bench.document import read

    document = read(args.read)
    _require_writable(args)
    _write(args, document)
    if args.json:
        print(json.dumps(document, allow_nan=False))
    else:
        _show(document)
        _say_where(args)
    return _code(args, document)


# ----------------------------------------------------------------------------------------------------------------------
# Arguments


def _at_least(name: str, value: int | None, least: int, most: int = _MOST_FRAMES) -> None:
    if value is not None and not least <= value <= most:
        raise _usage(f"{name} {value}", f"a whole number of {least} to {most}")


def _positive(name: str, value: float | None, most: float = 1e9) -> None:
    if value is not None and not 0 < value <= most:  # refuses NaN, too
        raise _usage(f"{name} {value:g}", f"a number above 0, at most {most:g}")


def _confidence(args: argparse.Namespace) -> None:
    if not 0.5 <= args.confidence <= 0.9999:
        raise _usage(f"--confidence {args.confidence:g}", "a share of 0.5 to 0.9999, such as 0.95")


def _mode(args: argparse.Namespace) -> str:
    """What is done: a scenario, one of LoadGen's, --compare or --read."""
    for stored in ("compare", "read"):
        if getattr(args, stored) is not None:
            return f"--{stored}"
    if args.loadgen is not None and args.scenario not in (None, "single"):
        raise _usage(
            f"--loadgen with --scenario {args.scenario}", "one of them: LoadGen brings its own scenarios"
        )  # fmt: skip
    return str(args.loadgen or args.scenario or "single")


def _refuse_ignored(args: argparse.Namespace, mode: str) -> None:
    """Options that would be ignored, by the table above."""
    for name, modes in _MODES.items():
        value = getattr(args, name)
        if value is None or value is False or mode in modes:  # 0 is a value
            continue
        raise _usage(f"{_named(name)} with {_said(mode)}", f"{_named(name)} with {_where(modes)}, or without it")
    if mode == "soak" and args.rate is None:
        for name in ("deadline_ms", "policy", "queue_depth", "jitter", "jitter_ms"):
            if getattr(args, name) is not None:
                raise _usage(f"{_named(name)} in a soak without --rate", "--rate HZ, at which frames arrive")
    if args.load_processes is not None and args.load is None:
        raise _usage("--load-processes without --load", "--load cpu or gpu")
    drawn = args.samples is None and args.dataroot is None
    if args.seed is not None and not (drawn or args.loadgen or args.jitter in ("uniform", "normal")):
        raise _usage("--seed with nothing that is drawn", "a synthetic drive, noise, a jitter or LoadGen")


def _named(name: str) -> str:
    names = {"bundle": "a BUNDLE", "as_": "--as", "out": "-o"}
    return names.get(name, f"--{name.replace('_', '-')}")


def _said(mode: str) -> str:
    if mode.startswith("--"):
        return mode
    return f"--loadgen {mode}" if mode in _LOADGEN else f"--scenario {mode}"


def _where(modes: tuple[str, ...]) -> str:
    if set(_MEASURED) <= set(modes):
        return "a measurement"
    if set(_LOADGEN) < set(modes):
        modes = (*(mode for mode in modes if mode not in _LOADGEN), "any of LoadGen")
    return " or ".join(f"--scenario {mode}" if mode in SCENARIOS else mode.replace("any of LoadGen", "--loadgen")
                       if mode not in _LOADGEN else f"--loadgen {mode}" for mode in modes)  # fmt: skip


def _fill_in(args: argparse.Namespace) -> None:
    """What was left out, now that what was given is known."""
    defaults = {"scenario": "single", "confidence": 0.95, "data": "sequence", "seed": 0, "cuda_graph": "off",
                "wait": "block", "stages": "on"}  # fmt: skip
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _request(args: argparse.Namespace) -> Request:
    from qdbev_deploy.bench.colocated import Neighbours, default_load_processes
    from qdbev_deploy.bench.run import Request
    from qdbev_deploy.bench.samples import SampleRequest

    scenario = args.scenario
    _confidence(args)
    streams = scenario == "stream" or (scenario == "soak" and args.rate is not None)
    if args.data == "random" and (args.dataroot is not None or args.scene is not None):
        raise _usage("--data random with --dataroot or --scene", "noise or a drive, one of them")
    if args.samples is not None:
        for name in ("dataroot", "scene", "distinct"):
            if getattr(args, name) is not None:
                raise _usage(f"--samples with --{name}", "frames that are there, or those to make")
        if args.data == "random" or args.with_preprocess:
            raise _usage("--samples with --data random or --with-preprocess", "neither: the frames are what they are")
    if args.scene is not None and args.dataroot is None:
        raise _usage("--scene without --dataroot", "the data root that holds the scene")
    _at_least("--distinct", args.distinct, 1, 100_000)
    _at_least("--seed", args.seed, 0, 2**32 - 1)
    _at_least("--instances", args.instances, 1, 64)
    _at_least("--load-processes", args.load_processes, 1, 256)
    plan = _plan(args, streams)
    return Request(
        plan=plan,
        samples=SampleRequest(
            args.data, None if args.dataroot is None else str(args.dataroot), args.scene,
            1 if scenario == "cold" else args.distinct, args.with_preprocess, args.seed,
        ),
        neighbours=Neighbours(
            args.instances or 2, args.as_ or "processes", args.load,
            args.load_processes or default_load_processes(args.load),
        ) if scenario == "co-located" else None,
        loadgen=_loadgen_plan(args, plan.frames) if args.loadgen else None,
        loadgen_out=(args.loadgen_out or Path(f"{args.bundle.name.removesuffix('.qdbev')}-loadgen"))
        if args.loadgen else None,
        samples_from=args.samples,
        samples_to=args.save_samples,
        profile_layers=args.layers,
        command=("qdbev-deploy", *sys.argv[1:]),
    )  # fmt: skip


def _loadgen_plan(args: argparse.Namespace, frames: int) -> LoadgenPlan:
    from qdbev_deploy.bench.loadgen import DEFAULT_LATENCY_MS, DEFAULT_QPS, LoadgenPlan

    _at_least("--loadgen-samples", args.loadgen_samples, 1, 1000)
    _positive("--loadgen-qps", args.loadgen_qps, 1e6)
    _positive("--loadgen-latency-ms", args.loadgen_latency_ms, 1e7)
    return LoadgenPlan(
        args.loadgen, frames, args.loadgen_samples or 8, args.loadgen_qps or DEFAULT_QPS,
        args.loadgen_latency_ms or DEFAULT_LATENCY_MS, args.seed,
    )  # fmt: skip


def _plan(args: argparse.Namespace, streams: bool) -> Plan:
    from qdbev_deploy.bench.measure import Plan
    from qdbev_deploy.engine.interface import StreamOptions

    scenario = args.scenario
    _at_least("--frames", args.frames, 1)
    _at_least("--repeats", args.repeats, 1, 1000)
    _at_least("--warmup", args.warmup, 0)
    for name in ("rate", "deadline_ms", "minutes", "hours"):
        _positive(f"--{name.replace('_', '-')}", getattr(args, name))
    duration_s = None
    if scenario == "soak":
        duration_s = (args.hours or 0) * 3600 + (args.minutes or 0) * 60
        if not duration_s:
            raise _usage("--scenario soak without its length", "--minutes M or --hours H")
    repeats = args.repeats or {"cold": 7, "soak": 1, "co-located": 1}.get(scenario, 3)
    frames = args.frames or _DEFAULT_FRAMES
    if scenario != "cold" and frames < repeats:
        if args.repeats is not None:
            raise _usage(f"--frames {frames} with --repeats {repeats}", "at least one frame a repeat")
        repeats = frames
    if args.loadgen is not None:
        repeats = 1
    return Plan(
        scenario=scenario,
        frames=frames,
        repeats=repeats,
        warmup_frames=args.warmup,
        duration_s=duration_s,
        stream=_stream(args) if streams else None,
        options=StreamOptions(args.cuda_graph == "on", args.wait, args.stages == "on"),
        confidence=args.confidence,
        keep_partial=args.keep_partial,
    )


def _stream(args: argparse.Namespace) -> StreamPlan:
    from qdbev_deploy.bench.scenarios import StreamPlan

    if args.rate is None:
        raise _usage("--scenario stream without --rate", "--rate HZ, at which frames arrive")
    if args.rate > 1e5:
        raise _usage(f"--rate {args.rate:g}", "at most 100000 Hz")
    jitter: Jitter = args.jitter or "none"
    jitter_ms = args.jitter_ms
    if (jitter == "none") != (jitter_ms is None):
        raise _usage(
            "a jitter without its size, or a size without its kind", "--jitter uniform|normal with --jitter-ms MS"
        )
    if jitter_ms is not None and not (math.isfinite(jitter_ms) and 0 <= jitter_ms <= 1e6):
        raise _usage(f"--jitter-ms {jitter_ms:g}", "milliseconds, 0 or more")
    policy: Policy = args.policy or ("queue" if args.queue_depth is not None else "drop-oldest")
    if policy == "drop-oldest" and args.queue_depth is not None:
        raise _usage("--queue-depth with --policy drop-oldest", "--policy queue: with drop-oldest one frame waits")
    _at_least("--queue-depth", args.queue_depth, 1, 10_000)
    return StreamPlan(
        args.rate, jitter, jitter_ms or 0.0, policy, args.queue_depth or 4, args.deadline_ms, args.seed
    )  # fmt: skip


def _require_writable(args: argparse.Namespace) -> None:
    """Before minutes of measuring: the outputs' folders are there."""
    for path in (args.out, args.report, args.save_samples):
        if path is not None and not path.resolve().parent.is_dir():
            raise QdbevError(f"the folder {path.parent} does not exist", "an existing folder for the output",
                             f"mkdir -p {path.parent}")  # fmt: skip
        if path is not None and path != args.save_samples and path.is_dir():
            raise QdbevError(f"{path} is a folder", "the name of a file to write", "choose another name")
    if args.save_samples is not None and args.save_samples.exists():
        raise QdbevError(f"{args.save_samples} exists already", "a free name for the frames", "choose another name")
    if args.out is not None and args.out == args.report:
        raise _usage("-o and --report with one name", "two names")
