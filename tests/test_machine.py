"""Looking things up without importing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qdbev_deploy import machine
from qdbev_deploy.errors import QdbevError


@pytest.mark.parametrize(
    ("macros", "version"),
    [
        (("NV_TENSORRT_MAJOR 8", "NV_TENSORRT_MINOR 6", "NV_TENSORRT_PATCH 1"), "8.6.1"),
        (("TRT_MAJOR_ENTERPRISE 10", "TRT_MINOR_ENTERPRISE 13", "TRT_PATCH_ENTERPRISE 3"), "10.13.3"),
    ],
)
def test_headers_are_found_under_the_root_and_say_their_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, macros: tuple[str, ...], version: str
) -> None:
    include = tmp_path / "include"
    include.mkdir()
    (include / "NvInfer.h").touch()
    (include / "NvInferVersion.h").write_text("".join(f"#define {macro} //!< part\n" for macro in macros))
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    assert machine.tensorrt_headers() == (include, version)


def test_the_library_is_found_under_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libnvinfer.so.10").touch()
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    assert machine.tensorrt_library() == tmp_path / "lib" / "libnvinfer.so.10"


def test_a_compiler_that_does_not_run_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    compiler = tmp_path / "bin" / "nvcc"
    compiler.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.20'\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert machine.nvcc() == (compiler, "12.6")
    compiler.write_text("#!/bin/sh\nexit 1\n")
    found = machine.nvcc()
    assert found is None or found[0] != compiler


def test_nuscenes_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def status() -> tuple[str, str]:
        finding = next(f for f in machine.examine(("data",)) if f.item == "nuScenes data")
        return finding.status, finding.detail

    monkeypatch.setenv("NUSCENES", str(tmp_path))
    assert status()[0] == "missing"
    (tmp_path / "v1.0-mini").mkdir()
    (tmp_path / "v1.0-mini" / "scene.json").touch()
    assert status() == ("ok", f"{tmp_path}: v1.0-mini")


def test_unknown_purpose() -> None:
    with pytest.raises(QdbevError, match="unknown purpose 'flying'"):
        machine.examine(("flying",))  # type: ignore[arg-type]
