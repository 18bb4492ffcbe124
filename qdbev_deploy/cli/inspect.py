"""Say what is in a bundle or a checkpoint.

Of a bundle (a folder NAME.qdbev), after verifying every file: the layers of its engine with time, precision, tactic,
bytes and multiply-accumulates, what the plugins ran in, where it came from, and whether it runs on this machine. It is
read without loading the engine, so that a bundle for another machine can be inspected too; --profile loads it and
measures. Of a checkpoint: which variant it is, and parameters and multiply-accumulates of each part; it is read without
executing anything in it, and every tensor is checked against the variant.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdbev_deploy.errors import ExitCode, QdbevError, usage_error

if TYPE_CHECKING:
    from qdbev_deploy.engine import Bundle
    from qdbev_deploy.engine.interface import Layer

EPILOG = """\
examples:
  qdbev-deploy inspect student.qdbev
  qdbev-deploy inspect student.qdbev --profile --frames 40 --sort time --top 20
  qdbev-deploy inspect student.qdbev --graph student.html
  qdbev-deploy inspect bevformer_tiny_epoch_24.pth
  qdbev-deploy inspect student.pt --variant micro --json
"""
_usage = partial(usage_error, "inspect")
_FILE_WIDTH = 190
_SORTS = ("time", "macs", "bytes", "order")
_ONLY_BUNDLES = ("profile", "frames", "dataroot", "sort", "top", "graph")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="a bundle (NAME.qdbev), an official BEVFormer .pth, or a checkpoint of this project"
    )
    parser.add_argument(
        "--variant", help="what a checkpoint should be; without it, the file's own word or its shapes decide"
    )
    bundle = parser.add_argument_group("of a bundle")
    bundle.add_argument("--profile", action="store_true", help="measure each layer's time here, on real frames")
    bundle.add_argument("--frames", type=int, metavar="N", help="frames of the profile (20)")
    bundle.add_argument("--dataroot", type=Path, help="nuScenes data root for the profile (default: a synthetic drive)")
    bundle.add_argument("--sort", choices=_SORTS, help="order of the layers (time where it was measured, else macs)")
    bundle.add_argument("--top", type=int, metavar="N", help="list N layers, 0 for all (30)")
    bundle.add_argument("--graph", type=Path, metavar="OUT.html", help="draw the layers as .svg or as a page (.html)")


def run(args: argparse.Namespace) -> int:
    path = Path(args.model)
    if path.is_dir():
        if args.variant is not None:
            raise _usage("--variant with a bundle", "a checkpoint: a bundle says itself what it is")
        return _run_bundle(args)
    for name in _ONLY_BUNDLES:
        if (given := getattr(args, name)) is not None and given is not False:
            raise _usage(f"--{name} with {path}", "a bundle: a checkpoint has no layers of an engine")
    if path.suffix == ".onnx":
        raise QdbevError(
            f"{path} is an ONNX file", "a bundle or a checkpoint", f"qdbev-deploy check {path} --target ort"
        )
    return _run_checkpoint(args)


# ----------------------------------------------------------------------------------------------------------------------
# Bundles


def _run_bundle(args: argparse.Namespace) -> int:
    from qdbev_deploy.engine import Bundle
    from qdbev_deploy.report.inspection import inspection, with_times

    for name in ("frames", "dataroot"):
        if getattr(args, name) is not None and not args.profile:
            raise _usage(f"--{name} without --profile", "--profile, which alone runs frames")
    if args.frames is not None and args.frames < 2:
        raise _usage(f"--frames {args.frames}", "at least 2, so that the state is carried")
    if args.top is not None and args.top < 0:
        raise _usage(f"--top {args.top}", "0 for all layers, or how many")
    bundle = Bundle.open(args.model, to_run=args.profile)
    layers, profile = bundle.layers, None
    if args.profile:
        times, profile = _profile(bundle, args.frames or 20, args.dataroot)
        layers = with_times(layers, times)
    if args.graph is not None:
        from qdbev_deploy.report import write_graph

        write_graph(layers, args.graph, bundle.name)
    document = inspection(bundle, layers, profile)
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        _print_bundle(document, layers, args)
    return int(ExitCode.DONE)


def _profile(bundle: Bundle, frames: int, dataroot: Path | None) -> tuple[dict[str, float], dict[str, Any]]:
    """(milliseconds of each layer, what was run) on frames of a drive with their state."""
    from qdbev_deploy.cli.progress import progress_bar
    from qdbev_deploy.data.stream_frames import parity_frames
    from qdbev_deploy.engine.interface import Stream
    from qdbev_deploy.streaming import StreamingSession

    engine = bundle.engine()
    try:
        with (
            parity_frames(bundle.spec, bundle.image, dataroot, frames) as (source, drive),
            progress_bar("profiling", frames) as advance,
        ):

            def feed(stream: Stream) -> None:
                session = StreamingSession(stream.step)
                for frame in drive:
                    session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
                    advance()

            times = engine.profile(feed)
    finally:
        engine.close()
    return times, {"frames": frames, "source": source, "statistic": "median"}


def _print_bundle(document: dict[str, Any], layers: tuple[Layer, ...], args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.markup import escape

    from qdbev_deploy.report.units import byte_size

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:  # nobody's window is too narrow
        console = Console(highlight=False, soft_wrap=True, width=_FILE_WIDTH)

    def say(line: str) -> None:
        console.print(escape(line))

    files = document["verified"]["files"]
    say(
        f"{document['bundle']}: {document['variant']} for {document['backend']}, "
        f"{document['precision_said']}, "
        f"image {document['image']}, state {document['io']}"
    )
    say(f"verified: {len(files)} files, {byte_size(sum(files.values()))}, manifest {document['manifest_sha256'][:16]}")
    error = document["why_not"]
    say("runs on this machine" if error is None else f"does not run on this machine: {error['found']}")
    say("built " + document["created"] + " by " + document["tool"] + _versions(document))
    for line in _origin(document["provenance"]):
        say(line)
    say(_parity(document["parity"]))
    for note in document["build"].get("notes", ()):
        say(f"note: {note}")
    console.print()
    _print_shares(console, document)
    _print_guard(console, document["precision"])
    _print_plugins(console, document)
    _print_layers(console, document, layers, args)
    if args.graph is not None:
        say(f"graph: {args.graph}")


def _versions(document: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    gpu = (document["gpu"] or {}).get("name")
    return (f" with {versions}" if versions else "") + (f" for {gpu}" if gpu else "")


def _origin(provenance: dict[str, Any]) -> list[str]:
    """Where it came from, a line each; hashes by their beginnings."""
    lines = []
    source = provenance.get("onnx")
    if isinstance(source, dict):
        lines.append(f"from {source.get('name')}, sha256 {str(source.get('sha256'))[:16]}")
    recipe = provenance.get("recipe")
    if isinstance(recipe, dict):
        lines.append(f"quantised by {recipe.get('name')}")
    checkpoint = provenance.get("checkpoint_sha256")
    if checkpoint:
        lines.append(f"of the checkpoint with sha256 {str(checkpoint)[:16]}")
    return lines


def _parity(parity: dict[str, Any]) -> str:
    """What the build proved of the outputs."""
    if not parity.get("frames"):
        return "outputs were not proved: it was built with --no-verify"
    return (
        f"outputs proved on {parity['frames']} frames ({parity.get('frames_are')}) against "
        f"{parity.get('reference')}, tolerance for {parity.get('tolerance')}"
    )


def _print_shares(console: Any, document: dict[str, Any]) -> None:
    from rich.table import Table

    from qdbev_deploy.report.sections import precision_label
    from qdbev_deploy.report.units import byte_size, number, share

    timed = document["profile"] is not None or any(
        row["time_ms"] is not None for row in document["precisions"].values()
    )
    table = Table(box=None, title="in which precision", title_justify="left")
    table.add_column("precision")
    for heading in ("layers", "GMAC", "of MACs", "weights", *(("ms", "of time") if timed else ())):
        table.add_column(heading, justify="right")
    macs = sum(row["macs"] for row in document["precisions"].values())
    time = sum(row["time_ms"] or 0.0 for row in document["precisions"].values())
    for precision, row in document["precisions"].items():
        cells = [
            str(row["layers"]),
            number(row["macs"] / 1e9),
            share(row["macs"], macs),
            byte_size(row["weight_bytes"]),
        ]
        if timed:
            cells += [number(row["time_ms"] or 0.0), share(row["time_ms"] or 0.0, time)]
        table.add_row(precision_label(precision), *cells)
    console.print(table)
    console.print()


def _print_guard(console: Any, precision: dict[str, Any]) -> None:
    """What the build's precision guard found."""
    from rich.markup import escape

    if "asked_int8" not in precision:
        return
    folded = f", {precision['folded']} computed while building" if precision.get("folded") else ""
    console.print(f"asked in int8: {precision['asked_int8']} nodes; ran in int8: {precision.get('ran_int8')}{folded}")
    for reason, count in precision.get("allowed", {}).items():
        console.print(escape(f"  allowed in another precision: {count} nodes ({reason})"))
    console.print()


def _print_plugins(console: Any, document: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from qdbev_deploy.report.units import number

    if not document["plugins"]:
        why = (
            " ONNX Runtime computes the BEV ops by their ONNX functions."
            if document["backend"] == "onnxruntime"
            else ""
        )
        console.print(f"no plugins in this engine.{why}")
        console.print()
        return
    table = Table(box=None, title="what the plugins ran in", title_justify="left")
    for heading in ("op", "value", "output", "ms", "layer"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    for entry in document["plugins"]:
        time = "-" if entry["time_ms"] is None else number(entry["time_ms"])
        table.add_row(entry["op"], entry["value"], entry["output"], time, escape(entry["layer"]))
    console.print(table)
    console.print()


def _print_layers(console: Any, document: dict[str, Any], layers: tuple[Layer, ...], args: argparse.Namespace) -> None:
    from rich.markup import escape
    from rich.table import Table

    from qdbev_deploy.report.graph_layout import shown_name
    from qdbev_deploy.report.inspection import written_bytes
    from qdbev_deploy.report.names import short_layer, shortened
    from qdbev_deploy.report.sections import precision_label
    from qdbev_deploy.report.units import byte_size, number, share

    timed = any(layer.time_ms is not None for layer in layers)
    sort = args.sort or ("time" if timed else "macs")
    if sort == "time" and not timed:
        raise _usage("--sort time, and no times were measured", "--profile, or another order")
    keys = {
        "time": lambda layer: -(layer.time_ms or 0.0),
        "macs": lambda layer: -layer.macs,
        "bytes": lambda layer: -(layer.weight_bytes + written_bytes(layer)),
        "order": lambda layer: 0,
    }
    place = {id(layer): index for index, layer in enumerate(layers)}
    ordered = sorted(layers, key=keys[sort])
    top = 30 if args.top is None else args.top
    shown = ordered[:top] if top else ordered
    tactics = any(layer.tactic for layer in shown)
    whole = sum(layer.time_ms or 0.0 for layer in layers)
    said = f"{len(layers)} layers by {sort}"
    if document["profile"]:
        profile = document["profile"]
        said += f"; median of {profile['frames']} frames, {profile['source']}; {number(whole)} ms in all"
    elif timed:
        said += f"; times as the build measured them, {number(whole)} ms in all"
    letters = min(max(console.width - (100 if tactics else 74), 24), 60)
    table = Table(box=None)
    table.add_column("#", justify="right")
    table.add_column("layer", no_wrap=True)
    for heading in ("kind", "precision", *(("tactic",) if tactics else ())):
        table.add_column(heading)
    for heading in (*(("ms", "of time") if timed else ()), "MMAC", "weights", "writes"):
        table.add_column(heading, justify="right")
    for layer in shown:
        cells = [
            str(place[id(layer)]),
            escape(short_layer(shown_name(layer), letters)),
            layer.kind,
            precision_label(layer.precision),
        ]
        if tactics:
            cells.append(escape(shortened(layer.tactic, 40)))
        if timed:
            time = layer.time_ms
            cells += ["-", "-"] if time is None else [number(time), share(time, whole)]
        cells.append(number(layer.macs / 1e6) if layer.macs else "-")
        cells += [byte_size(size) if size else "-" for size in (layer.weight_bytes, written_bytes(layer))]
        table.add_row(*cells)
    console.print(said)
    console.print(table)
    if len(shown) < len(layers):
        console.print(f"and {len(layers) - len(shown)} more; --top 0 lists them, --json has everything")


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints


def _short(value: str | int | float) -> str | int | float:
    """Training tools put whole configurations into the meta data; one line is enough to know them by."""
    return value if not isinstance(value, str) or len(value) <= 120 else f"{value[:100]!r}... ({len(value)} characters)"


def _run_checkpoint(args: argparse.Namespace) -> int:
    from qdbev_deploy.model.cost import model_cost
    from qdbev_deploy.quant.checkpoint import load_model
    from qdbev_deploy.quant.quantise import without_scale

    model, recipe = load_model(args.model, args.variant, unfinished=True)
    unset = without_scale(model)
    spec, parts = model.spec, model_cost(model.spec)
    meta = {str(key): _short(value) for key, value in model.meta.items() if isinstance(value, (str, int, float))}
    if args.json:
        document = {
            "checkpoint": args.model,
            "variant": spec.name,
            "recipe": recipe.to_dict() if recipe else None,
            "activations_without_scale": unset,
            "meta": meta,
            "parts": {part.part: {"parameters": part.parameters, "macs": part.macs} for part in parts},
        }
        print(json.dumps(document, indent=2))
        return int(ExitCode.DONE)

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    height, width = spec.image_hw
    table = Table(
        title=f"{spec.name}: six images of {height}x{width}, BEV {spec.bev_hw[0]}x{spec.bev_hw[1]}, "
        f"{spec.encoder_layers} encoder and {spec.decoder_layers} decoder layers, {spec.queries} queries",
        title_justify="left",
        box=None,
    )
    table.add_column("part")
    for heading in ("parameters", "GMAC a frame"):
        table.add_column(heading, justify="right")
    for part in parts:
        table.add_row(part.part, f"{part.parameters:,}", f"{part.macs / 1e9:.2f}")
    table.add_section()
    table.add_row("all", f"{sum(p.parameters for p in parts):,}", f"{sum(p.macs for p in parts) / 1e9:.2f}")
    console = Console()
    console.print(table)
    if recipe:
        weights, activations = (
            ", ".join(sorted({str(rule.bits or "float") for rule in rules}))
            for rules in (recipe.weights, recipe.activations)
        )
        console.print(f"quantised by {recipe.name}: weights {weights}, activations {activations} bits", highlight=False)
    if unset:
        console.print(
            f"unfinished: {len(unset)} activations have no scale yet and pass in float, '{escape(unset[0])}' first",
            highlight=False,
        )
    for key, value in meta.items():
        console.print(f"{escape(key)}: {escape(str(value))}", highlight=False)
    return int(ExitCode.DONE)
