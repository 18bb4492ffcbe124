"""Looking things up without importing them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qdbev_deploy import machine
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.plugins import LibraryInfo


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
    monkeypatch.setenv("CUDA_HOME", "")
    monkeypatch.setenv("CUDACXX", str(compiler))
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


def plugin_line(
    monkeypatch: pytest.MonkeyPatch,
    *,
    architectures: tuple[str, ...] = ("80", "87"),
    built_for: str | None = "10.3.0",
    installed: str | None = "10.13.2",
    capability: tuple[int, int] = (8, 7),
    purposes: tuple[machine.Purpose, ...] = ("tensorrt",),
) -> machine.Finding:
    info = LibraryInfo(Path("lib.so"), "0.1.0", 1, architectures, built_for, (), {})
    monkeypatch.setattr("qdbev_deploy.plugins.library_info", lambda: info)
    monkeypatch.setattr(machine, "cuda_driver", lambda: machine.Driver((13, 0), (machine.Gpu("Orin", capability, 1),)))
    monkeypatch.setattr(machine, "package_version", lambda name: installed if name == "tensorrt" else None)
    monkeypatch.setattr(machine, "tensorrt_library", lambda: None)
    monkeypatch.setattr(machine, "tensorrt_headers", lambda: (Path("/usr/include"), "10.13.2"))
    monkeypatch.delenv("QDBEV_PLUGIN_LIBRARY", raising=False)
    return next(finding for finding in machine.examine(purposes) if finding.item == "plugin library")


def test_a_plugin_library_that_fits_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugin_line(monkeypatch).status == "ok"
    assert plugin_line(monkeypatch, installed=None).status == "ok"  # nothing to hold it against
    assert plugin_line(monkeypatch, capability=(7, 5), purposes=("cpu",)).status == "ok"  # its CPU ops run anywhere


def test_a_plugin_library_for_another_tensorrt_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    finding = plugin_line(monkeypatch, built_for="8.6.1")
    assert finding.status == "missing"
    assert "TensorRT 10 is installed" in finding.detail
    assert finding.get_it == "qdbev-deploy plugins build --arch 87"
    other = plugin_line(monkeypatch, built_for="10.3.0", installed="11.1.0")
    assert other.get_it == "qdbev-deploy plugins build --arch 87 --tensorrt-root DIR, the folder of TensorRT 11"
    monkeypatch.setattr(machine, "tensorrt_headers", lambda: None)
    _, command = machine.plugin_problems(LibraryInfo(Path("lib.so"), "0.1.0", 1, ("87",), None, (), {}))
    assert "--tensorrt-root DIR, the folder of TensorRT 11" in command
    assert "--fetch-headers" not in command  # which downloads those of 10
    monkeypatch.setattr(machine, "package_version", lambda name: "10.13.2" if name == "tensorrt" else None)
    _, command = machine.plugin_problems(LibraryInfo(Path("lib.so"), "0.1.0", 1, ("87",), None, (), {}))
    assert "--fetch-headers, which downloads those of TensorRT 10" in command
    cmake = Path(__file__).parents[1] / "plugins" / "cmake" / "QdbevTensorRTHeaders.cmake"
    assert f'QDBEV_FETCH_TENSORRT_VERSION "v{machine.FETCHED_MAJOR}.' in cmake.read_text(encoding="utf-8")
    # Without a package the library's own name tells its version.
    (tmp_path / "libnvinfer.so.10.3.0").touch()
    (tmp_path / "libnvinfer.so").symlink_to("libnvinfer.so.10.3.0")
    plugin_line(monkeypatch, installed=None)
    monkeypatch.setattr(machine, "tensorrt_library", lambda: tmp_path / "libnvinfer.so")
    assert machine._tensorrt_major() == 10


def test_a_plugin_library_for_another_gpu_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = plugin_line(monkeypatch, capability=(7, 5))
    assert finding.status == "missing"
    assert "no kernels for Orin (sm_75)" in finding.detail
    assert finding.get_it == "qdbev-deploy plugins build --arch 75"


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        ("87", (8, 7), True),
        ("80", (8, 9), True),
        ("89", (8, 6), False),
        ("80", (9, 0), True),  # from PTX
        ("90", (8, 9), False),
        ("90a", (9, 0), True),
        ("90a", (10, 0), False),
        ("100f", (10, 3), True),
        ("100f", (12, 0), False),
        ("80-real", (8, 9), True),
        ("80-real", (9, 0), False),
        ("110", (11, 0), True),
        ("nonsense", (9, 0), False),
    ],
)
def test_which_gpus_kernels_run_on(built: str, capability: tuple[int, int], runs: bool) -> None:
    assert machine._runs_on(built, capability) is runs


def test_libraries_inside_packages_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("onnxruntime/capi/libonnxruntime.so.1.31.0", "tensorrt/libnvinfer.so.8"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.touch()
        (tmp_path / name.split("/")[0] / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("onnxruntime", "tensorrt"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert machine.libraries_in_packages() == {
        "QDBEV_ONNXRUNTIME_LIBRARY": str(tmp_path / "onnxruntime" / "capi" / "libonnxruntime.so.1.31.0"),
        "QDBEV_TENSORRT_LIBRARY": str(tmp_path / "tensorrt" / "libnvinfer.so.8"),
    }
