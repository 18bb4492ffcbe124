"""`run`: scenes through a bundle, results that the evaluator reads, resets between scenes; and `evaluate BUNDLE`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qdbev_deploy.cli import main
from qdbev_deploy.data.nuscenes import NuScenesSequences
from qdbev_deploy.data.preprocess import load_frame
from qdbev_deploy.errors import ExitCode
from qdbev_deploy.evaluate.results_file import read_results
from tests.engine.students import SPEC, Students


def test_results_of_every_frame(
    students: Students, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    arguments = ["run", str(students.bundle.path), "--dataroot", str(synthetic_dataroot), "--out", str(out)]
    assert main([*arguments, "--json"]) == ExitCode.DONE
    said = json.loads(capsys.readouterr().out)
    assert (said["scenes"], said["frames"], said["backend"]) == (2, 8, "onnxruntime")
    assert said["resets"] == {"first frame": 1, "new scene": 1}
    assert said["frames_per_s"] > 0
    results = read_results(out)
    scenes = NuScenesSequences(synthetic_dataroot).scenes()
    assert list(results) == [frame.token for scene in scenes for frame in scene.frames]
    assert said["boxes"] == sum(map(len, results.values()))


def test_the_state_is_carried_and_dropped(students: Students, synthetic_dataroot: Path, tmp_path: Path) -> None:
    """Boxes of a run over both scenes are those of each scene by itself, and those of its session."""
    scenes = NuScenesSequences(synthetic_dataroot).scenes()
    together = tmp_path / "both"
    arguments = ["run", str(students.bundle.path), "--dataroot", str(synthetic_dataroot)]
    assert main([*arguments, "--out", str(together)]) == ExitCode.DONE
    alone = tmp_path / "alone.json"
    assert main([*arguments, "--out", str(alone), "--scene", scenes[1].name]) == ExitCode.DONE
    both, second = read_results(together / "results.json"), read_results(alone)
    assert len(second) == 4
    assert {token: both[token] for token in second} == second
    with students.bundle.session() as session:
        for frame in scenes[1].frames:
            image, lidar2img = load_frame(frame, SPEC.preprocess)
            output = session.step(image, lidar2img, frame.ego, frame.scene)
            best = 1 / (1 + np.exp(-output.classes.max()))
            assert max(record["detection_score"] for record in second[frame.token]) == pytest.approx(best, abs=1e-6)


def test_fewer_frames(
    students: Students, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    arguments = ["run", str(students.bundle.path), "--dataroot", str(synthetic_dataroot), "--out", str(out)]
    assert main([*arguments, "--max-frames", "5"]) == ExitCode.DONE
    assert len(read_results(out)) == 5
    said = capsys.readouterr().out
    assert "5 frames in 2 scenes" in said
    assert "the state was dropped 2 times: 1 by first frame, 1 by new scene" in said
    assert "as observed, loading included; `bench` measures" in said
    assert main([*arguments, "--max-frames", "1"]) == ExitCode.DONE
    assert "frames a second" not in capsys.readouterr().out


def test_camera_frames_as_they_come(native_students: Students, synthetic_dataroot: Path, tmp_path: Path) -> None:
    """A bundle with 8-bit inputs and an FP16 state gives the boxes that its file gives."""
    out = tmp_path / "results.json"
    arguments = ["run", str(native_students.bundle.path), "--dataroot", str(synthetic_dataroot), "--out", str(out)]
    assert main([*arguments, "--max-frames", "2"]) == ExitCode.DONE
    results = read_results(out)
    frame = NuScenesSequences(synthetic_dataroot).scenes()[0].frames[0]
    image, lidar2img = load_frame(frame, SPEC.preprocess, "uint8")
    assert (image.dtype, image.shape) == (np.uint8, (1, 6, 900, 1600, 3))
    with native_students.bundle.session() as session:
        best = session.step(image, lidar2img, frame.ego, frame.scene).classes.max()
    scores = [record["detection_score"] for record in results[frame.token]]
    assert max(scores) == pytest.approx(1 / (1 + np.exp(-best)), abs=1e-6)


def test_evaluate_takes_a_bundle(
    students: Students, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(students.bundle.path), "--dataroot", str(synthetic_dataroot), "--json"]
    assert main([*arguments, "--out", str(tmp_path / "scores")]) == ExitCode.DONE
    said = json.loads(capsys.readouterr().out)
    assert 0 <= said["scores"]["nds"] <= 1
    assert len(read_results(tmp_path / "scores" / "results.json")) == 4
    assert main([*arguments, "--streaming", "--latency-ms", "100"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["streaming"]["frames"] > 4


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--max-frames", "0"], ExitCode.USAGE, "--max-frames 0"),
        (["--scene", "scene-9999"], ExitCode.BAD_INPUT, "scene-9999"),
        (["--split", "nonsense"], ExitCode.BAD_INPUT, "nonsense"),
        (["--split", "mini_val", "--scene", "a"], ExitCode.USAGE, "not allowed with"),
        (["--out", "/proc/results.json"], ExitCode.BAD_INPUT, "cannot be written"),
    ],
)
def test_what_is_refused(
    students: Students, synthetic_dataroot: Path, tmp_path: Path, arguments: list[str], code: ExitCode, says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = ["run", str(students.bundle.path), "--dataroot", str(synthetic_dataroot), "--out", str(tmp_path / "new")]
    assert main([*given, *arguments]) == code
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["x.json", "", "deeper/folder"])
def test_nothing_is_written_into_a_bundle(
    students: Students, synthetic_dataroot: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(students.bundle.path.iterdir())
    given = ["run", str(students.bundle.path), "--dataroot", str(synthetic_dataroot), "--max-frames", "1"]
    assert main([*given, "--out", str(students.bundle.path / out)]) == ExitCode.USAGE
    assert "lies in the bundle" in capsys.readouterr().err
    assert sorted(students.bundle.path.iterdir()) == before


def test_a_benchmark_of_another_bundle_is_refused(
    students: Students, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tmp_path / "bench.json"
    arguments = ["evaluate", str(students.bundle.path), "--dataroot", str(synthetic_dataroot), "--json", "--streaming",
                 "--key-frames", "--latency-from", str(bench)]  # fmt: skip
    document = {"latency_ms": {"samples": [60.0]}, "bundle": {"manifest_sha256": "ab" * 32}}
    bench.write_text(json.dumps(document))
    assert main(arguments) == ExitCode.BAD_INPUT
    assert "measured another bundle" in json.loads(capsys.readouterr().out)["error"]["found"]
    document["bundle"] = {"manifest_sha256": students.bundle.manifest_sha256}
    bench.write_text(json.dumps(document))
    assert main(arguments) == ExitCode.DONE
    said = json.loads(capsys.readouterr().out)["streaming"]
    assert said["latency_of_manifest"] == students.bundle.manifest_sha256
    assert said["latency_is_unstable"] == []


def test_a_broken_bundle_writes_nothing(
    students: Students, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    broken = Path(shutil.copytree(students.bundle.path, tmp_path / "broken.qdbev"))
    (broken / "model.onnx").write_bytes(b"")
    given = ["run", str(broken), "--dataroot", str(synthetic_dataroot), "--out", str(tmp_path / "out")]
    assert main(given) == ExitCode.BAD_INPUT
    assert "model.onnx has 0 bytes" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.qdbev"]
