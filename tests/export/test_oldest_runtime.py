"""Exported files on the oldest ONNX Runtime that the package admits: `tools/setup.sh` puts it beside the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from qdbev_deploy.export import export_onnx
from qdbev_deploy.reference import session_of
from tests.export.students import PLAIN, feed, float_model, student

OLDEST = Path(sys.prefix) / "oldest"
ROOT = Path(__file__).parents[2]
_RUN = """
import sys
import numpy as np
import onnxruntime
model, inputs, outputs = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
np.savez(outputs, onnxruntime.__version__, *session.run(None, dict(np.load(inputs))))
"""


@pytest.mark.parametrize("io", ["fp32", "mlperf"])
@pytest.mark.parametrize("quantised", [False, True], ids=["float", "w4a6"])
def test_the_file_opens_and_computes_the_same(tmp_path: Path, quantised: bool, io: str) -> None:
    if not OLDEST.is_dir():
        pytest.skip(f"no ONNX Runtime in {OLDEST}: made by tools/setup.sh")
    model, recipe = student(PLAIN) if quantised else (float_model(PLAIN), None)
    path = export_onnx(model, tmp_path / "m.onnx", recipe=recipe, verify=False, io=io).path
    session = session_of(str(path))
    inputs = feed(session)
    np.savez(tmp_path / "in.npz", **inputs)
    subprocess.run(
        [sys.executable, "-c", _RUN, str(path), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")],
        check=True, env={**os.environ, "PYTHONPATH": str(OLDEST)},
    )  # fmt: skip
    version, *found = np.load(tmp_path / "out.npz").values()
    admitted = re.search(r"onnxruntime>=([\d.]+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert admitted
    assert str(version).startswith(admitted[1])
    assert str(version) != onnxruntime.__version__
    if not quantised:  # a quantised one is fused in that runtime's own way; ties flip
        for ours, theirs in zip(session.run(None, inputs), found):
            assert np.abs(ours - theirs).max() <= 1e-4
    assert all(np.isfinite(array).all() for array in found)


def test_nodes_of_functions_have_names(tmp_path: Path) -> None:
    path = export_onnx(float_model(PLAIN), tmp_path / "m.onnx", verify=False).path
    functions = onnx.load(path).functions
    assert len(functions) == 3
    for function in functions:
        names = [node.name for node in function.node]
        assert all(names)
        assert len(set(names)) == len(names)
