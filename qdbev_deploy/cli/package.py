"""Package a bundle for an inference server.

--triton writes a model repository of the Triton Inference Server, which keeps the state of many vehicles' sequences:
config.pbtxt, the engine, the plugin library, and a README.md for whoever operates it. The bundle is verified first; it
may be for another machine than this one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from qdbev_deploy.errors import ExitCode

EPILOG = """\
examples:
  qdbev-deploy package student.qdbev --triton models
  qdbev-deploy package student.qdbev --triton models --name bev --sequences 32 --max-idle 5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a bundle (NAME.qdbev)")
    parser.add_argument(
        "--triton", type=Path, required=True, metavar="DIR", help="write this model repository; must be free or empty"
    )
    parser.add_argument("--name", help="of the model on the server (default: the bundle's)")
    parser.add_argument(
        "--sequences", type=int, default=8, metavar="N", help="sequences that may be open at the same time (8)"
    )
    parser.add_argument(
        "--max-idle", type=float, default=2.0, metavar="S", help="seconds after which a sequence is forgotten (2)"
    )


def run(args: argparse.Namespace) -> int:
    from qdbev_deploy.engine import Bundle
    from qdbev_deploy.package import TritonOptions, write_triton

    bundle = Bundle.open(args.bundle, to_run=False)
    options = TritonOptions(args.name, args.sequences, args.max_idle)
    repository = write_triton(bundle, args.triton, options)
    if args.json:
        document = {"out": str(repository.path), "model": repository.model, "files": list(repository.files)}
        print(json.dumps(document, indent=2))
        return int(ExitCode.DONE)
    print(f"{repository.path}: model {repository.model} for Triton, not run on a server yet")
    for name in repository.files:
        print(f"  {name}")
    print(f"next: read {repository.path / 'README.md'}, and start the server as it says")
    return int(ExitCode.DONE)
