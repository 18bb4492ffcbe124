"""What the GPU tests need: a GPU that torch can use, a library with kernels, TensorRT; else they skip and say why.

With QDBEV_REQUIRE_GPU=1, which `make test-gpu` sets, a skip is a failure: a run that tried nothing must not look like
one that passed. A test that only a further tool makes possible says so by the marker `further_tool`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from qdbev_deploy.engine.backends import backend_named
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.plugins import PluginLibrary
from tests.gpu.engines import Engines

# The cases of the CPU tests serve here too, at larger sizes.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plugins"))
REQUIRED = os.environ.get("QDBEV_REQUIRE_GPU", "0") not in ("", "0")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "further_tool: may be skipped where a tool beside GPU and TensorRT is missing")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    report = (yield).get_result()
    if REQUIRED and report.skipped and item.get_closest_marker("further_tool") is None:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{why} (and QDBEV_REQUIRE_GPU is set: what is skipped has not been tried)"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, None]:
    report = (yield).get_result()
    if REQUIRED and report.skipped:  # a module that skips itself, as pytest.importorskip does
        report.outcome = "failed"


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


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    error = backend_named("tensorrt").missing()
    if error is not None:
        pytest.skip(f"no TensorRT backend: {error.found}; next: {error.next_step}")
    return Engines(tmp_path_factory.mktemp("engines"))
