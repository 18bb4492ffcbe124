"""The demo removes nothing of anybody's, and its picture has boxes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_a_folder_of_its_own_is_replaced(demo: ModuleType, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    demo.fresh_folder(theirs)  # empty: nothing is lost
    (theirs / "report.html").touch()
    demo.fresh_folder(theirs)  # now the demo's
    assert [path.name for path in theirs.iterdir()] == [demo.MARK]
    (theirs / demo.MARK).unlink()
    (theirs / "kept").write_text("kept")
    (tmp_path / "link").symlink_to(theirs)
    (tmp_path / "file").write_text("kept")
    for name in ("theirs", "link", "file"):
        with pytest.raises(SystemExit, match="pass another --out"):
            demo.fresh_folder(tmp_path / name)
    assert (theirs / "kept").read_text() == (tmp_path / "file").read_text() == "kept"


def test_a_picture_without_enough_good_boxes_shows_the_best(demo: ModuleType, tmp_path: Path) -> None:
    scores = [0.9, 0.4, 0.3, 0.2, 0.15, 0.1]
    boxes = [{"detection_score": score} for score in scores]
    (tmp_path / "results.json").write_text(json.dumps({"results": {"frame": boxes, "none": []}}))

    def least(token: str, usual: float, at_least: int) -> float:
        return demo.least_score(tmp_path / "results.json", SimpleNamespace(token=token), usual, at_least)

    assert least("frame", 0.25, 2) == 0.25
    assert least("frame", 0.25, 5) == 0.15
    assert least("frame", 1.0, 20) == 0.1
    assert least("none", 0.25, 5) == 0.25


def test_the_shipped_student_is_taken_where_it_is(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SHIPPED", tmp_path / "student.pt")
    (tmp_path / "student.pt").touch()
    assert demo.the_student(tmp_path, tmp_path) == (tmp_path / "student.pt", True)
    assert capsys.readouterr().out == ""
