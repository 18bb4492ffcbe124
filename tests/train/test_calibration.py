"""Post-training quantisation by the command line: rollouts, cache, sensitivity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qdbev_deploy.calibration.rollouts import choose_rollouts
from qdbev_deploy.cli import main
from qdbev_deploy.data.nuscenes import NuScenesSequences
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.model import build_model, save_checkpoint
from qdbev_deploy.quant import integers, load_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "micro.pt"
    save_checkpoint(path, build_model("micro", seed=0))
    return path


def calibrate(checkpoint: Path, dataroot: Path, out: Path, *more: str, recipe: str = "w4a6") -> int:
    return main([
        "calibrate", "--checkpoint", str(checkpoint), "--recipe", recipe, "--dataroot", str(dataroot),
        "--frames", "3", "-o", str(out), *more,
    ])  # fmt: skip


def test_rollouts_begin_at_first_frames(synthetic_dataroot: Path) -> None:
    scenes = NuScenesSequences(synthetic_dataroot).scenes()
    rollouts = choose_rollouts(scenes, 6)
    assert sum(map(len, rollouts)) == 6
    for frames in rollouts:
        assert frames[0].index == 0
        assert [frame.index for frame in frames] == list(range(len(frames)))
        assert len({frame.scene for frame in frames}) == 1
    with pytest.raises(QdbevError):
        choose_rollouts(scenes, 0)


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_a_student_with_scales(checkpoint: Path, synthetic_dataroot: Path, tmp_path: Path, method: str) -> None:
    assert calibrate(checkpoint, synthetic_dataroot, tmp_path / "ptq.pt", "--method", method) == ExitCode.DONE
    model, recipe = load_model(tmp_path / "ptq.pt")
    assert recipe is not None
    assert recipe.name == "w4a6"
    read = integers(model)
    assert all(activation.scale > 0 for activation in read.activations.values())
    # What is never seen gets the scale that holds one at its end: the class branches of all layers are seen, too.
    unseen = [name for name, item in read.activations.items() if item.scale == pytest.approx(1.0 / item.grid.qmax)]
    assert not unseen
    assert {weight.grid.bits for weight in read.weights.values()} == {4, 8}


def test_the_cache_is_used_again_and_refused_for_others(
    checkpoint: Path, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, first, second = tmp_path / "cache.json", tmp_path / "a.pt", tmp_path / "b.pt"
    with_cache = ["--cache", str(cache)]
    assert calibrate(checkpoint, synthetic_dataroot, first, *with_cache) == ExitCode.DONE
    # The cache decides: a scale changed in it shows in the next student.
    content = json.loads(cache.read_text())
    content["scales"]["img_backbone.stem_tap"] = 0.125
    cache.write_text(json.dumps(content))
    assert calibrate(checkpoint, synthetic_dataroot, second, *with_cache) == ExitCode.DONE
    scales = [integers(load_model(path)[0]).activations["img_backbone.stem_tap"].scale for path in (first, second)]
    assert scales[1] == pytest.approx(0.125)
    assert scales[0] != pytest.approx(0.125)
    capsys.readouterr()

    other = tmp_path / "other.pt"
    save_checkpoint(other, build_model("micro", seed=1))
    for checkpoint_, more, recipe, sentence in (
        (other, [], "w4a6", "was made for other weights"),
        (checkpoint, [], "w8a8", "was made for other recipe"),
        (checkpoint, ["--method", "minmax"], "w4a6", "was made for other method"),
        (checkpoint, ["--frames", "9"], "w4a6", "was made for other frames (3, not 9)"),
        (checkpoint, ["--split", "mini_val"], "w4a6", "was made for other split"),
    ):
        code = calibrate(checkpoint_, synthetic_dataroot, tmp_path / "c.pt", *with_cache, *more, recipe=recipe)
        assert code == ExitCode.BAD_INPUT
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "c.pt").exists()
    assert calibrate(other, synthetic_dataroot, tmp_path / "c.pt", *with_cache, "--recalibrate") == ExitCode.DONE
    cache.write_text("{}")
    assert calibrate(other, synthetic_dataroot, tmp_path / "d.pt", *with_cache) == ExitCode.BAD_INPUT


def test_sensitivity(
    checkpoint: Path, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sensitivity.json"
    assert calibrate(checkpoint, synthetic_dataroot, out, "--sensitivity") == ExitCode.DONE
    table = json.loads(out.read_text())["loss"]
    assert list(table) == ["none", "backbone", "neck", "encoder", "decoder", "all"]
    assert len(set(table.values())) == 6  # each row was really measured
    assert (tmp_path / "sensitivity.png").stat().st_size > 10_000
    assert "added" in capsys.readouterr().out


def test_bad_input(checkpoint: Path, synthetic_dataroot: Path, tmp_path: Path) -> None:
    assert calibrate(tmp_path / "none.pt", synthetic_dataroot, tmp_path / "a.pt") == ExitCode.BAD_INPUT
    assert calibrate(checkpoint, tmp_path, tmp_path / "a.pt") == ExitCode.BAD_INPUT
    assert calibrate(checkpoint, synthetic_dataroot, tmp_path / "a.pt", recipe="none") == ExitCode.BAD_INPUT
    assert calibrate(checkpoint, synthetic_dataroot, tmp_path / "a.pt", "--frames", "0") == ExitCode.BAD_INPUT
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_end_well_is_refused_before_the_work(
    checkpoint: Path, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link, before = tmp_path / "link.pt", checkpoint.read_bytes()
    link.symlink_to(checkpoint)
    table = tmp_path / "table.png"
    for out, more, code, says in (
        (checkpoint, [], ExitCode.BAD_INPUT, "is the file of --checkpoint"),
        (link, [], ExitCode.BAD_INPUT, "is the file of --checkpoint"),
        (tmp_path / "a.pt", ["--cache", str(link), "--recalibrate"], ExitCode.BAD_INPUT, "is the file of --checkpoint"),
        (tmp_path / "a.pt", ["--cache", str(tmp_path / "a.pt")], ExitCode.BAD_INPUT, "is the file of -o"),
        (tmp_path / "no" / "a.pt", [], ExitCode.BAD_INPUT, "an existing folder for -o"),
        (table, ["--sensitivity"], ExitCode.BAD_INPUT, "the picture of -o"),
        (tmp_path / "a.pt", ["--recalibrate"], ExitCode.USAGE, "--recalibrate without --cache"),
        (tmp_path / "a.pt", ["--percentile", "99"], ExitCode.USAGE, "--percentile with --method mse"),
        (tmp_path / "a.pt", ["--method", "percentile", "--percentile", "0"], ExitCode.BAD_INPUT, "--percentile 0"),
    ):
        assert calibrate(checkpoint, synthetic_dataroot, out, *more) == code
        assert says in capsys.readouterr().err
    bare = ["calibrate", "--checkpoint", str(checkpoint), "--recipe", "w4a6", "-o", str(tmp_path / "a.pt")]
    assert main(bare) == ExitCode.USAGE
    assert "no --dataroot" in capsys.readouterr().err
    assert checkpoint.read_bytes() == before
    assert list(tmp_path.iterdir()) == [link]
