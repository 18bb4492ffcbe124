"""A machine with a GPU and a TensorRT, both doubles: one for each release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qdbev_deploy import machine
from qdbev_deploy.engine.tensorrt import cuda as seam
from qdbev_deploy.engine.tensorrt import plugin_library, releases, stream
from qdbev_deploy.machine import Driver, Gpu
from qdbev_deploy.plugins import LibraryInfo
from tests.engine.tensorrt.double import RELEASES, Device, DoubleCuda, capturing, module

ORIN = Driver((12, 6), (Gpu("Orin", (8, 7), 32 << 30),))


class Bench:
    """The doubles of one test, put in the places of the real ones."""

    def __init__(self, version: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.version, self.monkeypatch, self.folder = version, monkeypatch, folder
        self.device = Device()
        self.trt: Any = module(version, self.device)
        self.cuda = DoubleCuda(self.device)
        (folder / "installed").mkdir()
        self.library = folder / "installed" / "libqdbev_plugins.so"
        self.library.write_bytes(b"a library of plugins")
        self.driver: Driver | None = ORIN
        monkeypatch.setattr(releases, "load", lambda: self.trt)
        monkeypatch.setattr(releases, "installed_version", lambda: self.version)
        monkeypatch.setattr(seam, "cuda", lambda: self.cuda)
        monkeypatch.setattr(seam, "package", lambda: "cuda-python")
        monkeypatch.setattr(stream, "capture", capturing(self.device))
        monkeypatch.setattr(machine, "cuda_driver", lambda: self.driver)
        monkeypatch.setattr(machine, "tensorrt_headers", lambda: None)
        monkeypatch.setattr(machine, "package_version", lambda name: self.version if name == "tensorrt" else None)
        monkeypatch.setattr(plugin_library, "library_info", self.library_info)
        self.built_for, self.architectures, self.abi = version, ("87",), 1

    def library_info(self, path: Path | None = None) -> LibraryInfo:
        return LibraryInfo(path or self.library, "0.1.0", self.abi, self.architectures, self.built_for, (), {})


@pytest.fixture(params=RELEASES)
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """Every release in turn."""
    return Bench(request.param, monkeypatch, tmp_path)


@pytest.fixture
def bench_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A bench of the release that is asked for."""
    return lambda version: Bench(version, monkeypatch, tmp_path)
