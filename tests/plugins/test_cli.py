"""`qdbev-deploy plugins` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qdbev_deploy import cli
from qdbev_deploy.errors import ExitCode
from qdbev_deploy.plugins import LIBRARY_VARIABLE, PluginLibrary


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command under its name, whether or not this checkout's table of commands has it."""
    monkeypatch.setitem(cli.COMMANDS, "plugins", cli.COMMANDS.get("plugins", "build the plugin library"))


def test_info_prints_version_abi_and_ops(library: PluginLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "info", str(library.info.path), "--json"]) == ExitCode.DONE
    document = json.loads(capsys.readouterr().out)
    assert document == library.info.to_dict()
    assert cli.main(["plugins", "info", str(library.info.path)]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert f"{library.info.version}, ABI {library.info.abi}" in out
    assert "SpatialCrossAttn" in out


def test_info_without_a_library_says_how_to_build_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "absent.so"))
    assert cli.main(["plugins", "info"]) == ExitCode.MISSING
    assert "qdbev-deploy plugins build" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["build", "--help"], ["nonsense"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["plugins", *arguments])
    assert code == (ExitCode.DONE if "--help" in arguments else ExitCode.USAGE)
    captured = capsys.readouterr()
    assert "usage: qdbev-deploy plugins" in captured.out + captured.err


def test_build_refuses_a_bad_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "build", "--arch", "sm_87", "--json"]) == ExitCode.BAD_INPUT
    assert json.loads(capsys.readouterr().out)["error"]["found"] == "--arch sm_87"


@pytest.mark.parametrize(
    "arguments", [["--jobs", "-3"], ["--jobs", "0"], ["--jobs", "many"], ["--arch", "87", "--cpu-only"]]
)
def test_build_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "build", *arguments]) == ExitCode.USAGE
    assert arguments[0] in capsys.readouterr().err
