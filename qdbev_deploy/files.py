"""Outputs that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qdbev_deploy.errors import QdbevError


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_output(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a fresh sibling of `path` to write a file or a folder into; it takes the name `path` on success.

    On any exception, Ctrl-C included, the sibling is removed and what stood at `path` is untouched. A folder is
    replaced in two renames, so that a reader sees the old one, none, or the new one, never a mixture.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise QdbevError(f"{target} exists already", "a name that is free", "choose another output or pass --overwrite")
    if not target.parent.is_dir():
        raise QdbevError(
            f"the folder {target.parent} does not exist",
            "an existing folder for the output",
            f"mkdir -p {target.parent}",
        )
    unique = uuid.uuid4().hex[:12]
    partial = target.with_name(f".{target.name}.{unique}.partial")
    try:
        yield partial
        if partial.is_dir() and target.is_dir():
            replaced = target.with_name(f".{target.name}.{unique}.replaced")
            os.rename(target, replaced)
            try:
                os.rename(partial, target)
            except BaseException:
                os.rename(replaced, target)
                raise
            _remove(replaced)
        else:
            os.replace(partial, target)
    finally:
        _remove(partial)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
