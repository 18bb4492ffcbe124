"""Dispatch, help, errors and exit codes of the command line."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qdbev_deploy import __version__, cli
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.files import atomic_output


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qdbev_deploy.cli", *arguments], capture_output=True, text=True, timeout=60
    )


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == ExitCode.DONE
    assert all(f"\n  {name} " in result.stdout for name in cli.COMMANDS)
    assert "exit codes:" in result.stdout
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu_s < 0.2
    code = "import sys, qdbev_deploy.cli; print(sorted({'numpy', 'onnx', 'rich', 'torch'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example_and_offers_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert (
        f"qdbev-deploy {name} " in text.split("examples:")[1] or f"qdbev-deploy {name}\n" in text.split("examples:")[1]
    )
    if "{" not in text.splitlines()[0]:  # a group of commands leaves --json to each of them
        assert "--json" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == ExitCode.DONE
    assert capsys.readouterr().out == f"qdbev-deploy {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["doctor", "--nonsense"], ["doctor", "--for", "nothing"]])
def test_usage_errors_say_what_next(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: qdbev-deploy")
    assert "--help" in captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "next_step"),
    [
        (["--json"], "qdbev-deploy --help"),
        (["nonsense", "--json"], "qdbev-deploy --help"),
        (["doctor", "--json", "--nonsense"], "qdbev-deploy doctor --help"),
        (["data", "synth", "--json"], "qdbev-deploy data synth --help"),
    ],
)
def test_usage_errors_for_machines(arguments: list[str], next_step: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == ExitCode.USAGE
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["exit_code"], error["next_step"]) == (ExitCode.USAGE, next_step)
    assert error["needed"].startswith("usage: qdbev-deploy")


def command_that(action: Any) -> Any:
    module = SimpleNamespace(__name__="qdbev_deploy.cli", EPILOG="", add_arguments=lambda parser: None)
    module.run = lambda args: action()
    return module


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QdbevError("a was found", "b", "type c"), ExitCode.BAD_INPUT),
        (QdbevError("a was found", "b", "type c", exit_code=ExitCode.GUARD), ExitCode.GUARD),
        (ModuleNotFoundError("no", name="torch.nn"), ExitCode.MISSING),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
)
def test_errors_become_sentences_and_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda _: command_that(lambda: fail(error)))
    assert cli.main(["doctor"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    if isinstance(error, QdbevError):
        assert captured.err == "error: a was found.\n  needed: b.\n  next:   type c\n"
    if isinstance(error, ModuleNotFoundError):
        assert "pip install 'qdbev-deploy[train]'" in captured.err


_STOPPED = r"""
import os, signal, sys, threading, time
from types import SimpleNamespace
from qdbev_deploy import cli
how, number = sys.argv[1], int(sys.argv[2])
class Buried:
    def __del__(self):
        signal.raise_signal(number)
        time.sleep(0.01)
def run(args):
    try:
        if how == "buried":
            Buried()
        elif how == "library":
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                raise ImportError("numpy.core.multiarray failed to import")
        elif how == "fork":
            if (child := os.fork()) == 0:
                signal.raise_signal(number)
                print("alive")
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == number
        else:
            signal.raise_signal(number)
        time.sleep(0.5)
    finally:
        for _ in range(3):
            signal.raise_signal(number)
        print("tidy")
module = SimpleNamespace(__name__="qdbev_deploy.cli", EPILOG="", add_arguments=lambda parser: None, run=run)
cli.importlib = SimpleNamespace(import_module=lambda name: module)
if how == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    module.run = lambda args: signal.raise_signal(signal.SIGHUP) or 0
sys.argv[1:] = ["doctor"]
sys.exit(cli.main())
"""


@pytest.mark.parametrize("how", ["plainly", "buried", "library"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_one_exception_and_no_traceback(how: str, number: signal.Signals) -> None:
    """Also where Python would lose it (a destructor) or a library makes another error of it, and however often."""
    result = subprocess.run([sys.executable, "-c", _STOPPED, how, str(int(number))], capture_output=True, text=True,
                            timeout=60)  # fmt: skip
    assert result.returncode == 128 + number
    assert result.stdout == "tidy\n"
    assert result.stderr == ("interrupted\n" if number == signal.SIGINT else f"stopped by {number.name}\n")


def test_nohup_is_respected() -> None:
    result = subprocess.run([sys.executable, "-c", _STOPPED, "nohup", "1"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_forked_helper_is_ended_by_what_ends_it() -> None:
    result = subprocess.run([sys.executable, "-c", _STOPPED, "fork", "15"], capture_output=True, text=True, timeout=60)
    assert "alive" not in result.stdout
    assert result.stderr == "stopped by SIGTERM\n"  # by the one that comes while it tidies up


def test_a_program_that_calls_main_keeps_its_handlers() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers], sys.unraisablehook
    assert cli.main(["--version"]) == ExitCode.DONE
    assert ([signal.getsignal(number) for number in numbers], sys.unraisablehook) == before


def test_ctrl_c_during_imports_is_no_traceback() -> None:
    """At several moments of the first half second, in which numpy and onnx are imported."""
    for delay_s in (0.15, 0.25, 0.4):
        process = subprocess.Popen(
            [sys.executable, "-c", "import runpy, sys, signal, qdbev_deploy\n"
             "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
             "sys.argv = ['qdbev-deploy', 'check', 'none.onnx', '--target', 'ort']\nprint(flush=True)\n"
             "runpy.run_module('qdbev_deploy', run_name='__main__')"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(3):
            time.sleep(delay_s / 3)
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (ExitCode.INTERRUPTED, ExitCode.BAD_INPUT, -signal.SIGINT)  # or it was done
        assert "Traceback" not in errors
        assert "Exception ignored" not in errors


def test_a_full_disk_is_named_by_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A write that fails does not say of which file it was."""

    def write() -> None:
        with atomic_output(tmp_path / "out.json"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli.importlib, "import_module", lambda _: command_that(write))
    assert cli.main(["doctor"]) == ExitCode.MISSING
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'out.json'}: No space left on device.\n")


def test_errors_for_machines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = QdbevError("a", "b", "c")
    monkeypatch.setattr(cli.importlib, "import_module", lambda _: command_that(lambda: fail(error)))
    assert cli.main(["doctor", "--json"]) == ExitCode.BAD_INPUT
    document = json.loads(capsys.readouterr().out)
    assert document == {"error": {"found": "a", "needed": "b", "next_step": "c", "exit_code": 3}}


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ModuleNotFoundError("No module named 'other'", name="other"), "ModuleNotFoundError: No module named 'other'"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_bug_is_named_with_exit_code_1(
    error: Exception, found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda _: command_that(lambda: fail(error)))
    assert cli.main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0] == f"internal error: {found}"
    assert "-v" in captured.err
    assert "Traceback" not in captured.err

    assert cli.main(["doctor", "-v", "--json"]) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)["error"]
    assert (document["found"], document["exit_code"]) == (f"internal error: {found}", 1)
    assert document.keys() == QdbevError("a", "b", "c").to_dict().keys()
    assert "Traceback" in captured.err
    assert captured.err.splitlines()[-1] == f"internal error: {found}"


@pytest.mark.parametrize(
    ("error", "code", "found"),
    [
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "afile/sub"), 3, "afile/sub: Not a directory"),
        (OSError(errno.ENOSPC, "No space left on device", "out.json"), 4, "out.json: No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 4, "Disk quota exceeded"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a.partial", None, "a"), 3, "a: Is a directory"),
        (OSError("image file is truncated"), 3, "image file is truncated"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    error: OSError, code: int, found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda _: command_that(lambda: fail(error)))
    assert cli.main(["doctor", "--json"]) == code
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["found"] == found
    assert captured.err.startswith(f"error: {found}.\n  needed: ")


_STAND_IN = r"""
import sys
from types import SimpleNamespace
from qdbev_deploy import cli
from qdbev_deploy.errors import QdbevError
def run(args):
    print("1600 \u00d7 900")
    raise QdbevError("caf\u00e9", "b", "c")
module = SimpleNamespace(__name__="qdbev_deploy.cli", EPILOG="", add_arguments=lambda parser: None, run=run)
cli.importlib = SimpleNamespace(import_module=lambda name: module)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_stdout_on_a_full_disk(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        result = subprocess.run(
            [sys.executable, "-c", _STAND_IN, "doctor", "--json"], stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=60, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert result.returncode == ExitCode.MISSING
    assert "error: No space left on device." in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}],
)
def test_an_ascii_terminal_is_no_error(environment: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _STAND_IN, "doctor"], capture_output=True, text=True, timeout=60,
        env=os.environ | environment,
    )  # fmt: skip
    assert result.stdout == "1600 \\xd7 900\n"
    assert result.stderr.startswith("error: caf\\xe9.\n")
    assert result.returncode == ExitCode.BAD_INPUT


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m qdbev_deploy.cli doctor --json | head -c 1"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert "Traceback" not in result.stderr
