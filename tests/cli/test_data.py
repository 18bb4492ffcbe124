"""`qdbev-deploy data synth` and `data info`: output for people and machines, exit codes, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qdbev_deploy.cli import main
from qdbev_deploy.errors import ExitCode

pytest.importorskip("nuscenes")


def test_synth_then_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    options = ["--scenes", "1", "--frames", "2", "--seed", "4", "--no-can-bus", "--workers", "1"]
    assert main(["data", "synth", "--out", str(out), *options, "--json"]) == ExitCode.DONE
    summary = json.loads(capsys.readouterr().out)
    assert summary["scenes"] == ["scene-0061"]
    assert summary["images"] == 12
    assert summary["path"] == str(out)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]

    assert main(["data", "info", str(out)]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert "nothing is missing" in text
    assert "mini_train (1)" in text
    assert "1 of 1 scenes without CAN bus: motion is derived from poses there" in text

    assert main(["data", "synth", "--out", str(out), *options]) == ExitCode.BAD_INPUT
    assert "pass --overwrite" in capsys.readouterr().err
    assert main(["data", "synth", "--out", str(out), *options, "--overwrite"]) == ExitCode.DONE
    assert "1 scenes of 2 key frames, 12 images" in capsys.readouterr().out


def test_info_finds_what_is_missing(
    synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(synthetic_dataroot, root, copy_function=lambda a, b: Path(b).hardlink_to(a))
    shutil.rmtree(root / "samples" / "CAM_BACK")
    assert main(["data", "info", str(root)]) == ExitCode.BAD_INPUT
    text = capsys.readouterr().out
    assert "8 of 23 CAM_BACK files are missing" in text
    assert "next: unpack the archives that hold samples/CAM_BACK" in text
    assert main(["data", "info", "--json", str(root)]) == ExitCode.BAD_INPUT
    document = json.loads(capsys.readouterr().out)
    assert document["whole"] is False
    assert document["missing_files"] == {"CAM_BACK": 8}


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", str(tmp_path / "nowhere"), "--json"]) == ExitCode.BAD_INPUT
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 3
    assert main(["data", "synth", "--out", str(tmp_path / "no" / "parent")]) == ExitCode.BAD_INPUT
    assert "mkdir -p" in capsys.readouterr().err
    assert main(["data", "synth", "--out", str(tmp_path / "x"), "--scenes", "11"]) == ExitCode.BAD_INPUT
    assert "--version v1.0-trainval" in capsys.readouterr().err
    assert main(["data"]) == ExitCode.USAGE
    assert main(["data", "synth"]) == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["data", "--help"], ["data", "synth", "--help"], ["data", "info", "--help"]])
def test_help_has_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == ExitCode.DONE
    assert "qdbev-deploy data" in capsys.readouterr().out.partition("example")[2]


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """A real SIGINT to the whole process group, as a terminal sends it, while workers write images."""
    out = str(tmp_path / "data")
    command = [sys.executable, "-m", "qdbev_deploy.cli", "data", "synth", "--out", out]
    command += ["--scenes", "2", "--frames", "40", "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".data.*.partial/samples/CAM_BACK/*.jpg")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # To the group: that is what a terminal does, and the workers are in it.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED
    assert errors.strip().endswith("interrupted")
    assert "Traceback" not in errors
    time.sleep(0.2)
    assert not list(tmp_path.iterdir())
