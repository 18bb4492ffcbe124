"""Builds the plugin library into the wheel: CPU ops wherever there is a C++ compiler, CUDA kernels where there is nvcc.

Editable installations build nothing; `make test` and `qdbev-deploy plugins build` do, in build/.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "libqdbev_plugins.so"


class PluginLibraryHook(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")):
            self.app.display_warning("qdbev: no C++ compiler, so no plugin library: 'qdbev-deploy plugins build' later")
            return
        folder = Path(tempfile.mkdtemp(prefix="qdbev-plugins-"))
        self._folder = folder
        self._cmake("-S", str(Path(self.root) / "plugins"), "-B", str(folder), "-G", "Ninja",
                    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF", *self._architectures())  # fmt: skip
        self._cmake("--build", str(folder), "--parallel")
        build_data["force_include"][str((folder / LIBRARY).resolve())] = f"qdbev_deploy/lib/{LIBRARY}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _architectures(self) -> list[str]:
        """QDBEV_CUDA_ARCHS, else those of the GPUs here; where there is neither, CMake takes all that nvcc knows."""
        chosen = os.environ.get("QDBEV_CUDA_ARCHS", "").replace(",", ";")
        if not chosen:
            sys.path.insert(0, self.root)
            from qdbev_deploy.machine import cuda_driver

            driver = cuda_driver()
            chosen = (
                ";".join(sorted({"".join(map(str, gpu.compute_capability)) for gpu in driver.gpus})) if driver else ""
            )
        return [f"-DQDBEV_CUDA_ARCHS={chosen}"]

    def _cmake(self, *arguments: str) -> None:
        result = subprocess.run(["cmake", *arguments], capture_output=True, text=True, check=False)
        for line in result.stdout.splitlines():
            if "qdbev:" in line:
                self.app.display_info(line.removeprefix("-- "))
        if result.returncode != 0:
            raise RuntimeError(f"the plugin library did not build:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
