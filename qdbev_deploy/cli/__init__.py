"""The command line: names of the commands, dispatch, errors, exit codes. Importing it imports nothing heavy."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from qdbev_deploy import __version__
from qdbev_deploy.errors import ExitCode, QdbevError

# name -> what `qdbev-deploy --help` says of it. The module qdbev_deploy.cli.NAME is imported only when it is run.
COMMANDS = {
    "calibrate": "quantise a float checkpoint without training; what each part costs",
    "data": "make a synthetic nuScenes, or say what a data root holds and lacks",
    "doctor": "say what this machine has, what it lacks and how to get it",
    "evaluate": "score detections: NDS and mAP by the official evaluator, streaming scores",
    "inspect": "say what is in a checkpoint: variant, sizes, multiply-accumulates",
    "plugins": "build the plugin library, or say what a built one holds",
    "show": "draw a frame or a scene: six cameras with boxes around a view from above",
    "train": "train a teacher, or a quantised student of one",
}

_EPILOG = """\
examples:
  qdbev-deploy doctor
  qdbev-deploy inspect bevformer_tiny_epoch_24.pth
  qdbev-deploy COMMAND --help

exit codes: 0 done, 2 usage, 3 bad input, 4 something missing on this machine, 5 a guard or verification failed
"""


class Command(Protocol):
    """What each module of this folder offers."""

    EPILOG: str

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None: ...

    @staticmethod
    def run(args: argparse.Namespace) -> int: ...


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose usage errors end with the way to the help."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"error: {message}. Next: {self.prog} --help\n")


def _new_parser(**options: Any) -> argparse.ArgumentParser:
    return _Parser(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    listing = "\n".join(f"  {name:<{width}}{help_}" for name, help_ in COMMANDS.items())
    parser = _new_parser(
        prog="qdbev-deploy",
        usage="qdbev-deploy COMMAND [options]",
        description="From a quantisation-aware-trained BEV detector to a proven engine in a vehicle.\n\n"
        f"commands:\n{listing}",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"qdbev-deploy {__version__}")
    parser.add_argument("command", help=argparse.SUPPRESS, choices=COMMANDS, metavar="COMMAND")
    return parser


def _command_parser(name: str, command: Command) -> argparse.ArgumentParser:
    parser = _new_parser(
        prog=f"qdbev-deploy {name}",
        description=(sys.modules[command.__name__].__doc__ or "").strip(),  # type: ignore[attr-defined]
        epilog=command.EPILOG,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout; logs go to stderr")
    parser.add_argument("-v", "--verbose", action="store_true", help="log every step to stderr")
    command.add_arguments(parser)
    return parser


def _report(error: QdbevError, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": error.to_dict()}))
    print(f"error: {error.found}.\n  needed: {error.needed}.\n  next:   {error.next_step}", file=sys.stderr)
    return int(error.exit_code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        name = _top_parser().parse_args(arguments[:1]).command
        command: Command = importlib.import_module(f"qdbev_deploy.cli.{name}")  # type: ignore[assignment]
        args = _command_parser(name, command).parse_args(arguments[1:])
        logging.basicConfig(
            stream=sys.stderr,
            level=logging.INFO if args.verbose else logging.WARNING,
            format="%(levelname)s: %(message)s",
        )
        code = command.run(args)
        sys.stdout.flush()
        return int(code)
    except SystemExit as exit_:  # argparse: help, version, usage
        return int(exit_.code or 0)
    except QdbevError as error:
        return _report(error, as_json)
    except ModuleNotFoundError as error:
        return _report(_missing_extra(error), as_json)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.DONE)


_EXTRA_OF_MODULE = {
    "torch": "train", "scipy": "train", "yaml": "train", "nuscenes": "data", "cv2": "data", "PIL": "data",
    "matplotlib": "data", "pyquaternion": "data", "tensorrt": "trt", "pycuda": "trt",
}  # fmt: skip


def _missing_extra(error: ModuleNotFoundError) -> QdbevError:
    module = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF_MODULE.get(module)
    if extra is None:
        raise error
    return QdbevError(
        f"the Python package '{module}' is not installed",
        f"the extra '{extra}' for this command",
        f"pip install 'qdbev-deploy[{extra}]'",
        exit_code=ExitCode.MISSING,
    )
