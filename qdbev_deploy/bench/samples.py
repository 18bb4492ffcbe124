"""The sample library: frames in memory before the first is timed; a real drive, a drawn one, or noise on request."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from qdbev_deploy.contract import CAMERAS, VariantSpec
from qdbev_deploy.data.stream_frames import StreamFrame, native_images, stream_frame, with_images
from qdbev_deploy.errors import ExitCode, QdbevError, listed
from qdbev_deploy.files import atomic_output
from qdbev_deploy.streaming import EgoState

if TYPE_CHECKING:
    from qdbev_deploy.data.nuscenes import Frame

Kind = Literal["sequence", "random"]
DRAWN_FRAMES = 12  # of a synthetic drive: two scenes of six
READ_FRAMES = 40  # of a data root at most, unless asked for more: a scene of nuScenes
_SHARE_OF_MEMORY = 0.25


@dataclass(frozen=True)
class SampleRequest:
    """Which frames, and in which form they lie in memory."""

    kind: Kind = "sequence"
    dataroot: str | None = None  # None: a synthetic drive is drawn
    scene: str | None = None
    count: int | None = None  # distinct frames; None: DRAWN_FRAMES or READ_FRAMES
    native: bool = False  # camera frames as they come, preprocessed when they are run
    seed: int = 0


@dataclass(frozen=True)
class Samples:
    """Frames in the order of a drive."""

    kind: Kind
    source: str  # what they are, in words
    frames: tuple[StreamFrame, ...]
    native: bool


def frame_bytes(spec: VariantSpec, image_form: str, native: bool) -> int:
    pixels = spec.preprocess.source_hw if native or image_form == "uint8" else spec.image_hw
    return len(CAMERAS) * 3 * pixels[0] * pixels[1] * (1 if native or image_form == "uint8" else 4)


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    try:
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None


def frames_that_fit(wanted: int, spec: VariantSpec, image_form: str, native: bool) -> int:
    """At most a quarter of the memory that is free goes to frames."""
    free = available_memory_bytes()
    if free is None:
        return wanted
    return max(min(wanted, int(free * _SHARE_OF_MEMORY) // frame_bytes(spec, image_form, native)), 1)


def make_samples(request: SampleRequest, spec: VariantSpec, image_form: str) -> Samples:
    """The frames, in this process."""
    if request.native and image_form == "uint8":
        raise QdbevError(
            "--with-preprocess and a bundle whose graph takes native camera frames",
            "a bundle that takes normalised images: in this one preprocessing is part of the network",
            "leave --with-preprocess out",
            exit_code=ExitCode.USAGE,
        )
    default = READ_FRAMES if request.dataroot else DRAWN_FRAMES
    count = frames_that_fit(default if request.count is None else request.count, spec, image_form, request.native)
    if request.kind == "random":
        return _random(request, spec, image_form, count)
    if request.dataroot is not None:
        source, frames = _read(Path(request.dataroot), request, spec, image_form, count)
        return Samples("sequence", source, tuple(frames), request.native)
    from qdbev_deploy.data.synth.write import synthesise

    with tempfile.TemporaryDirectory(prefix="qdbev-bench-") as folder:
        root = Path(folder) / "synthetic"
        synthesise(
            root, scenes=2, frames=max((count + 1) // 2, 2), sweeps="none", workers=1, seed=request.seed
        )  # fmt: skip
        _, frames = _read(root, request, spec, image_form, count, drawn=True)
    return Samples("sequence", f"synthetic drive of {len(frames)} frames", tuple(frames), request.native)


def _read(
    root: Path, request: SampleRequest, spec: VariantSpec, image_form: str, count: int, drawn: bool = False
) -> tuple[str, list[StreamFrame]]:
    from qdbev_deploy.data.nuscenes import NuScenesSequences

    sequences = NuScenesSequences(root)
    scenes = sequences.scenes(request.scene)
    chosen = [frame for scene in scenes for frame in scene.frames]
    if drawn:  # half of each scene, so that the state is dropped once on the way
        half = (count + 1) // 2
        chosen = [*scenes[0].frames[:half], *scenes[1].frames[: count - half]]
    chosen = chosen[:count]
    if not chosen:
        raise QdbevError(f"{root} holds no key frames", "a drive", f"qdbev-deploy data info {root}")
    take = _drawn_frame if drawn else stream_frame
    form = "uint8" if request.native else image_form
    frames = [take(frame, spec, form) for frame in chosen]
    names = listed(list(dict.fromkeys(frame.scene for frame in chosen)), 3)
    return f"{len(frames)} key frames of {root.name} ({sequences.version}): {names}", frames


def _drawn_frame(frame: Frame, spec: VariantSpec, image_form: str) -> StreamFrame:
    """A frame of a synthetic drive, for a camera of another size than nuScenes' where the variant has one."""
    height, width = spec.preprocess.source_hw
    images = _resized(native_images(frame), (height, width))
    return with_images(
        frame, images, np.diag([width / 1600, height / 900, 1.0, 1.0]) @ frame.lidar2img, spec, image_form
    )


def _resized(images: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if images.shape[1:3] == size_hw:
        return images
    import cv2

    resized = [cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA) for image in images]
    stacked: npt.NDArray[np.uint8] = np.stack(resized).astype(np.uint8)
    return stacked


def _random(request: SampleRequest, spec: VariantSpec, image_form: str, count: int) -> Samples:
    """Noise for every input, on a straight road: what it costs says little of what a drive costs."""
    rng = np.random.default_rng(request.seed)
    native = request.native or image_form == "uint8"
    frames = []
    for index in range(count):
        image: npt.NDArray[Any]
        if native:
            image = rng.integers(0, 256, (1, len(CAMERAS), *spec.preprocess.source_hw, 3), dtype=np.uint8)
        else:
            image = rng.standard_normal((1, len(CAMERAS), 3, *spec.image_hw), dtype=np.float32)
        lidar2img = rng.standard_normal((1, len(CAMERAS), 4, 4), dtype=np.float32)
        ego = EgoState(1_000_000 + 500_000 * index, (5.0 * index, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
        frames.append(StreamFrame(image, lidar2img, ego, "random"))
    return Samples("random", f"random inputs, {count} of them: gather cost is not that of a drive", tuple(frames),
                   request.native)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------
# From process to process: drawing and reading leave their memory behind, so that another process does it


def save(samples: Samples, folder: Path) -> None:
    """Write frames for `load`."""
    np.save(folder / "images.npy", np.stack([frame.image for frame in samples.frames]))
    np.save(folder / "lidar2img.npy", np.stack([frame.lidar2img for frame in samples.frames]))
    frames = [{"scene": frame.scene, "ego": vars(frame.ego)} for frame in samples.frames]
    document = {"kind": samples.kind, "source": samples.source, "native": samples.native, "frames": frames}
    (folder / "frames.json").write_text(json.dumps(document), encoding="utf-8")


def load(folder: Path) -> Samples:
    """What `save` wrote; the arrays are in memory, not mapped."""
    document = json.loads((folder / "frames.json").read_text(encoding="utf-8"))
    images, lidar2img = np.load(folder / "images.npy"), np.load(folder / "lidar2img.npy")
    frames = tuple(
        StreamFrame(images[index], lidar2img[index], _ego(record["ego"]), record["scene"])
        for index, record in enumerate(document["frames"])
    )
    return Samples(document["kind"], document["source"], frames, document["native"])


def read_samples(folder: Path, spec: VariantSpec, image_form: str) -> Samples:
    """Frames that --save-samples wrote, here or elsewhere, if they fit the bundle."""
    try:
        samples = load(folder)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise QdbevError(
            f"{folder} holds no frames that can be read ({type(error).__name__}: {error})",
            "a folder that --save-samples wrote",
            "qdbev-deploy bench BUNDLE --save-samples DIR",
        ) from error
    native = samples.native or image_form == "uint8"
    images = (len(CAMERAS), *spec.preprocess.source_hw, 3) if native else (len(CAMERAS), 3, *spec.image_hw)
    wanted = ((1, *images), "uint8" if native else "float32")
    for frame in samples.frames:
        found = (frame.image.shape, str(frame.image.dtype))
        if found != wanted or frame.lidar2img.shape != (1, len(CAMERAS), 4, 4):
            raise QdbevError(
                f"frames of {found[1]} {found[0]} in {folder}",
                f"{wanted[1]} {wanted[0]}, which this bundle takes",
                "write them with --save-samples from a bundle of the same variant and image input",
            )
    if not samples.frames or samples.kind not in ("sequence", "random"):
        raise QdbevError(f"{folder} holds no frames", "at least one", "qdbev-deploy bench BUNDLE --save-samples DIR")
    return samples


def keep_samples(made: Path, out: Path) -> None:
    """Copy what `save` wrote to a name of the user's."""
    with atomic_output(out, overwrite=False) as partial:
        shutil.copytree(made, partial)


def _ego(record: dict[str, Any]) -> EgoState:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    return EgoState(**values)
