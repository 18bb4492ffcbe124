"""Outputs appear whole or not at all."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import atomic_output, write_json


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_output(target) as partial:
        partial.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_output(target) as partial:
        partial.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "stale").touch()
    with atomic_output(target) as partial:
        partial.mkdir()
        (partial / "fresh").touch()
    assert [path.name for path in target.iterdir()] == ["fresh"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "kept").touch()
    with pytest.raises(KeyboardInterrupt), atomic_output(target) as partial:
        partial.mkdir()
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert list(tmp_path.iterdir()) == [target]


def test_overwriting_may_be_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(QdbevError, match="exists already"), atomic_output(tmp_path / "a", overwrite=False):
        pytest.fail("the body must not run")


def test_no_parent_folder(tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match="does not exist"), atomic_output(tmp_path / "no" / "a"):
        pytest.fail("the body must not run")


def test_json_is_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": math.nan})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'


def test_two_folders_for_one_name_at_once(tmp_path: Path) -> None:
    """Each writer's folder is whole, the last one stays, and nothing is left of the others."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from qdbev_deploy.files import atomic_output\n"
        "for count in range(60):\n"
        "    with atomic_output(Path(sys.argv[1])) as partial:\n"
        "        partial.mkdir()\n"
        "        for name in 'abc': (partial / name).write_text(f'{sys.argv[2]} {count}')\n"
    )
    target = tmp_path / "bundle"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(target), name]) for name in ("x", "y", "z")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == [target]
    assert len({(target / name).read_text() for name in "abc"}) == 1


def test_a_signal_between_two_renames_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").touch()
    rename = os.rename

    def interrupted_after(source: Path, destination: Path) -> None:
        rename(source, destination)
        if str(destination).endswith(".replaced"):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "rename", interrupted_after)
    with pytest.raises(KeyboardInterrupt), atomic_output(target) as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]
