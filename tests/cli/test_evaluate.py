"""`qdbev-deploy evaluate` on a synthetic data set: the round trip, streaming, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdbev_deploy.cli import main
from qdbev_deploy.errors import ExitCode
from qdbev_deploy.evaluate.submission import Results, ground_truth_records, write_submission


@pytest.fixture(scope="module")
def sequences(synthetic_dataroot: Path) -> Any:
    from qdbev_deploy.data.nuscenes import NuScenesSequences

    return NuScenesSequences(synthetic_dataroot)


@pytest.fixture(scope="module")
def split(sequences: Any) -> str:
    """What is scored where nothing else is asked for; the synthetic set must have scenes of it."""
    assert sequences.split_scenes("mini_val")
    return "mini_val"


@pytest.fixture(scope="module")
def truth(sequences: Any, split: str) -> Results:
    """The key frames' ground truth as a submission, by way of the LiDAR frame."""
    return {
        frame.token: ground_truth_records(sequences.ground_truth(frame), frame)
        for scene in sequences.scenes(split)
        for frame in scene.frames
    }


@pytest.fixture(scope="module")
def stream_truth(sequences: Any, split: str) -> Results:
    """The same for every frame of the 12 Hz stream."""
    from qdbev_deploy.evaluate.annotations import SceneAnnotations, visible_boxes
    from qdbev_deploy.evaluate.submission import boxes_to_records

    results: Results = {}
    for scene in sequences.scenes(split, key_frames_only=False):
        annotations = SceneAnnotations(sequences.nusc, scene)
        for frame in scene.frames:
            boxes = visible_boxes(annotations.at(frame) or [], frame)
            boxes.velocity[np.isnan(boxes.velocity)] = 0  # where the data set knows none
            results[frame.token] = boxes_to_records(boxes, frame)
    return results


def shifted(results: Results, metres: float) -> Results:
    return {
        token: [r | {"translation": [r["translation"][0] + metres, *r["translation"][1:]]} for r in records]
        for token, records in results.items()
    }


class Cli:
    """Runs the command and reads its JSON."""

    def __init__(self, dataroot: Path, split: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.dataroot, self.split, self.folder, self.capsys = dataroot, split, folder, capsys

    def write(self, results: Results) -> str:
        path = self.folder / "results.json"
        write_submission(path, results)
        return str(path)

    def __call__(self, model: str, *options: str) -> tuple[int, dict[str, Any]]:
        code = main(["evaluate", model, "--dataroot", str(self.dataroot), "--split", self.split, "--json", *options])
        return code, json.loads(self.capsys.readouterr().out)


@pytest.fixture
def cli(synthetic_dataroot: Path, split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(synthetic_dataroot, split, tmp_path, capsys)


def test_ground_truth_scores_one(cli: Cli, truth: Results, split: str):
    code, report = cli(cli.write(truth), "--out", str(cli.folder / "scores"))
    assert code == ExitCode.DONE
    assert report["scores"]["map"] == pytest.approx(1.0, abs=1e-9)
    assert report["scores"]["nds"] > 0.99
    assert report["split"] == split
    assert report["ego_motion"] == "CAN bus expansion"
    assert json.loads((cli.folder / "scores" / "metrics.json").read_text()) == report
    assert [path.name for path in (cli.folder / "scores").iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(("metres", "ap"), [(0.99, 0.75), (1.01, 0.5)])
def test_shifted_boxes_score_what_the_definition_says(cli: Cli, truth: Results, metres: float, ap: float):
    """No match at 0.5 m, matches at 1 m or not, at 2 and 4 m; the shift takes nothing from the other errors. Boxes at
    the border of a class' range may be shifted out of it or into it, and neighbours mixed up: hence the tolerance. (At
    exactly 1 m, rounding in global coordinates would decide.)"""
    _, report = cli(cli.write(shifted(truth, metres)))
    scores = report["scores"]
    assert scores["map"] == pytest.approx(ap, abs=0.02)
    assert scores["errors"]["mATE"] == pytest.approx(metres, abs=0.03)
    assert scores["nds"] == pytest.approx((5 * ap + max(0.0, 1 - metres) + 4) / 10, abs=0.015)
    assert max(classes["ap_at"]["0.5"] for classes in scores["classes"].values()) < 0.2


def test_the_table(
    synthetic_dataroot: Path, split: str, tmp_path: Path, truth: Results, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "results.json"
    write_submission(path, truth)
    assert main(["evaluate", str(path), "--dataroot", str(synthetic_dataroot), "--split", split]) == ExitCode.DONE
    said = capsys.readouterr()
    assert "pedestrian" in said.out
    assert "mAP 1.0000" in said.out
    assert "ego motion: CAN bus expansion" in said.out
    assert said.err == ""


def test_streaming(cli: Cli, stream_truth: Results, truth: Results):
    path = cli.write(stream_truth)
    code, report = cli(path, "--streaming", "--latency-ms", "0")
    assert code == ExitCode.DONE
    stream = report["streaming"]
    assert stream["streaming"] == stream["offline"]
    assert stream["offline"]["map"] == pytest.approx(1.0, abs=1e-9)
    assert stream["dropped"] == 0
    assert stream["rate_hz"] == pytest.approx(12, abs=0.5)

    bench = cli.folder / "bench.json"
    bench.write_text(json.dumps({"latency_ms": {"samples": [250.0]}}))
    _, report = cli(path, "--streaming", "--latency-from", str(bench))
    late = report["streaming"]
    assert late["offline"]["map"] == pytest.approx(1.0, abs=1e-9)
    assert late["streaming"]["map"] < 0.95
    # 250 ms are three periods of 12 Hz: at best every third frame is taken.
    assert 0.6 < late["dropped"] / late["frames"] < 0.76
    assert 250 <= late["age_ms_mean"] <= late["age_ms_max"] < 250 + 4 * 90


def test_an_unstable_benchmark_is_said_to_be_one(cli: Cli, truth: Results, caplog: pytest.LogCaptureFixture):
    bench, out = cli.folder / "bench.json", cli.folder / "scores"
    stability = {"stable": False, "reasons": ["the clock was throttled", "another process computed"]}
    bench.write_text(json.dumps({"latency_ms": {"samples": [60.0]}, "stability": stability}))
    path = cli.write(truth)
    code, report = cli(path, "--streaming", "--key-frames", "--latency-from", str(bench), "--out", str(out))
    assert code == ExitCode.DONE
    assert "unstable: the clock was throttled; another process computed" in caplog.text
    assert report["streaming"]["latency_is_unstable"] == stability["reasons"]
    assert "an unstable run" in report["streaming"]["latency"]
    assert json.loads((out / "metrics.json").read_text())["streaming"] == report["streaming"]


def test_a_stream_of_key_frames_without_latency_scores_as_the_official_evaluator_does(cli: Cli, truth: Results):
    path = cli.write(shifted(truth, 0.7))
    _, official = cli(path)
    _, stream = cli(path, "--streaming", "--latency-ms", "0", "--key-frames")
    assert stream["streaming"]["streaming"] == official["scores"]


def test_key_frames_are_no_12_hz_stream(cli: Cli, truth: Results):
    code, report = cli(cli.write(truth), "--streaming", "--latency-ms", "50")
    assert code == ExitCode.BAD_INPUT
    assert "none of the sweeps" in report["error"]["found"]
    assert "--key-frames" in report["error"]["next_step"]


def test_12_hz_results_are_no_submission(cli: Cli, stream_truth: Results):
    code, report = cli(cli.write(stream_truth))
    assert code == ExitCode.BAD_INPUT
    assert "--streaming" in report["error"]["found"]


@pytest.mark.parametrize(
    "options",
    [
        ["--streaming"],
        ["--latency-ms", "5"],
        ["--key-frames"],
        ["--streaming", "--latency-ms", "5", "--latency-from", "bench.json"],
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(
    synthetic_dataroot: Path, options: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", "r.json", "--dataroot", str(synthetic_dataroot), *options]) == ExitCode.USAGE
    capsys.readouterr()


class TestRefused:
    """Each with exit code 3, a name, and nothing written."""

    def check(self, cli: Cli, results: Results, said: str) -> None:
        path, out = cli.write(results), cli.folder / "scores"
        code, report = cli(path, "--out", str(out))
        assert code == ExitCode.BAD_INPUT
        assert said in report["error"]["found"]
        assert not out.exists()

    def changed(self, truth: Results, **changes: Any) -> tuple[str, Results]:
        """The token of the first sample with a box, and results whose box 0 there is changed."""
        token = next(token for token, records in truth.items() if records)
        records = [truth[token][0] | changes, *truth[token][1:]]
        return token, truth | {token: records}

    def test_unknown_token(self, cli: Cli, truth: Results):
        self.check(cli, truth | {"0123abcd": []}, "the token 0123abcd is unknown in this data root")

    def test_missing_token(self, cli: Cli, truth: Results):
        token = next(iter(truth))
        few = {key: value for key, value in truth.items() if key != token}
        self.check(cli, few, f"1 of {len(truth)} tokens")

    def test_wrong_length(self, cli: Cli, truth: Results):
        token, wrong = self.changed(truth, size=[1.0, 2.0])
        self.check(cli, wrong, f"box 0 of sample {token} has 2 numbers in size")

    def test_over_500(self, cli: Cli, truth: Results):
        token = next(token for token, records in truth.items() if records)
        self.check(cli, truth | {token: truth[token][:1] * 501}, f"sample {token} holds 501 boxes")

    def test_nan(self, cli: Cli, truth: Results):
        path = Path(cli.write(truth))
        token, wrong = self.changed(truth, translation=[float("nan"), 0.0, 0.0])
        path.write_text(json.dumps({"meta": {}, "results": wrong}))
        code, report = cli(str(path))
        assert code == ExitCode.BAD_INPUT
        assert f"box 0 of sample {token} has translation [nan" in report["error"]["found"]

    def test_truncated(self, cli: Cli, truth: Results):
        path = Path(cli.write(truth))
        path.write_text(path.read_text()[:-20])
        code, report = cli(str(path))
        assert code == ExitCode.BAD_INPUT
        assert "truncated" in report["error"]["found"]

    def test_a_file_where_the_folder_should_be(self, cli: Cli, truth: Results):
        path = cli.write(truth)
        code, report = cli(path, "--out", path)
        assert code == ExitCode.BAD_INPUT
        assert "is a file" in report["error"]["found"]

    @pytest.mark.parametrize("out", ["afile/sub", "/proc/foo", "taken"])
    def test_a_folder_that_cannot_be_made_is_refused_before_the_work(
        self, cli: Cli, truth: Results, out: str, monkeypatch: pytest.MonkeyPatch
    ):
        from qdbev_deploy.data import nuscenes

        path = cli.write(truth)
        monkeypatch.setattr(nuscenes, "NuScenesSequences", None)  # the data set is not even opened
        (cli.folder / "afile").touch()
        (cli.folder / "taken" / "metrics.json").mkdir(parents=True)
        code, report = cli(path, "--out", str(cli.folder / out))
        assert code == ExitCode.BAD_INPUT
        assert out in report["error"]["found"]

    def test_a_results_file_by_another_name(self, cli: Cli, truth: Results):
        path = Path(cli.write(truth)).rename(cli.folder / "gt.txt")
        code, report = cli(str(path))
        assert code == ExitCode.BAD_INPUT
        assert "holds JSON text" in report["error"]["found"]
        assert report["error"]["next_step"] == f"mv {path} {cli.folder / 'gt.json'}"
        upper = path.rename(cli.folder / "GT.JSON")
        assert cli(str(upper))[0] == ExitCode.DONE

    def test_a_number_of_5000_digits(self, cli: Cli, truth: Results):
        path = Path(cli.write(truth))
        path.write_text(path.read_text().replace('"detection_score": 1.0', f'"detection_score": {"9" * 5000}', 1))
        code, report = cli(str(path))
        assert code == ExitCode.BAD_INPUT
        assert "a number that cannot be read" in report["error"]["found"]

    def test_a_sample_of_400_digits(self, cli: Cli, truth: Results):
        bench = cli.folder / "bench.json"
        bench.write_text(json.dumps({"latency_ms": {"samples": [10, 10**400]}}))
        code, report = cli(cli.write(truth), "--streaming", "--latency-from", str(bench))
        assert code == ExitCode.BAD_INPUT
        assert "samples[1] is 1000" in report["error"]["found"]

    @pytest.mark.parametrize("name", ["none.json", "none.pth"])
    def test_no_such_model(self, cli: Cli, name: str):
        code, report = cli(str(cli.folder / name))
        assert code == ExitCode.BAD_INPUT
        assert name in report["error"]["found"]

    def test_a_split_of_another_version(
        self, synthetic_dataroot: Path, cli: Cli, truth: Results, capsys: pytest.CaptureFixture[str]
    ):
        code = main(["evaluate", cli.write(truth), "--dataroot", str(synthetic_dataroot), "--split", "test", "--json"])
        assert code == ExitCode.BAD_INPUT
        assert "'test'" in json.loads(capsys.readouterr().out)["error"]["found"]


class TestCustomSplit:
    """A split of the user's own, as `data info` lists it: that of the first scene alone, and that of all scenes."""

    @pytest.fixture
    def own(self, synthetic_dataroot: Path, tmp_path: Path, sequences: Any, capsys: pytest.CaptureFixture[str]) -> Cli:
        root = tmp_path / "root"
        root.mkdir()
        for entry in synthetic_dataroot.iterdir():
            if entry.name != sequences.version:
                (root / entry.name).symlink_to(entry)
        shutil.copytree(synthetic_dataroot / sequences.version, root / sequences.version)
        names = sequences.scene_names
        splits = {"mine": names[:1], "all": [*names, "scene-9999"], "mini_train": names}
        (root / sequences.version / "splits.json").write_text(json.dumps(splits))
        return Cli(root, "mine", tmp_path, capsys)

    def results(self, sequences: Any, names: list[str]) -> Results:
        return {
            frame.token: ground_truth_records(sequences.ground_truth(frame), frame)
            for scene in sequences.scenes(names)
            for frame in scene.frames
        }

    def test_it_is_scored_by_the_official_evaluator(self, own: Cli, sequences: Any):
        truth = self.results(sequences, sequences.scene_names[:1])
        code, report = own(own.write(truth))
        assert code == ExitCode.DONE
        assert report["split"] == "mine"
        # A class of which the one scene has no object scores zero.
        there = {record["detection_name"] for records in truth.values() for record in records}
        assert report["scores"]["map"] == pytest.approx(len(there) / 10, abs=0.101)
        assert all(report["scores"]["classes"][name]["ap"] in (0.0, pytest.approx(1.0)) for name in there)

    def test_a_stream_of_key_frames_without_latency_scores_the_same(self, own: Cli, sequences: Any):
        own.split = "all"
        truth = shifted(self.results(sequences, sequences.scene_names), 0.7)
        truth = {token: truth[token] for token in reversed(truth)}
        path = own.write(truth)
        _, official = own(path)
        code, stream = own(path, "--streaming", "--latency-ms", "0", "--key-frames")
        assert code == ExitCode.DONE
        assert stream["streaming"]["streaming"] == official["scores"]

    def test_results_of_other_scenes_are_refused(self, own: Cli, sequences: Any):
        code, report = own(own.write(self.results(sequences, sequences.scene_names)))
        assert code == ExitCode.BAD_INPUT
        assert "which is not in this split" in report["error"]["found"]

    @pytest.mark.parametrize(("name", "said"), [("mini_train", "other scenes"), ("theirs", "the split 'theirs'")])
    def test_what_is_refused(self, own: Cli, truth: Results, name: str, said: str):
        own.split = name
        code, report = own(own.write(truth))
        assert code == ExitCode.BAD_INPUT
        assert said in report["error"]["found"]


def test_a_network_that_says_nan_is_named_with_the_frame(cli: Cli, sequences: Any, split: str):
    torch = pytest.importorskip("torch")
    from qdbev_deploy.model import build_model, save_checkpoint

    model = build_model("micro", seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "cls" in name:
                parameter.fill_(3e38)  # a checkpoint that holds NaN itself is not opened
    checkpoint = cli.folder / "broken.pth"
    save_checkpoint(checkpoint, model)
    code, report = cli(str(checkpoint), "--out", str(cli.folder / "scores"))
    assert code == ExitCode.BAD_INPUT
    assert "NaN or infinity" in report["error"]["found"]
    assert sequences.scenes(split)[0].frames[0].token in report["error"]["found"]
    assert not (cli.folder / "scores").exists()


def test_a_checkpoint_is_run_and_scored(cli: Cli, sequences: Any, split: str, truth: Results):
    """A network with fresh weights detects nothing, but all of the road is driven: files, frames, state, decoding."""
    pytest.importorskip("torch")
    from qdbev_deploy.evaluate.results_file import check_tokens, read_results
    from qdbev_deploy.model import build_model, save_checkpoint

    checkpoint = cli.folder / "micro.pth"
    save_checkpoint(checkpoint, build_model("micro", seed=0))
    out = cli.folder / "deep" / "scores"
    code, report = cli(str(checkpoint), "--out", str(out))
    assert code == ExitCode.DONE
    assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "results.json"]
    results = read_results(out / "results.json")
    check_tokens("results.json", results, list(truth), split)
    assert all(0 < len(records) <= 200 for records in results.values())
    assert 0 <= report["scores"]["map"] < 0.1

    again, report_again = cli(str(out / "results.json"))
    assert again == ExitCode.DONE
    assert report_again["scores"] == report["scores"]
