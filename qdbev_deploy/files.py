"""Outputs that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import signal
import threading
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
    replaced in two renames, so that a reader sees the old one, none, or the new one, never a mixture; of several that
    write the same name at once, the last one to finish has it.
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
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        yield partial
        if partial.is_dir():
            _rename_folder(partial, target)
        else:
            os.replace(partial, target)
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = os.fspath(target)  # a write that fails does not say where
        raise
    finally:
        _remove(partial)


_RENAME_ATTEMPTS = 100


def _rename_folder(partial: Path, target: Path) -> None:
    """Give the folder its name, in place of one that has it. Others may do the same: who loses tries again."""
    replaced = target.with_name(f"{partial.name.removesuffix('.partial')}.replaced")
    try:
        with _not_interrupted():
            for _ in range(_RENAME_ATTEMPTS):
                try:
                    os.rename(partial, target)
                    return
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                with contextlib.suppress(FileNotFoundError):  # somebody else has just moved it away
                    os.rename(target, replaced)
                try:
                    os.rename(partial, target)
                    return
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        if replaced.exists() and not target.exists():
                            os.rename(replaced, target)
                        raise
                _remove(replaced)  # it was replaced, if by somebody else
        raise QdbevError(f"{target} is written by others over and over", "a name that one program writes",
                         "choose another output")  # fmt: skip
    finally:
        _remove(replaced)


@contextlib.contextmanager
def _not_interrupted() -> Iterator[None]:
    """Signals that would break in between two renames wait until both are done.

    By handlers and not by a mask: a library's thread may take a signal that the main thread masks.
    """
    if threading.current_thread() is not threading.main_thread():  # where Python never raises KeyboardInterrupt
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not None  # None: set by other than Python, which could not be set again
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for came_in in came:
            signal.raise_signal(came_in)


def jsonable(value: Any) -> Any:
    """JSON has no NaN and no infinity: such a number is said in a word."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
