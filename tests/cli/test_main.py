"""Dispatch, help, errors and exit codes of the command line."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from qdbev_deploy import __version__, cli
from qdbev_deploy.errors import ExitCode, QdbevError


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
