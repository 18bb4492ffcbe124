"""`make test-gpu`: it brings what it needs, and is not green where nothing was tried. The double needs no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HIDDEN = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # a GPU that is here is not seen


@pytest.mark.parametrize("required", ["0", "1"])
def test_what_was_skipped_fails_where_a_gpu_is_required(required: str) -> None:
    test = "tests/gpu/test_engine.py::test_memory_does_not_grow_with_frames"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**HIDDEN, "QDBEV_REQUIRE_GPU": required},
    )  # fmt: skip
    assert done.returncode == (1 if required == "1" else 0), done.stdout + done.stderr
    assert "no TensorRT backend" in done.stdout
    assert ("1 skipped" in done.stdout) == (required == "0")


def test_the_target_brings_what_it_needs() -> None:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    outer = {"VENV", "TENSORRT", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"}  # these tests may run under make themselves
    env = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(["make", "-n", "test-gpu"], cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    *_, tensorrt, cuda, plugins, runtime, built, tests = done.stdout.splitlines()
    assert "pip install" in tensorrt
    assert "'tensorrt>=10.3,<11'" in tensorrt
    assert "'cuda-python<13'" in cuda
    assert "plugins build --fetch-headers" in plugins
    assert "CUDACXX=$(cat .venv/nvcc)" in plugins
    assert "-S runtime" in runtime
    assert "-DQDBEV_FETCH_TENSORRT_HEADERS=ON" in runtime
    assert "--build build/runtime" in built
    assert f"QDBEV_RUNTIME_TESTS={ROOT}/build/runtime " in tests
    assert "QDBEV_REQUIRE_GPU=1" in tests
    assert "pytest tests/gpu" in tests


def test_the_double_needs_no_torch() -> None:
    """So that these tests run on a machine that has TensorRT and nothing to train with."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from tests.engine.tensorrt.double import RELEASES, Device, module\n"
        "from tests.engine.tensorrt.toy import lowered_for\n"
        "for version in RELEASES: module(version, Device())\n"
        "lowered_for('trt10.3')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
