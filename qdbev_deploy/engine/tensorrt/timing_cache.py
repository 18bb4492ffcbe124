"""The timing cache: read before a build, written after it, so that the same tactics are chosen again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qdbev_deploy.engine.tensorrt.log import Log
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import atomic_output


def attach(config: Any, log: Log, path: Path) -> None:
    """Let the builder use what is in the file; a file that is not there yet begins an empty cache."""
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise QdbevError(f"the timing cache {path} cannot be read: {error}", "a file", "pass another path") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise log.failure(
            f"TensorRT rejected the timing cache {path} ({len(content):,} bytes)",
            "a cache of this TensorRT, this GPU and this driver",
            f"rm {path}, or pass another --timing-cache",
        )


def keep(config: Any, path: Path) -> int:
    """Write what the builder knows by now. Returns its size in bytes."""
    cache = config.get_timing_cache()
    content = bytes(cache.serialize())
    with atomic_output(path) as partial:
        partial.write_bytes(content)
    return len(content)
