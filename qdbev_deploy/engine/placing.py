"""Where a bundle may be written: under a free name, or in place of another bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from qdbev_deploy.engine.documents import SUFFIX
from qdbev_deploy.engine.verification import is_bundle
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.files import atomic_output


def require_replaceable(out: Path) -> None:
    """A build may take a free name or replace a bundle; whatever else has the name is somebody's."""
    if out.suffix != SUFFIX:
        raise QdbevError(f"-o {out}", f"a name that ends with {SUFFIX}", f"pass -o {out.with_suffix(SUFFIX)}",
                         exit_code=ExitCode.USAGE)  # fmt: skip
    if out.is_symlink() or (out.exists() and not is_bundle(out)):
        raise QdbevError(
            f"{out} is there and is no bundle",
            "a free name, or a bundle that is replaced",
            f"choose another name with -o, or remove {out} yourself",
        )


@contextlib.contextmanager
def bundle_folder(out: Path) -> Iterator[Path]:
    """A new folder to build in, which takes the name `out` on success."""
    require_replaceable(out)
    with atomic_output(out) as folder:
        folder.mkdir()
        yield folder
        require_replaceable(out)  # somebody else may have taken the name meanwhile
