"""The plugin library under test: the one the environment names, else one built here without CUDA."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qdbev_deploy.plugins import LIBRARY_NAME, LIBRARY_VARIABLE, PluginLibrary, source_folder

# pytest imports by path here, so the helpers beside the tests have to be made importable.
sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> PluginLibrary:
    if os.environ.get(LIBRARY_VARIABLE):
        return PluginLibrary()
    if shutil.which("cmake") is None or (shutil.which("c++") is None and shutil.which("g++") is None):
        pytest.skip("neither a built plugin library nor cmake with a C++ compiler is here")
    source = source_folder()
    assert source is not None
    build = tmp_path_factory.mktemp("plugins-build")
    configure = ["cmake", "-S", str(source), "-B", str(build), "-DQDBEV_CUDA=OFF", "-DBUILD_TESTING=OFF"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(build), "-j", "2"], check=True, stdout=subprocess.DEVNULL)
    return PluginLibrary(Path(build) / LIBRARY_NAME)
