"""An output that cannot be written is refused before the work, and a refusal leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.evaluate.outputs import check_output_file, output_folder


def in_folder(out: Path | None, files: list[str] | None = None) -> None:
    with output_folder(out, files or ["metrics.json"]):
        pass


def test_a_folder_is_made_with_its_parents_and_stays(tmp_path: Path):
    in_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    in_folder(tmp_path / "a" / "b")
    in_folder(None)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_takes_away_what_was_made_and_no_more(tmp_path: Path, error: type[BaseException]):
    (tmp_path / "was there").mkdir()
    with pytest.raises(error), output_folder(tmp_path / "was there" / "a" / "b", []):
        raise error
    assert list(tmp_path.iterdir()) == [tmp_path / "was there"]
    assert list((tmp_path / "was there").iterdir()) == []
    with pytest.raises(error), output_folder(tmp_path / "full", []):
        (tmp_path / "full" / "results.json").write_text("{}")
        raise error
    assert (tmp_path / "full" / "results.json").exists()


def test_what_cannot_be_a_folder(tmp_path: Path):
    file = tmp_path / "afile"
    file.touch()
    with pytest.raises(QdbevError, match="afile is a file"):
        in_folder(file)
    for out in (file / "sub", Path("/proc/foo"), tmp_path / ("x" * 300)):
        with pytest.raises(QdbevError, match=f"--out {out} cannot be written") as caught:
            in_folder(out)
        assert caught.value.exit_code == ExitCode.BAD_INPUT
    (tmp_path / "out" / "metrics.json").mkdir(parents=True)
    with pytest.raises(QdbevError, match=r"out/metrics\.json is a folder"):
        in_folder(tmp_path / "out")


def test_a_file(tmp_path: Path):
    check_output_file(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "dd.png").mkdir()
    with pytest.raises(QdbevError, match=r"dd\.png is a folder"):
        check_output_file(tmp_path / "dd.png")
    with pytest.raises(QdbevError, match=r"/proc/x\.png cannot be written") as caught:
        check_output_file(Path("/proc/x.png"))
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    with pytest.raises(QdbevError, match="does not exist"):
        check_output_file(tmp_path / "no" / "a.png")
