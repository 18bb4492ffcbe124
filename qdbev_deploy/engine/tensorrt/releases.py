"""Which TensorRT is here, and which of the three lines that are known it belongs to."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from typing import Any

from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.machine import package_version

_KNOWN = "TensorRT 8.6, 10.3 or a later 10, or 11"


@dataclass(frozen=True)
class Release:
    """A TensorRT by its version, as far as its interface depends on it."""

    version: str
    major: int
    minor: int
    target: str  # the name in graph.targets of what its parser takes

    @property
    def numbers(self) -> tuple[int, ...]:
        """Its version as numbers that compare."""
        return numbers_of(self.version)


def numbers_of(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, three of them: 10.13.2.6.post1 is 10, 13, 2; 8.6 is 8, 6, 0."""
    match = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in match.groups()) if match else (0, 0, 0)


def release_of(version: str) -> Release:
    """The release of that version; one whose interface is not known is refused."""
    major, minor, _ = numbers_of(version)
    if (major, minor) == (8, 6):
        return Release(version, major, minor, "trt8.6")
    if major == 10 and minor >= 3:
        return Release(version, major, minor, "trt10.3")
    if major == 11:
        return Release(version, major, minor, "trt11")
    newer = major > 11
    raise QdbevError(
        f"TensorRT {version} is installed",
        f"{_KNOWN}; this one is {'newer than what was tried' if newer else 'older, or of a line that was skipped'}",
        "pip install --upgrade qdbev-deploy" if newer else "install TensorRT 10 (JetPack 6.1 and later bring it)",
        exit_code=ExitCode.MISSING,
    )


def installed_version() -> str | None:
    """Version of the tensorrt package; None where there is none. It is imported only where nothing else tells."""
    if version := package_version("tensorrt"):
        return version
    if importlib.util.find_spec("tensorrt") is None:
        return None
    return str(load().__version__)


def load() -> Any:
    """The tensorrt module. A package that is there and does not load is named with its reason."""
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:  # a library it needs, or built for another Python
        raise QdbevError(
            f"the tensorrt package does not load: {error}",
            "TensorRT with the libraries it needs, for this Python",
            "qdbev-deploy doctor --for tensorrt",
            exit_code=ExitCode.MISSING,
        ) from error


def release() -> Release:
    """The installed release."""
    return release_of(str(load().__version__))
