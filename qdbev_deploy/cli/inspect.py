"""Say what is in a checkpoint: which variant it is, and parameters and multiply-accumulates of each part.

The file is read without executing anything in it, and every tensor is checked against the variant: keys, shapes, and
that all numbers are finite.
"""

from __future__ import annotations

import argparse
import json

from qdbev_deploy.errors import ExitCode

EPILOG = """\
examples:
  qdbev-deploy inspect bevformer_tiny_epoch_24.pth
  qdbev-deploy inspect student.pt --variant micro --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="an official BEVFormer .pth, or a checkpoint of this project")
    parser.add_argument(
        "--variant", help="what the file should be; without it, the file's own word or its shapes decide"
    )


def _short(value: str | int | float) -> str | int | float:
    """Training tools put whole configurations into the meta data; one line is enough to know them by."""
    return value if not isinstance(value, str) or len(value) <= 120 else f"{value[:100]!r}... ({len(value)} characters)"


def run(args: argparse.Namespace) -> int:
    from qdbev_deploy.model.cost import model_cost
    from qdbev_deploy.quant.checkpoint import load_model

    model, recipe = load_model(args.checkpoint, args.variant)
    spec, parts = model.spec, model_cost(model.spec)
    meta = {str(key): _short(value) for key, value in model.meta.items() if isinstance(value, (str, int, float))}
    if args.json:
        document = {
            "checkpoint": args.checkpoint,
            "variant": spec.name,
            "recipe": recipe.to_dict() if recipe else None,
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
    for key, value in meta.items():
        console.print(f"{escape(key)}: {escape(str(value))}", highlight=False)
    return int(ExitCode.DONE)
