"""Where a file and its report go: said before minutes of work, and never onto what is read."""

from __future__ import annotations

import os
from pathlib import Path

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.outputs import check_output_file


def report_path(path: str | os.PathLike[str]) -> Path:
    """Where the report of a file lies: beside it."""
    return Path(path).with_suffix(".export.json")


def check_destination(path: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None) -> None:
    """Refuse a name that is not an ONNX file's, that cannot be written, or that is the checkpoint's, links followed."""
    if Path(path).suffix != ".onnx":
        raise QdbevError(
            f"the output {path} does not end in .onnx", "the name of an ONNX file", "pass -o NAME.onnx"
        )  # fmt: skip
    for output in (Path(path), report_path(path)):
        if checkpoint is not None and output.exists() and Path(checkpoint).exists() and output.samefile(checkpoint):
            raise QdbevError(
                f"the output {output} is the checkpoint {checkpoint} itself",
                "another file for the output, as the checkpoint would be lost",
                "pass another -o",
            )
        check_output_file(output, "-o")
