"""`qdbev-deploy show` on a synthetic data set: stills, videos, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qdbev_deploy.cli import main
from qdbev_deploy.errors import ExitCode
from qdbev_deploy.evaluate.submission import ground_truth_records, write_submission


@pytest.fixture(scope="module")
def sequences(synthetic_dataroot: Path) -> Any:
    from qdbev_deploy.data.nuscenes import NuScenesSequences

    return NuScenesSequences(synthetic_dataroot)


def show(dataroot: Path, *options: str | Path) -> int:
    return main(["show", str(dataroot), "--width", "640", *map(str, options)])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_still_of_the_first_frame(synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "a.png"
    assert show(synthetic_dataroot, "--out", out) == ExitCode.DONE
    assert "frame 0 of scene-" in capsys.readouterr().out
    bare = tmp_path / "bare.png"
    assert show(synthetic_dataroot, "--out", bare, "--no-truth") == ExitCode.DONE
    assert pixels(out).shape == pixels(bare).shape
    assert 0.001 < (pixels(out) != pixels(bare)).any(axis=2).mean() < 0.3, "boxes, and little else, make the difference"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "bare.png"]


def test_index_and_token_name_the_same_frame(synthetic_dataroot: Path, tmp_path: Path, sequences: Any):
    scene = sequences.scenes()[-1]
    token = scene.frames[1].token
    assert show(synthetic_dataroot, "--frame", token, "--out", tmp_path / "token.png") == ExitCode.DONE
    options = ("--scene", scene.name, "--frame", "1", "--out", tmp_path / "index.png")
    assert show(synthetic_dataroot, *options) == ExitCode.DONE
    assert (tmp_path / "token.png").read_bytes() == (tmp_path / "index.png").read_bytes()


def test_predictions_are_drawn_from_the_score_on(synthetic_dataroot: Path, tmp_path: Path, sequences: Any):
    scene = sequences.scenes()[0]
    frame = scene.frames[0]
    records = ground_truth_records(sequences.ground_truth(frame), frame)
    for record in records:
        record["detection_score"] = 0.5
    write_submission(tmp_path / "results.json", {frame.token: records})
    pages = {}
    for score in ("0.4", "0.6"):
        out = tmp_path / f"{score}.png"
        options = ("--results", tmp_path / "results.json", "--min-score", score, "--no-truth", "--out", out)
        assert show(synthetic_dataroot, "--scene", scene.name, *options) == ExitCode.DONE
        pages[score] = pixels(out)
    assert (pages["0.4"] != pages["0.6"]).any(axis=2).mean() > 0.001


def test_a_video_of_key_frames(synthetic_dataroot: Path, tmp_path: Path, sequences: Any):
    scene = sequences.scenes()[0]
    out = tmp_path / "a.gif"
    assert show(synthetic_dataroot, "--scene", scene.name, "--key-frames", "--out", out) == ExitCode.DONE
    with Image.open(out) as gif:
        assert gif.n_frames == len(scene.frames)
        assert gif.info["duration"] == 500


def test_a_video_at_12_hz_has_boxes_between_key_frames(synthetic_dataroot: Path, tmp_path: Path, sequences: Any):
    import cv2

    scene = max(sequences.scenes(key_frames_only=False), key=lambda scene: len(scene.frames))
    sweep = next(frame for frame in scene.frames if not frame.is_key_frame)
    pages = {}
    for name, options in (("boxes", ()), ("bare", ("--no-truth",))):
        out = tmp_path / f"{name}.mp4"
        assert show(synthetic_dataroot, "--scene", scene.name, "--out", out, *options) == ExitCode.DONE
        video = cv2.VideoCapture(str(out))
        assert video.get(cv2.CAP_PROP_FRAME_COUNT) == len(scene.frames)
        assert video.get(cv2.CAP_PROP_FPS) == 12
        for _ in range(sweep.index + 1):
            pages[name] = video.read()[1].astype(int)
    assert (np.abs(pages["boxes"] - pages["bare"]).max(axis=2) > 60).mean() > 0.003


def test_json_says_what_was_drawn(
    synthetic_dataroot: Path, tmp_path: Path, sequences: Any, capsys: pytest.CaptureFixture[str]
):
    assert show(synthetic_dataroot, "--out", tmp_path / "a.png", "--json") == ExitCode.DONE
    scene = sequences.scenes()[0]
    said = json.loads(capsys.readouterr().out)
    assert said == {"out": str(tmp_path / "a.png"), "scene": scene.name, "frames": [scene.frames[0].token]}


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--scene", "scene-9999"], ExitCode.BAD_INPUT, "no scene 'scene-9999'"),
        (["--frame", "0123456789abcdef"], ExitCode.BAD_INPUT, "no key frame with the token 0123456789abcdef"),
        (["--frame", "99999"], ExitCode.BAD_INPUT, "frame 99999"),
        (["--out", "a.bmp"], ExitCode.USAGE, "a.bmp"),
        (["--frame", "0", "--out", "a.gif"], ExitCode.USAGE, "--frame"),
        (["--palette", "1"], ExitCode.USAGE, "--palette 1"),
        (["--out", "no/such/folder/a.png"], ExitCode.BAD_INPUT, "does not exist"),
        (["--results", "none.json"], ExitCode.BAD_INPUT, "there is no file none.json"),
        (["--width", "10"], ExitCode.BAD_INPUT, "width of 10"),
        (["--width", "100000"], ExitCode.BAD_INPUT, "8000 or less"),
        (["--min-score", "nan"], ExitCode.USAGE, "--min-score nan"),
        (["--out", "/proc/x.png"], ExitCode.BAD_INPUT, "/proc/x.png cannot be written"),
    ],
)
def test_what_is_refused(
    synthetic_dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    options: list[str], code: ExitCode, said: str,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert show(synthetic_dataroot, *options) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["dd.png", "/proc/x.gif"])
def test_an_output_that_cannot_be_written_is_refused_before_the_data_set_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dd.png").mkdir()
    assert show(tmp_path / "no data set", "--out", out) == ExitCode.BAD_INPUT
    assert f"--out {out}" in capsys.readouterr().err


def test_results_without_the_frame_are_refused(
    synthetic_dataroot: Path, tmp_path: Path, sequences: Any, capsys: pytest.CaptureFixture[str]
):
    first, second = sequences.scenes()[0].frames[:2]
    write_submission(
        tmp_path / "results.json", {second.token: ground_truth_records(sequences.ground_truth(second), second)}
    )
    assert show(synthetic_dataroot, "--results", tmp_path / "results.json") == ExitCode.BAD_INPUT
    assert f"no boxes for the key frame {first.token}" in capsys.readouterr().err


def test_a_missing_image_is_named(
    synthetic_dataroot: Path, tmp_path: Path, sequences: Any, capsys: pytest.CaptureFixture[str]
):
    copy = tmp_path / "copy"
    shutil.copytree(synthetic_dataroot, copy)
    missing = sequences.scenes()[0].frames[0].image_paths[3].relative_to(sequences.dataroot)
    (copy / missing).unlink()
    assert show(copy, "--out", tmp_path / "a.png") == ExitCode.BAD_INPUT
    assert str(missing) in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()
