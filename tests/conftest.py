"""Fixtures that several folders of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


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
