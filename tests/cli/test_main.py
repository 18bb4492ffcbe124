"""Dispatch, help, errors and exit codes of the command line."""

from __future__ import annotations

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
    assert "--help" in captured.err.splitlines()[-1]


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


def test_an_unknown_missing_module_is_a_bug_and_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("no", name="something_else")
    monkeypatch.setattr(cli.importlib, "import_module", lambda _: command_that(lambda: fail(error)))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["doctor"])


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m qdbev_deploy.cli doctor --json | head -c 1"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert "Traceback" not in result.stderr
