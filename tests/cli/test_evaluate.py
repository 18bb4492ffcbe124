"""`qdbev-deploy evaluate` on a synthetic data set: the round trip, streaming, and what it refuses."""

from __future__ import annotations

import json
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
    """The split of the set that has scenes; mini_val if it has."""
    from qdbev_deploy.evaluate.nuscenes_eval import SPLITS_OF_VERSION, split_tokens

    names = next(names for ending, names in SPLITS_OF_VERSION.items() if sequences.version.endswith(ending))
    for name in names:
        try:
            split_tokens(sequences.nusc, name)
        except Exception:
            continue
        return name
    raise AssertionError("the synthetic set has no scene of an official split")


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
    assert json.loads((cli.folder / "scores" / "metrics.json").read_text()) == report
    assert [path.name for path in (cli.folder / "scores").iterdir()] == ["metrics.json"]


def test_shifted_boxes_score_what_the_definition_says(cli: Cli, truth: Results):
    """No match at 0.5 m, matches at 1, 2 and 4 m; the shift takes nothing from the other errors. Boxes at the border of
    a class' range may be shifted out of it or into it, and neighbours mixed up: hence the tolerance."""
    _, report = cli(cli.write(shifted(truth, 0.99)))
    scores = report["scores"]
    assert scores["map"] == pytest.approx(0.75, abs=0.03)
    assert scores["errors"]["mATE"] == pytest.approx(0.99, abs=0.03)
    assert scores["nds"] == pytest.approx((5 * 0.75 + 0.01 + 4) / 10, abs=0.05)
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
