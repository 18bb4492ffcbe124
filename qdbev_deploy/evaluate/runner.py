"""Streams scenes through a model, frame by frame as in the car, and collects its boxes as a submission."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from qdbev_deploy.boxes import decode
from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.data.loader import FrameLoader
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.submission import Results, boxes_to_records
from qdbev_deploy.streaming import EgoState

if TYPE_CHECKING:
    from qdbev_deploy.data.nuscenes import Scene

Float = npt.NDArray[np.float32]


class StepOutput(Protocol):
    """What a step must give: logits and box codes, as `boxes.decode` takes them."""

    @property
    def classes(self) -> Any: ...

    @property
    def coords(self) -> Any: ...


# (images, lidar2img, ego, scene) -> output: `StreamingSession.step`, of whatever backend.
SessionStep = Callable[[Any, Float, EgoState, str], StepOutput]


@dataclass(frozen=True)
class StreamModel:
    """Something that can be run over scenes: its sizes, its streaming step, the form of image that it takes.

    A context manager: what holds an engine lets go of it at the end.
    """

    spec: VariantSpec
    step: SessionStep
    image: str = "float32"
    close: Callable[[], object] = lambda: None

    def __enter__(self) -> StreamModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_model_path(path: Path) -> None:
    """What can be said of a model before anything large is read: it is there, and it is no results file."""
    if not path.exists():
        raise QdbevError(
            f"there is no {path}", "a results file (.json), a checkpoint file or a bundle folder", "check the path"
        )
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        if start.startswith((b"{", b"[")):
            raise QdbevError(
                f"{path} holds JSON text and no checkpoint",
                "a name that ends with .json for a results file",
                f"mv {path} {path.with_suffix('.json')}",
            )


def open_model(path: Path) -> StreamModel:
    """The model behind a path: a bundle (a folder NAME.qdbev) or a checkpoint (a file)."""
    check_model_path(path)
    return _open_bundle(path) if path.is_dir() else _open_checkpoint(path)


def _open_checkpoint(path: Path) -> StreamModel:
    from qdbev_deploy.quant import load_model

    model, _ = load_model(path)
    return StreamModel(model.spec, model.session().step)


def _open_bundle(path: Path) -> StreamModel:
    from qdbev_deploy.engine import Bundle

    bundle = Bundle.open(path)
    session = bundle.session()
    return StreamModel(bundle.spec, session.step, bundle.image, session.close)


def detect_scenes(
    step: SessionStep, spec: VariantSpec, scenes: Sequence[Scene], *, workers: int | None = None,
    on_frame: Callable[[], object] = lambda: None, image: str = "float32",
) -> Results:  # fmt: skip
    """Boxes of every frame of the scenes, in the order of time.

    `workers` processes load ahead, as `FrameLoader` has it: None is its default, 0 loads here. `on_frame` is called
    after each frame, for progress bars. `image` is the form that the step takes, as in `contract.stream_inputs`.
    """
    frames = [frame for scene in scenes for frame in scene.frames]
    results: Results = {}
    # Images are lent, not copied: the step is through with one before the next is asked for.
    for loaded in FrameLoader(frames, spec.preprocess, workers=workers, copy=False, form=image):
        frame = loaded.frame
        output = step(loaded.image, loaded.lidar2img, frame.ego, frame.scene)
        boxes = decode(np.asarray(output.classes), np.asarray(output.coords), spec)
        results[frame.token] = boxes_to_records(boxes, frame)
        on_frame()
    return results
