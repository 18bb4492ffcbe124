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
    assert "ego motion" in text
    assert "derived from poses" in text
    assert main(["data", "info", str(out), "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["ego_motion"] == "derived from poses"

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


def test_info_names_the_other_versions(
    synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("v1.0-mini", "v1.0-other"):
        shutil.copytree(synthetic_dataroot / "v1.0-mini", tmp_path / name)
    assert main(["data", "info", str(tmp_path), "--version", "v1.0-mini"]) == ExitCode.BAD_INPUT
    assert "v1.0-mini (also here: v1.0-other)\n" in capsys.readouterr().out


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", str(tmp_path / "nowhere"), "--json"]) == ExitCode.BAD_INPUT
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 3
    assert main(["data", "synth", "--out", str(tmp_path / "no" / "parent")]) == ExitCode.BAD_INPUT
    assert "mkdir -p" in capsys.readouterr().err
    assert main(["data", "synth", "--out", str(tmp_path / "x"), "--scenes", "11"]) == ExitCode.BAD_INPUT
    assert "--version v1.0-trainval" in capsys.readouterr().err
    assert main(["data", "synth", "--out", str(tmp_path / "x"), "--scenes", "0"]) == ExitCode.BAD_INPUT
    assert "fewer" not in capsys.readouterr().err
    assert main(["data", "synth", "--out", str(tmp_path / "x"), "--seed", "-1"]) == ExitCode.BAD_INPUT
    assert main(["data", "synth", "--out", str(tmp_path / "x"), "--workers", "-1"]) == ExitCode.BAD_INPUT
    for version in ("../../mini", "v1.0/mini", "v1.0-test"):
        assert main(["data", "synth", "--out", str(tmp_path / "x"), "--version", version]) == ExitCode.USAGE
    assert main(["data"]) == ExitCode.USAGE
    assert main(["data", "synth"]) == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["data", "--help"], ["data", "synth", "--help"], ["data", "info", "--help"]])
def test_help_has_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == ExitCode.DONE
    assert "qdbev-deploy data" in capsys.readouterr().out.partition("example")[2]


def start_synth(folder: Path) -> subprocess.Popen[str]:
    """A synth at work, in a process group of its own as under a terminal."""
    command = [sys.executable, "-m", "qdbev_deploy.cli", "data", "synth", "--out", str(folder / "data")]
    command += ["--scenes", "2", "--frames", "40", "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob(".data.*.partial/samples/CAM_BACK/*.jpg")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def helpers(group: int) -> list[str]:
    """Living processes of a group; those that have ended and only wait to be buried do not count."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(of_group) == group and state not in "ZX":
            found.append(path.parent.name)
    return found


def wait_until_alone(group: int) -> None:
    deadline = time.monotonic() + 5
    while left := helpers(group):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "to_group"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True)],
    ids=["ctrl-c", "kill", "stop of a container"],
)
def test_interrupted_it_leaves_nothing(tmp_path: Path, number: signal.Signals, to_group: bool) -> None:
    """Real signals while workers write images: a terminal sends them to the whole group, `kill` to one process."""
    process = start_synth(tmp_path)
    (os.killpg if to_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED
    assert errors.strip().endswith("interrupted")
    assert "Traceback" not in errors
    wait_until_alone(process.pid)
    assert not list(tmp_path.iterdir())


def test_helpers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    process = start_synth(tmp_path)
    process.kill()
    process.communicate(timeout=30)
    wait_until_alone(process.pid)


def test_sigterm_is_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(["data", "synth", "--out", str(tmp_path / "x"), "--scenes", "0"]) == ExitCode.BAD_INPUT
    assert signal.getsignal(signal.SIGTERM) is before
