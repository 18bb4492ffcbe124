"""Say what this machine has, what it lacks and how to get it.

Each line is ok, missing (needed for the purpose and not there) or not needed (not there, and no loss). Without --for,
the purpose is ONNX Runtime on the CPU, and TensorRT as well where a GPU is found. Exit code 4 when something
is missing.
"""

from __future__ import annotations

import argparse
import json

from qdbev_deploy import __version__
from qdbev_deploy.errors import ExitCode

EPILOG = """\
examples:
  qdbev-deploy doctor
  qdbev-deploy doctor --for tensorrt --for data
  qdbev-deploy doctor --json | python -m json.tool
"""

_COLOURS = {"ok": "green", "missing": "red", "not needed": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from qdbev_deploy.machine import PURPOSES

    parser.add_argument(
        "--for",
        dest="purposes",
        action="append",
        choices=PURPOSES,
        metavar="PURPOSE",
        help="; ".join(f"{name}: {what}" for name, what in PURPOSES.items()),
    )


def run(args: argparse.Namespace) -> int:
    from qdbev_deploy.machine import default_purposes, examine

    purposes = tuple(dict.fromkeys(args.purposes or default_purposes()))
    findings = examine(purposes)
    complete = all(finding.status != "missing" for finding in findings)
    if args.json:
        document = {
            "qdbev_deploy": __version__,
            "purposes": purposes,
            "complete": complete,
            "findings": [finding.to_dict() for finding in findings],
        }
        print(json.dumps(document, indent=2))
        return int(ExitCode.DONE if complete else ExitCode.MISSING)

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"qdbev-deploy {__version__} for {', '.join(purposes)}", title_justify="left", box=None)
    for heading in ("item", "status", "found"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        status = f"[{_COLOURS[finding.status]}]{finding.status}[/]"
        advice = f"\n[bold]to get it:[/] {escape(finding.get_it)}" if finding.get_it else ""
        table.add_row(finding.item, status, escape(finding.detail) + advice)
    Console().print(table)
    return int(ExitCode.DONE if complete else ExitCode.MISSING)
