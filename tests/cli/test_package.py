"""`qdbev-deploy package`: what it prints, its exit codes, and that it verifies first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qdbev_deploy.cli import main
from qdbev_deploy.errors import ExitCode
from tests.package.bundles import hand_made


def test_for_people_and_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(hand_made(tmp_path / "student.qdbev").path)  # for a machine that this is not
    assert main(["package", bundle, "--triton", str(tmp_path / "models"), "--name", "bev"]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert "model bev for Triton, not run on a server yet" in text
    assert "bev/1/model.plan" in text
    assert main(["package", bundle, "--triton", str(tmp_path / "more"), "--json"]) == ExitCode.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == "student"
    assert all((tmp_path / "more" / name).is_file() for name in document["files"])


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = hand_made(tmp_path / "student.qdbev").path
    out = ["--triton", str(tmp_path / "models")]
    assert main(["package", str(tmp_path / "absent"), *out]) == ExitCode.BAD_INPUT
    assert main(["package", str(bundle), *out, "--sequences", "0"]) == ExitCode.USAGE
    assert main(["package", str(bundle), "--triton", str(bundle)]) == ExitCode.BAD_INPUT
    assert main(["package", str(bundle)]) == ExitCode.USAGE
    (bundle / "engine.plan").write_bytes(b"an engine")  # as long as it was
    assert main(["package", str(bundle), *out]) == ExitCode.BAD_INPUT
    assert "sha256" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["student.qdbev"]
