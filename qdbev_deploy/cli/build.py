"""Build an ONNX file into a bundle: an engine, what runs in it, and the proof that it computes what the file computes.

The file is checked and lowered for the backend, and built. Every node that it asks for in int8 must have run in int8,
or be allowed with a reason; then the engine runs a sequence with its state beside ONNX Runtime on the file. Where
either fails the exit code is 5, the report lies beside, and there is no bundle. See docs/build.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdbev_deploy.cli.progress import progress_bar
from qdbev_deploy.errors import ExitCode, QdbevError

if TYPE_CHECKING:
    from rich.table import Table

    from qdbev_deploy.engine import Bundle

EPILOG = """\
examples:
  qdbev-deploy build --onnx student.onnx --int8
  qdbev-deploy build --onnx student.onnx --fp16 --backend tensorrt -o baseline.qdbev
  qdbev-deploy build --onnx student.onnx --int8 --dataroot /data/nuscenes --timing-cache orin.cache --workspace 4096
  qdbev-deploy build --onnx student.onnx --int8 --allow 'img_backbone.conv1*:three channels do not fill an int8 tile'
"""
PRECISIONS = {
    "int8": "what the file's Q/DQ say, proved layer by layer",
    "fp16": "a baseline in FP16; a quantised file goes without its Q/DQ",
    "fp32": "a baseline in FP32; a quantised file goes without its Q/DQ",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="the file to build")
    precision = parser.add_mutually_exclusive_group(required=True)
    for name, help_ in PRECISIONS.items():
        precision.add_argument(f"--{name}", action="store_const", dest="precision", const=name, help=help_)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="NAME.qdbev", help="the bundle (default: the file's name, in this folder)"
    )
    parser.add_argument(
        "--backend", default="auto", choices=("auto", "tensorrt", "onnxruntime"),
        help="auto takes TensorRT where a GPU and TensorRT are found, else ONNX Runtime, and says so",
    )  # fmt: skip
    parser.add_argument("--variant", help="tiny, small, base, micro: for files that do not say which they are")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="PATTERN:REASON",
        help="nodes or layers that need not run in int8, and why; * stands for any characters; may be repeated",
    )  # fmt: skip
    proof = parser.add_argument_group("the proof")
    proof.add_argument(
        "--dataroot", type=Path, metavar="DIR", help="nuScenes for parity; without it, a synthetic drive"
    )
    proof.add_argument("--frames", type=int, default=20, metavar="N", help="frames of parity, over two scenes (20)")
    proof.add_argument("--no-verify", action="store_true", help="run no parity; the manifest says so")
    proof.add_argument(
        "--debug-parity", action="store_true", help="where parity fails, find the first layer that differs"
    )
    tensorrt = parser.add_argument_group("TensorRT alone")
    tensorrt.add_argument("--workspace", type=int, dest="workspace_mb", metavar="MB", help="memory for tactics")
    tensorrt.add_argument(
        "--opt-level", type=int, dest="optimization_level", metavar="0-5", help="how long it searches"
    )
    tensorrt.add_argument("--timing-cache", type=Path, metavar="FILE", help="kept and used again: builds that repeat")
    tensorrt.add_argument("--dla", type=int, dest="dla_core", metavar="N", help="DLA core, with the GPU behind it")
    tensorrt.add_argument("--version-compatible", action="store_true", help="the plan runs on later TensorRT releases")
    tensorrt.add_argument("--hardware-compatible", action="store_true", help="the plan runs on later GPUs")
    tensorrt.add_argument("--tactic-sources", metavar="A,B", help="such as CUBLAS,CUDNN,JIT_CONVOLUTIONS")
    tensorrt.add_argument("--profile-verbosity", choices=("none", "names", "detailed"), help="what the inspector sees")
    runtime = parser.add_argument_group("ONNX Runtime alone")
    runtime.add_argument("--threads", type=int, metavar="N", help="threads of an operator (default: all cores)")
    runtime.add_argument(
        "--fused",
        action="store_true",
        help="let it fuse Q/DQ into integer kernels, where it can; the guard lists the rest",
    )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Those that were given; the others keep the defaults of BuildOptions."""
    names = ("precision", "workspace_mb", "optimization_level", "timing_cache", "dla_core", "version_compatible",
             "hardware_compatible", "profile_verbosity", "threads", "fused")  # fmt: skip
    given = {name: getattr(args, name) for name in names}
    options = {name: value for name, value in given.items() if value is not None and value is not False}  # 0 is given
    if args.tactic_sources is not None:
        options["tactic_sources"] = tuple(filter(None, args.tactic_sources.split(",")))
    return options


def run(args: argparse.Namespace) -> int:
    if args.debug_parity and args.no_verify:
        raise QdbevError("--debug-parity with --no-verify", "one of them", "leave --no-verify out",
                         exit_code=ExitCode.USAGE)  # fmt: skip

    from qdbev_deploy.engine import build
    from qdbev_deploy.engine.backends import choose
    from qdbev_deploy.engine.guard import Allowance

    allow = [Allowance.parse(text) for text in args.allow]
    choice = choose(args.backend)
    print(choice.says, file=sys.stderr)

    with progress_bar("build", 1) as update:

        def say(phase: str, done: int | None, total: int | None) -> None:
            update(done or 0, total or 1, note=phase)

        bundle = build(
            args.onnx,
            args.output,
            backend=choice.backend.name,
            variant=args.variant,
            allow=allow,
            verify=not args.no_verify,
            dataroot=args.dataroot,
            frame_count=args.frames,
            debug_parity=args.debug_parity,
            say=say,
            **_options(args),
        )
    if args.json:
        print(json.dumps({"bundle": str(bundle.path), "manifest": bundle.manifest}, indent=2))
    else:
        _print(bundle)
    return int(ExitCode.DONE)


def _print(bundle: Bundle) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    manifest, precision = bundle.manifest, bundle.manifest["precision"]
    engine = manifest["files"][manifest["engine_file"]]
    console.print(
        f"{bundle.path}: {bundle.spec.name}, {precision['precision']}, {manifest['backend']} "
        f"{manifest['versions'].get(manifest['backend'], '')}, {manifest['engine_file']} {engine['bytes'] / 1e6:.1f} MB"
    )
    for note in manifest["build"]["notes"]:
        console.print(f"  {escape(note)}", soft_wrap=True)
    table = Table(box=None)
    for heading in ("ran in", "GMAC a frame", "share", "time, ms", "share"):
        table.add_column(heading, justify="left" if heading == "ran in" else "right")
    macs, times = precision["macs"], precision["time_ms"] or {}
    for name in dict.fromkeys((*macs, *times)):
        row = [name]
        for values, scale in ((macs, 1e9), (times, 1.0)):
            total = sum(values.values())
            here = name in values and total
            row += [f"{values[name] / scale:.3f}", f"{values[name] / total:.1%}"] if here else ["-", "-"]
        table.add_row(*row)
    console.print(table)
    if precision["asked_int8"]:
        console.print(
            f"asked for in int8: {precision['asked_int8']} nodes; ran in int8: {precision['ran_int8']}; "
            f"computed while building: {precision['folded']}"
        )
        console.print(_asked_table(bundle, emulated=precision["emulated"]))
        console.print(f"each node by itself: {bundle.path}/guard.json", soft_wrap=True)
    for reason, count in precision["allowed"].items():
        console.print(f"allowed, {count} nodes: {escape(reason)}", soft_wrap=True)
    for pattern in precision["unused_allowances"]:
        console.print(f"--allow '{escape(pattern)}' covers nothing that fell back")
    _print_parity(console, manifest["parity"], emulated=precision["emulated"])


def _asked_table(bundle: Bundle, *, emulated: bool) -> Table:
    """What was asked for in int8, by part and kind of node: what ran, what was excused, its share of work and time."""
    from rich.table import Table

    from qdbev_deploy.engine.verification import read_json
    from qdbev_deploy.graph.parts import PARTS, part_of

    nodes: list[dict[str, Any]] = read_json(bundle.path, "guard.json")["nodes"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for node in nodes:
        groups[part_of(node["node"]), node["op"]].append(node)
    times = _time_by_node(bundle, {node["node"] for node in nodes})
    all_macs = sum(bundle.manifest["precision"]["macs"].values())
    all_time = sum(layer.time_ms or 0.0 for layer in bundle.layers)
    table = Table(box=None)
    for heading in ("part", "node", "asked", "int8", "emulated" if emulated else "allowed", "folded", "MACs", "time"):
        table.add_column(heading, justify="left" if heading in ("part", "node") else "right")
    for part, op in sorted(groups, key=lambda group: (PARTS.index(group[0]), group[1])):
        found = groups[part, op]
        macs = sum(node["macs"] for node in found)
        time_ms = sum(times.get(node["node"], 0.0) for node in found)
        ran = Counter(node["ran"] for node in found)
        counts = (len(found), ran["int8"], sum(bool(node["allowed"]) for node in found), ran["folded"])
        shares = ((macs, all_macs), (time_ms, all_time))
        table.add_row(part, op, *map(str, counts), *(f"{a / b:.1%}" if b else "-" for a, b in shares))
    return table


def _time_by_node(bundle: Bundle, nodes: set[str]) -> dict[str, float]:
    """Milliseconds of each node; a layer that was made from several shares its time among them."""
    times: dict[str, float] = defaultdict(float)
    for layer in bundle.layers:
        mine = nodes.intersection(layer.nodes)
        for name in mine:
            times[name] += (layer.time_ms or 0.0) / len(mine)
    return times


def _print_parity(console: Any, parity: dict[str, Any], *, emulated: bool) -> None:
    if parity["passed"] is None:
        console.print("not proved, as --no-verify asked:")
        for claim in parity["not_proved"]:
            console.print(f"  {claim}")
        return
    worst = max(parity["outputs_relative"].values(), key=float)
    console.print(
        f"parity over {parity['frames']} frames ({parity['frames_are']}), {parity['resets']} of them the first of a "
        f"scene: outputs within {float(worst):.2g} of their size, {float(parity['detections']):.1%} of the detections "
        f"found again ({float(parity['detections_own_state']):.1%} with a state of its own)",
        soft_wrap=True,
    )
    if emulated:
        console.print(
            "  here engine and reference are both ONNX Runtime on the same Q/DQ: this proves how the state is handled "
            "and what was packed, and says nothing of int8 arithmetic on a target",
            soft_wrap=True,
        )
