"""Says before the work starts that its output cannot be written. Only trying tells: permission bits say little of
/proc, of read-only mounts, and to root."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from qdbev_deploy.errors import ExitCode, QdbevError


def _unwritable(out: Path, error: OSError, option: str = "--out") -> QdbevError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return QdbevError(
        f"{option} {out} cannot be written: {error.strerror or error}",
        "a place where files can be created",
        f"free some space, or pass another {option}" if full else f"pass another {option}",
        exit_code=ExitCode.MISSING if full else ExitCode.BAD_INPUT,
    )


def _try_to_write(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".qdbev-probe-"):
        pass


def check_output_file(out: Path, option: str = "--out") -> None:
    """Refuse an output that cannot become a file; one that exists will be replaced."""
    try:
        if out.is_dir():
            raise QdbevError(f"{option} {out} is a folder", "the name of a file", f"pass another {option}")
        if not out.parent.is_dir():
            raise QdbevError(
                f"the folder {out.parent} does not exist", f"an existing folder for {option}", f"mkdir -p {out.parent}"
            )
        _try_to_write(out.parent)
    except OSError as error:
        raise _unwritable(out, error, option) from None


@contextmanager
def output_folder(out: Path | None, files: Sequence[str]) -> Iterator[None]:
    """Make the folder `out`, with its parents, for `files`; None needs none.

    Where the work inside fails, the folders that were made are removed again, unless something was written into them.
    """
    if out is None:
        yield
        return
    absent: list[Path] = []
    try:
        try:
            if out.exists() and not out.is_dir():
                raise QdbevError(f"--out {out} is a file", "a folder, existing or not", "pass another --out")
            for name in files:
                if (out / name).is_dir():
                    raise QdbevError(
                        f"{out / name} is a folder", "a name that is free for a file", "pass another --out"
                    )
            absent = [folder for folder in (out, *out.parents) if not folder.exists()]
            out.mkdir(parents=True, exist_ok=True)
            _try_to_write(out)
        except OSError as error:
            raise _unwritable(out, error) from None
        yield
    except BaseException:
        for folder in absent:
            with suppress(OSError):
                folder.rmdir()
        raise
