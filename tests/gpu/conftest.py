"""What the GPU tests need: a GPU that torch can use and a library with kernels; else they skip and say why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.plugins import PluginLibrary

# The cases of the CPU tests serve here too, at larger sizes.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plugins"))


@pytest.fixture(scope="session")
def kernels() -> PluginLibrary:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    try:
        library = PluginLibrary()
    except QdbevError as error:
        pytest.skip(f"no plugin library: {error.found}; next: {error.next_step}")
    if not library.info.cuda_architectures:
        pytest.skip(f"{library.info.path} was built without CUDA; next: qdbev-deploy plugins build")
    return library
