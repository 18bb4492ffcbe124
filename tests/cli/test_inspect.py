"""`qdbev-deploy inspect` on checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qdbev_deploy.cli import main
from qdbev_deploy.errors import ExitCode
from qdbev_deploy.model import build_model, save_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "micro.pt", build_model("micro", seed=0), {"epoch": 7})
    return tmp_path / "micro.pt"


def test_for_machines(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint), "--json"]) == ExitCode.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["variant"] == "micro"
    assert document["meta"]["epoch"] == 7
    assert document["parts"]["backbone"]["parameters"] == 2_798_880


def test_for_people(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint)]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert "micro: six images of 192x320" in text
    assert "epoch: 7" in text


def test_bad_input(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint), "--variant", "huge"]) == ExitCode.BAD_INPUT
    assert main(["inspect", str(checkpoint), "--variant", "base"]) == ExitCode.BAD_INPUT
    assert main(["inspect", str(checkpoint.with_name("absent"))]) == ExitCode.BAD_INPUT
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 3
    assert "Traceback" not in captured.err
