"""Runs that were killed go on as if they had not been, and nothing else goes on in their folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qdbev_deploy.cli import main
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.quant import load_model
from qdbev_deploy.train.config import TrainConfig
from qdbev_deploy.train.run_folder import RunFolder
from tests.train.runs import checkpoint, command, rows, start, state, trainer


def finish(arguments: list[str], dies: str = "", at_step: int = -1) -> int:
    process = start(command, arguments, dies, at_step)
    process.join(200)
    code: int | None = process.exitcode
    assert code is not None
    return code


def test_a_student_killed_twice_is_the_one_that_was_not(synthetic_dataroot: Path, tmp_path: Path) -> None:
    """Quantised part after part, with distillation: parts join at steps 0, 3, 4 and 6, distillation begins at 7."""
    init = str(checkpoint(tmp_path / "float.pt"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    base = ["train", "--dataroot", str(synthetic_dataroot), "--init", init, "--recipe", "w4a6", "--distill", "vgd",
            "--teacher", str(checkpoint(tmp_path / "teacher.pt", seed=1)), "--distill-weight", "1e5", "--steps", "10",
            "--batch", "1", "--queue", "2", "--warmup-steps", "2", "--save-every", "2",
            "--query-groups", "2"]  # fmt: skip
    assert finish([*base, "--out", str(whole)]) == ExitCode.DONE
    arguments = [*base, "--out", str(killed)]
    assert finish(arguments, "logged", 3) == -9
    assert state(killed)["step"] == 2  # of a part that has begun
    assert finish([*arguments, "--resume"], "saving", 7) == -9
    assert state(killed)["step"] == 6  # with a part about to begin
    assert [path.name for path in killed.glob(".state.pt.*.partial")]
    assert finish([*arguments, "--resume"]) == ExitCode.DONE
    assert not list(killed.glob(".*.partial"))
    curves = [[(row["step"], row["phase"], row["loss"], row["gradient_norm"]) for row in rows(run)]
              for run in (whole, killed)]  # fmt: skip
    assert [step for step, *_ in curves[0]] == list(range(10))
    assert curves[0] == curves[1]
    assert "distill" in rows(killed)[-1]
    ours, theirs = (load_model(run / "model.pt")[0].state_dict() for run in (whole, killed))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # What the end does not show: helpers, the optimiser's moments, and where the guard saw the scales begin.
    assert flat(state(whole)) == flat(state(killed))


def flat(value: Any) -> Any:
    """Something that == compares."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    return [flat(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_a_run_goes_on_from_anothers_folder(
    synthetic_dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes the weights and what learned beside them, but begins its own schedule; if killed at once, too."""
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["train", "--dataroot", str(synthetic_dataroot), "--batch", "1", "--queue", "1", "--query-groups", "2"]
    assert main([*arguments, "--out", str(first), "--steps", "8", "--stop-at", "1"]) == ExitCode.DONE
    assert [row["step"] for row in rows(first)] == [0]
    assert load_model(first / "model.pt")[0].meta["steps"] == 1
    saved_weights = torch.load(first / "model.pt", weights_only=True)["state_dict"]
    assert all(tensor.is_contiguous() for tensor in saved_weights.values())
    saved = state(first)
    # A rate of nearly nothing: after a step the weights are still those it began with.
    more = ["--init", str(first), "--out", str(second), "--steps", "1", "--lr", "1e-12", "--freeze-norm-from", "0",
            "--seed", "1"]  # fmt: skip

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", die)
        assert main([*arguments, *more]) == ExitCode.INTERRUPTED
    assert {path.name for path in second.iterdir() if path.is_file()} == {"config.json", "metrics.jsonl"}
    assert main([*arguments, *more, "--resume"]) == ExitCode.DONE
    begun = state(second)
    assert begun["step"] == 1
    for part in ("model", "helpers"):
        assert saved[part]
        for name, tensor in saved[part].items():
            torch.testing.assert_close(begun[part][name], tensor, msg=name)
    capsys.readouterr()
    # Once more: nothing is left to do, and the last step is still what is reported.
    assert main([*arguments, *more, "--resume", "--json"]) == ExitCode.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["steps"] == 1
    assert document["last_step"]["loss"] == rows(second)[-1]["loss"]
    assert main([*arguments, "--init", str(first), "--variant", "tiny", "--out", str(tmp_path / "x")]) == ExitCode.USAGE
    assert "a 'micro'" in capsys.readouterr().err


def test_a_run_with_other_helpers_is_no_beginning(synthetic_dataroot: Path, tmp_path: Path) -> None:
    one, two = (trainer(synthetic_dataroot, tmp_path / str(groups), query_groups=groups) for groups in (1, 2))
    with pytest.raises(QdbevError, match="other heads or groups of queries"):
        two.begin_from(one.state())


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_student_is_resumed_with_what_it_was_begun_with(
    synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (str(checkpoint(tmp_path / f"{seed}.pt", seed)) for seed in (0, 1))
    out = tmp_path / "run"
    shipped = (Path(__file__).parents[2] / "calib" / "w4a6.yaml").read_text()
    again, other = tmp_path / "again.yaml", tmp_path / "other.yaml"
    again.write_text(shipped)
    other.write_text(shipped.replace("backbone: 23", "backbone: 24"))
    options = {"--dataroot": str(synthetic_dataroot), "--init": one, "--teacher": one, "--recipe": "w4a6",
               "--distill": "vgd", "--split": "mini_train"}  # fmt: skip

    def train(more: dict[str, str], *flags: str) -> tuple[int, str, str]:
        words = [word for pair in ({**options, **more}).items() for word in pair]
        code = main(["train", "--out", str(out), "--steps", "9", "--batch", "1", "--queue", "1", *words, *flags])
        return code, *capsys.readouterr()

    code, printed, _ = train({}, "--stop-at", "1")
    assert code == ExitCode.DONE
    assert "no student yet" in printed  # the backbone alone has joined
    assert {path.name for path in out.iterdir() if path.is_file()} == {"config.json", "metrics.jsonl", "state.pt"}
    assert state(out)["step"] == 1
    for more, sentence in (
        ({"--recipe": str(other)}, "was begun with schedule = {'backbone': 23.0"),
        ({"--recipe": "w4a8"}, "was begun with recipe = 'w4a6', not 'w4a8'"),
        ({"--init": two}, "was begun with another --init"),
        ({"--teacher": two}, "was begun with another --teacher"),
        ({"--split": "mini_val"}, "was begun with split = 'mini_train', not 'mini_val'"),
    ):
        code, _, errors = train(more, "--resume", "--stop-at", "2")
        assert code == ExitCode.BAD_INPUT, more
        assert sentence in errors
    code, printed, _ = train({"--recipe": str(again)}, "--resume", "--stop-at", "2", "--json")
    assert code == ExitCode.DONE
    assert json.loads(printed)["checkpoint"] is None
    assert state(out)["step"] == 2
    # A quantised run is no float run to go on from.
    code = main(["train", "--dataroot", str(synthetic_dataroot), "--init", str(out), "--out", str(tmp_path / "next")])
    assert code == ExitCode.BAD_INPUT
    errors = capsys.readouterr().err
    assert "holds a run quantised by 'w4a6'" in errors
    assert len(errors) < 500
    # A state that was cut short.
    (out / "state.pt").write_bytes((out / "state.pt").read_bytes()[:-1000])
    code, _, errors = train({}, "--resume")
    assert code == ExitCode.BAD_INPUT
    assert "state.pt cannot be read as the state of a training run" in errors


def test_every_setting_is_compared() -> None:
    begun = TrainConfig(data_version="v1.0-mini", frames_digest="a", recipe_digest="a")
    saved = json.loads(json.dumps(begun.to_dict()))
    begun.require_same(saved, "it")
    for change, sentence in (
        ({"lr": 1e-3}, "it was begun with lr = 0.0004, not 0.001"),
        ({"data_version": "v1.0-trainval"}, "data_version = 'v1.0-mini', not 'v1.0-trainval'"),
        ({"processes": 2}, "processes = 1, not 2"),
        ({"frames_digest": "b"}, "other frames in its data root"),
        ({"recipe_digest": "b"}, "other rules in its recipe"),
    ):
        with pytest.raises(QdbevError) as caught:
            dataclasses.replace(begun, **change).require_same(saved, "it")  # type: ignore[arg-type]
        assert sentence in caught.value.found
    del saved["processes"]
    with pytest.raises(QdbevError, match="an earlier qdbev-deploy, which did not note its processes"):
        begun.require_same(saved, "it")


def test_what_is_no_run_is_not_resumed(
    synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(TrainConfig(steps=8).to_dict())
    arguments = ["train", "--dataroot", str(synthetic_dataroot), "--steps", "8", "--out", str(tmp_path / "run")]
    assert main(arguments) == ExitCode.BAD_INPUT
    assert "holds a training run" in capsys.readouterr().err
    (tmp_path / "run" / "config.json").rename(tmp_path / "run" / "state.pt")
    assert main(arguments) == ExitCode.BAD_INPUT
    assert "holds a training run" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "none"), "--resume"]) == ExitCode.BAD_INPUT
    assert "no training run that can be resumed" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    for more in ([], ["--resume"]):
        assert main([*arguments[:-1], str(tmp_path / "file"), *more]) == ExitCode.BAD_INPUT
        assert f"{tmp_path / 'file'} is a file" in capsys.readouterr().err
