"""What the tests of engines and of the commands around them build and run: exports of one small student."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdbev_deploy.contract import NUSCENES_HW, VariantSpec
from qdbev_deploy.data.stream_frames import StreamFrame
from qdbev_deploy.engine import Bundle, build
from qdbev_deploy.export import ExportOptions, export_onnx
from tests.drive import frames
from tests.export.students import SHORT, student

# It takes frames of nuScenes' size, so that commands run it over a data set.
SPEC: VariantSpec = dataclasses.replace(
    SHORT, name="short", preprocess=dataclasses.replace(SHORT.preprocess, source_hw=NUSCENES_HW)
)


@dataclass(frozen=True)
class Students:
    """One student: its file, frames of two scenes for it, and its bundle on ONNX Runtime."""

    onnx: Path
    drive: tuple[StreamFrame, ...]
    bundle: Bundle


def make_students(folder: Path, *, verify: bool = True, count: int = 8, **options: Any) -> Students:
    """`options` are those of ExportOptions; `count` frames, and without `verify` no proof in the bundle."""
    model, recipe = student(SPEC)
    path = folder / "student.onnx"
    export_onnx(model, path, recipe=recipe, verify=False, **options)
    drive = tuple(frames(SPEC, ExportOptions(**options).image, count))
    bundle = build(path, folder / "student.qdbev", backend="onnxruntime", frames=drive, verify=verify)
    return Students(path, drive, bundle)
