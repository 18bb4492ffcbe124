"""Fixtures that several folders of tests share."""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from tests.engine.students import Students

# Started in the background, a shell's child ignores these, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


T = TypeVar("T")


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What `make` makes in a folder, made by the first of pytest-xdist's workers that asks; the others wait for it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = shared / f"{name}.pickle"
        if not made.exists():
            folder = shared / name
            folder.mkdir()
            content = pickle.dumps(make(folder))
            made.write_bytes(content)
        found: T = pickle.loads(made.read_bytes())
        return found


@pytest.fixture(scope="session")
def synthetic_dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set (v1.0-mini): one training scene and, with sweeps, one validation scene.

    Read only: a test that wants to break something copies it.
    """
    pytest.importorskip("nuscenes")
    from qdbev_deploy.data.synth.write import synthesise

    def make(folder: Path) -> Path:
        synthesise(folder / "data", scenes=2, frames=4, seed=3, sweeps="val")
        return folder / "data"

    return made_once(tmp_path_factory, "nuscenes", make)


@pytest.fixture(scope="session")
def students(tmp_path_factory: pytest.TempPathFactory) -> Students:
    """A small quantised student that takes nuScenes' own frames, exported, and its bundle. Read only, as the data."""
    pytest.importorskip("torch")
    from tests.engine.students import make_students

    return made_once(tmp_path_factory, "students", make_students)


@pytest.fixture(scope="session")
def native_students(tmp_path_factory: pytest.TempPathFactory) -> Students:
    """The same student with an FP16 state and 8-bit camera frames as its input."""
    pytest.importorskip("torch")
    from tests.engine.students import make_students

    return made_once(
        tmp_path_factory,
        "native-students",
        lambda folder: make_students(folder, verify=False, count=3, io="fp16", image="uint8"),
    )
