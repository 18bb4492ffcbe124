"""Our plugins in TensorRT's registry: loaded once, and never two different libraries in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qdbev_deploy.contract import OPS
from qdbev_deploy.engine.tensorrt.log import Log
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.graph.files import sha256_of
from qdbev_deploy.machine import plugin_problems
from qdbev_deploy.plugins import ABI, LibraryInfo, library_info

_loaded: dict[Any, tuple[str, Path, Any]] = {}  # by TensorRT module: hash, path and handle of the library


def usable(path: Path | None = None) -> LibraryInfo:
    """The library at `path`, of a bundle, or this machine's; refused where this GPU or TensorRT cannot use it."""
    info = library_info(path)
    problems, command = plugin_problems(info)
    if info.abi != ABI:
        problems.append(f"its ABI is {info.abi}, and this package speaks {ABI}")
    if problems:
        raise QdbevError(
            f"the plugin library {info.path}: {'; '.join(problems)}",
            "our plugins and their kernels for this TensorRT and this GPU",
            command if path is None else "build the bundle again on this machine: qdbev-deploy build",
            exit_code=ExitCode.MISSING,
        )
    return info


def _registered(registry: Any, op: str) -> bool:
    look_up = getattr(registry, "get_creator", None) or registry.get_plugin_creator  # 10 and later; 8.6
    return look_up(op, "1", "") is not None


def load(trt: Any, log: Log, path: Path) -> None:
    """Register the library's plugins. The same library twice, wherever it lies, is registered once."""
    digest = sha256_of(path)
    known = _loaded.get(trt)
    if known is not None:
        if known[0] == digest:
            return
        raise QdbevError(
            f"{path} is another plugin library than {known[1]}, which this process has loaded",
            "one plugin library in a process: TensorRT knows a plugin by its name alone",
            "open the bundle in a process of its own, or build both with one library",
        )
    registry = trt.get_plugin_registry()
    handle = registry.load_library(str(path))
    missing = [op for op in OPS if not _registered(registry, op)]
    if handle is None or missing:
        raise log.failure(
            f"TensorRT {trt.__version__} did not take the plugins of {path}"
            + (f" ({', '.join(missing)} unknown)" if missing else ""),
            "our plugins in its registry",
            "qdbev-deploy plugins info, then qdbev-deploy plugins build",
            exit_code=ExitCode.MISSING,
        )
    _loaded[trt] = (digest, path, handle)
