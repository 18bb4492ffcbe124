"""What the tests of engines on a GPU build: micro, quantised and float, in each precision.

Runs without torch where QDBEV_ONNX names a quantised file (QDBEV_FLOAT_ONNX: its float one, for baselines); else a
student is exported here. QDBEV_TACTIC_SOURCES (A,B) is for a TensorRT without cuBLAS or cuDNN beside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.engine import Bundle, build
from tests.drive import frames

FRAMES = 8
SOURCES = os.environ.get("QDBEV_TACTIC_SOURCES")
OPTIONS: dict[str, Any] = {} if SOURCES is None else {"tactic_sources": tuple(filter(None, SOURCES.split(",")))}
SPEC = VARIANTS["micro"]


class Engines:
    """Files and bundles in a folder, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.timing_cache = folder / "timing.cache"
        self._bundles: dict[str, Bundle] = {}

    def onnx_file(self, quantised: bool) -> Path:
        variable = "QDBEV_ONNX" if quantised else "QDBEV_FLOAT_ONNX"
        if os.environ.get(variable):
            return Path(os.environ[variable])
        pytest.importorskip("torch", reason=f"no torch to export with, and {variable} names no file")
        from qdbev_deploy.export import export_onnx
        from tests.export.students import float_model, student

        path = self.folder / ("student.onnx" if quantised else "float.onnx")
        if path.exists():
            return path
        if quantised:
            model, recipe = student(SPEC)
            export_onnx(model, path, recipe=recipe, verify=False)
        else:
            export_onnx(float_model(SPEC), path, verify=False)
        return path

    def bundle(self, precision: str) -> Bundle:
        """`build` guards and proves it, or raises."""
        if precision not in self._bundles:
            self._bundles[precision] = build(
                self.onnx_file(precision == "int8"), self.folder / f"{precision}.qdbev", backend="tensorrt",
                precision=precision, frames=frames(SPEC, count=FRAMES), frame_count=FRAMES,
                timing_cache=self.timing_cache, **OPTIONS,
            )  # fmt: skip
        return self._bundles[precision]
