"""Fixtures that several folders of tests share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.engine.students import Students


@pytest.fixture(scope="session")
def synthetic_dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set (v1.0-mini): one training scene and, with sweeps, one validation scene.

    Read only: a test that wants to break something copies it.
    """
    pytest.importorskip("nuscenes")
    from qdbev_deploy.data.synth.write import synthesise

    out = tmp_path_factory.mktemp("nuscenes") / "data"
    synthesise(out, scenes=2, frames=4, seed=3, sweeps="val")
    return out


@pytest.fixture(scope="session")
def students(tmp_path_factory: pytest.TempPathFactory) -> Students:
    """A small quantised student that takes nuScenes' own frames, exported, and its bundle. Read only, as the data."""
    pytest.importorskip("torch")
    from tests.engine.students import make_students

    return make_students(tmp_path_factory.mktemp("students"))


@pytest.fixture(scope="session")
def native_students(tmp_path_factory: pytest.TempPathFactory) -> Students:
    """The same student with an FP16 state and 8-bit camera frames as its input."""
    pytest.importorskip("torch")
    from tests.engine.students import make_students

    return make_students(tmp_path_factory.mktemp("native-students"), io="fp16", image="uint8")
