"""The command line: names of the commands, dispatch, errors, exit codes. Importing it imports nothing heavy."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from qdbev_deploy import __version__
from qdbev_deploy.cli.stopping import Stopped, Stops
from qdbev_deploy.errors import ExitCode, QdbevError

# name -> what `qdbev-deploy --help` says of it. The module qdbev_deploy.cli.NAME is imported only when it is run.
COMMANDS = {
    "bench": "measure a bundle: latency, deadlines, memory, power, and whether the run was steady",
    "build": "build an ONNX file into a bundle: an engine whose precision and outputs are proved",
    "calibrate": "quantise a float checkpoint without training; what each part costs",
    "check": "say whether an ONNX file builds for a target, what of it runs in int8, and what it costs",
    "data": "make a synthetic nuScenes, or say what a data root holds and lacks",
    "doctor": "say what this machine has, what it lacks and how to get it",
    "evaluate": "score detections: NDS and mAP by the official evaluator, streaming scores",
    "export": "write a checkpoint as ONNX with its integers, and prove it against torch",
    "inspect": "say what is in a bundle (layers, time, precision, graph) or in a checkpoint",
    "package": "make a bundle into the model repository of an inference server",
    "plugins": "build the plugin library, or say what a built one holds",
    "run": "stream scenes through a bundle and write its boxes as a nuScenes submission",
    "show": "draw a frame or a scene: six cameras with boxes around a view from above",
    "train": "train a teacher, or a quantised student of one",
}

_EPILOG = """\
examples:
  qdbev-deploy doctor
  qdbev-deploy inspect bevformer_tiny_epoch_24.pth
  qdbev-deploy COMMAND --help

exit codes: 0 done, 1 internal error, 2 usage, 3 bad input, 4 something missing on this machine,
            5 a guard or verification failed, 128 + N stopped by signal N (130: Ctrl-C)
"""


class Command(Protocol):
    """What each module of this folder offers."""

    EPILOG: str

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None: ...

    @staticmethod
    def run(args: argparse.Namespace) -> int: ...


class _UsageError(QdbevError):
    """What argparse refuses; `usage` is printed above it."""

    def __init__(self, message: str, usage: str, program: str) -> None:
        super().__init__(message, " ".join(usage.split()), f"{program} --help", exit_code=ExitCode.USAGE)
        self.usage = usage


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that leaves usage errors to `main`."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(message, self.format_usage(), self.prog)


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
    if isinstance(error, _UsageError):
        print(f"{error.usage}error: {error.found}. Next: {error.next_step}", file=sys.stderr)
    else:
        print(f"error: {error.found}.\n  needed: {error.needed}.\n  next:   {error.next_step}", file=sys.stderr)
    return int(error.exit_code)


_INTERNAL_ERROR = 1  # what Python itself returns for an exception that nobody caught


def _report_bug(error: Exception, as_json: bool, verbose: bool) -> int:
    """An exception that nobody foresaw: one sentence with its name, and on request its traceback."""
    found = f"internal error: {type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
    next_step = "run it again with -v for the traceback, and report it as a bug"
    if as_json:
        document = {
            "found": found, "needed": "a qdbev-deploy without this bug", "next_step": next_step,
            "exit_code": _INTERNAL_ERROR,
        }  # fmt: skip
        print(json.dumps({"error": document}))
    if verbose:
        import traceback

        traceback.print_exception(error)
    print(found if verbose else f"{found}\n  next:   {next_step}", file=sys.stderr)
    return _INTERNAL_ERROR


def _of_the_system(error: OSError) -> QdbevError:
    """What the operating system refused, as an error that says which path and what to do."""
    path = error.filename2 or error.filename
    found = f"{path}: {error.strerror}" if path is not None and error.strerror else error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return QdbevError(
            found, "free space for the output, and in TMPDIR for temporary files",
            "free some, or choose an output on another disk",
            exit_code=ExitCode.MISSING,
        )  # fmt: skip
    return QdbevError(found, "files and folders that can be read and written", "check the path and its permissions")


def _report_stop(stop: KeyboardInterrupt) -> int:
    if isinstance(stop, Stopped) and stop.exit_code != ExitCode.INTERRUPTED:
        print(f"stopped by {stop}", file=sys.stderr)
        return stop.exit_code
    print("interrupted", file=sys.stderr)
    return int(ExitCode.INTERRUPTED)


def _run(arguments: list[str], stops: Stops) -> int:
    """Run the command; every exception becomes a report and an exit code, but for a closed pipe."""
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
        return int(command.run(args))
    except SystemExit as exit_:  # argparse: help, version
        return int(exit_.code or 0)
    except QdbevError as error:
        return _report(error, as_json)
    except KeyboardInterrupt as stop:
        return _report_stop(stop)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _report(_of_the_system(error), as_json)
    except Exception as error:
        if stops.came is not None:  # a library whose import was cut short says so in its own way
            return _report_stop(stops.came)
        # The last resort. A program that reads our JSON gets a document even of a bug, and a user a sentence.
        missing = _missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None:
            return _report(missing, as_json)
        return _report_bug(error, as_json, verbose=not {"-v", "--verbose"}.isdisjoint(arguments))


def _drop_stdout() -> None:
    """Nothing more is written, so that the interpreter does not try again and complain when it ends."""
    with contextlib.suppress(OSError, ValueError):  # no file behind it: a test, a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code."""
    with Stops(process_ends=argv is None) as stops:
        try:
            return _main(list(sys.argv[1:] if argv is None else argv), stops)
        except KeyboardInterrupt as stop:
            return _report_stop(stop)


def _main(arguments: list[str], stops: Stops) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal gets \u2013 for a dash and not an error
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments, stops)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output went away, which is its right
        _drop_stdout()
        return int(ExitCode.DONE)
    except OSError as error:  # stdout is a file on a full disk
        _drop_stdout()
        return _report(_of_the_system(error), as_json=False)


_EXTRAS = {
    "train": ("torch", "onnxscript", "scipy", "yaml", "tensorboard"),
    "data": ("nuscenes", "cv2", "PIL", "matplotlib", "pyquaternion"),
    "trt": ("tensorrt", "pycuda"),
}
_EXTRA_OF_MODULE = {module: extra for extra, modules in _EXTRAS.items() for module in modules}


def _missing_extra(error: ModuleNotFoundError) -> QdbevError | None:
    """Which extra brings the module; None where none does, which is a bug of ours."""
    module = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF_MODULE.get(module)
    if extra is None:
        return None
    return QdbevError(
        f"the Python package '{module}' is not installed",
        f"the extra '{extra}' for this command",
        f"pip install 'qdbev-deploy[{extra}]'",
        exit_code=ExitCode.MISSING,
    )
