"""The command's options: what is refused, in one sentence and before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from qdbev_deploy.cli import main
from qdbev_deploy.errors import ExitCode
from qdbev_deploy.model import build_model, save_checkpoint
from tests.train.runs import checkpoint


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], code: ExitCode, sentence: str) -> None:
    assert main(arguments) == code, arguments
    errors = capsys.readouterr().err
    assert sentence in errors, errors
    assert "internal error" not in errors
    assert len(errors) < 600


def test_options_that_do_not_fit_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init = ["--init", str(checkpoint(tmp_path / "small.pt"))]
    base = ["train", "--dataroot", str(tmp_path / "no-data"), "--out", str(tmp_path / "run")]
    for more, sentence in (
        (["--recipe", "w4a6"], "--recipe without --init"),
        (["--init", str(tmp_path), "--recipe", "w4a6"], f"--recipe with --init {tmp_path}, a folder"),
        ([*init, "--recipe", "w4a6", "--freeze-norm-from", "0"], "--freeze-norm-from with --recipe"),
        (["--distill", "vgd"], "--distill without --recipe"),
        (["--at-once"], "--at-once without --recipe"),
        ([*init, "--recipe", "w4a6", "--teacher", "t.pt"], "--teacher without --distill"),
        ([*init, "--recipe", "w4a6", "--temperature", "1"], "--temperature without --distill"),
        (["--distill-weight", "1"], "--distill-weight without --distill"),
        ([*init, "--variant", "micro"], "--variant micro with --init"),
    ):
        refused(capsys, [*base, *more], ExitCode.USAGE, sentence)
    assert not (tmp_path / "run").exists()


def test_values_that_make_no_sense(
    synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "micro.pt", build_model("micro", seed=0))
    init = ["--init", str(checkpoint(tmp_path / "small.pt")), "--recipe", "w4a6"]
    distil = [*init, "--distill", "vgd"]
    shipped = (Path(__file__).parents[2] / "calib" / "w4a6.yaml").read_text()
    backbone_alone, nothing_to_distil, endless = (tmp_path / f"{name}.yaml" for name in ("one", "nothing", "endless"))
    schedule = "{backbone: 23, neck: 11, encoder: 16, decoder: 9, distill: 25}"
    assert schedule in shipped
    backbone_alone.write_text(shipped.replace(schedule, "{backbone: 1, neck: 0, encoder: 0, decoder: 0, distill: 0}"))
    nothing_to_distil.write_text(shipped.replace("distill: 25", "distill: 0"))
    endless.write_text(shipped.replace("backbone: 23", "backbone: .inf"))
    base = ["train", "--dataroot", str(synthetic_dataroot), "--out", str(tmp_path / "run")]
    for more, sentence in (
        (["--steps", "0"], "steps 0"),
        (["--stop-at", "0"], "--stop-at 0"),
        (["--stop-at", "-5"], "--stop-at -5"),
        (["--save-every", "0"], "--save-every 0"),
        (["--save-every", "-1"], "--save-every -1"),
        (["--cache-gib", "nan"], "--cache-gib nan"),
        (["--cache-gib", "inf"], "--cache-gib inf"),
        (["--cache-gib", "-1"], "--cache-gib -1"),
        (["--seed", "-1"], "seed -1"),
        (["--seed", str(10**30)], "seed 1000"),
        (["--dropout", "5"], "dropout 5"),
        (["--dropout", "1"], "dropout 1"),
        (["--dropout", "-1"], "dropout -1"),
        (["--dropout", "nan"], "dropout nan"),
        (["--lr", "0"], "lr 0"),
        (["--lr", "inf"], "lr inf"),
        (["--lr", "nan"], "lr nan"),
        (["--dense-weight", "nan"], "dense_weight nan"),
        (["--dense-weight", "inf"], "dense_weight inf"),
        (["--dense-weight", "-1"], "dense_weight -1"),
        (["--backbone-lr-factor", "-3"], "backbone_lr_factor -3"),
        (["--freeze-norm-from", "-3"], "freeze_norm_from -3"),
        (["--warmup-steps", "-5"], "warmup_steps -5"),
        (["--query-groups", "0"], "query_groups 0"),
        (["--queue", "50"], "--queue 50 where the longest scene has 4 frames"),
        (["--split", "scene-9999"], "scene-9999"),
        (["--variant", "huge"], "unknown variant 'huge'"),
        (["--init", str(tmp_path)], "holds no state of a training run"),
        ([*init, "--recipe", "w1a1"], "there is no recipe 'w1a1'"),
        ([*init, "--recipe", str(backbone_alone)], "never quantises the neck"),
        ([*init, "--recipe", str(endless)], "the schedule"),
        ([*init, "--steps", "2"], "leaves none for decoder"),
        ([*distil, "--recipe", str(nothing_to_distil)], "no share for it"),
        ([*distil, "--teacher", str(tmp_path / "micro.pt")], "a teacher 'micro'"),
        ([*distil, "--temperature", "inf"], "temperature inf"),
        ([*distil, "--temperature", "0"], "temperature 0"),
        ([*distil, "--distill-weight", "inf"], "weight inf"),
        ([*distil, "--distill-weight", "-1"], "weight -1"),
    ):
        refused(capsys, [*base, *more], ExitCode.BAD_INPUT, sentence)
        assert not (tmp_path / "run").exists()
