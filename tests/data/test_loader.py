"""The prefetching loader: same numbers as without it, in order, and an end without leftovers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.data import loader as loader_module
from qdbev_deploy.data.loader import FrameLoader
from qdbev_deploy.data.nuscenes import Frame, NuScenesSequences
from qdbev_deploy.data.preprocess import load_frame
from qdbev_deploy.errors import ExitCode, QdbevError

pytest.importorskip("nuscenes")
SPEC = VARIANTS["micro"].preprocess


@pytest.fixture(scope="module")
def frames(synthetic_dataroot: Path) -> tuple[Frame, ...]:
    (scene,) = NuScenesSequences(synthetic_dataroot).scenes("mini_val", key_frames_only=False)
    return scene.frames


def leftovers() -> list[str]:
    shm = Path("/dev/shm")
    files = [path.name for path in shm.glob(f"qdbev-loader-{os.getpid()}-*")] if shm.is_dir() else []
    return files + [process.name for process in multiprocessing.active_children()]


@pytest.mark.parametrize("copy", [True, False])
def test_same_tensors_in_order(frames: tuple[Frame, ...], copy: bool) -> None:
    seen = 0
    kept = []
    for loaded, frame in zip(FrameLoader(frames[:8], SPEC, workers=2, prefetch=3, copy=copy), frames[:8], strict=True):
        assert loaded.frame.token == frame.token
        image, lidar2img = load_frame(frame, SPEC)
        np.testing.assert_array_equal(loaded.image, image)
        np.testing.assert_array_equal(loaded.lidar2img, lidar2img)
        kept.append(loaded.image)
        seen += 1
    assert seen == 8
    if copy:  # what was handed out stays what it was, although its place was used again
        np.testing.assert_array_equal(kept[0], load_frame(frames[0], SPEC)[0])
    assert not leftovers()


def test_without_processes(frames: tuple[Frame, ...]) -> None:
    loaded = list(FrameLoader(frames[:2], SPEC, workers=0))
    np.testing.assert_array_equal(loaded[1].image, load_frame(frames[1], SPEC)[0])
    assert list(FrameLoader((), SPEC, workers=0)) == []


def test_fewer_than_no_processes(frames: tuple[Frame, ...]) -> None:
    with pytest.raises(QdbevError, match="-1 loader processes"):
        FrameLoader(frames, SPEC, workers=-1)


def test_no_frames() -> None:
    assert list(FrameLoader((), SPEC, workers=2)) == []
    assert not leftovers()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_at_its_frame_and_names_the_file(
    frames: tuple[Frame, ...], workers: int, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(frames[3].image_paths[2].read_bytes()[:3000])
    paths = list(frames[3].image_paths)
    paths[2] = broken
    stream = [*frames[:3], replace(frames[3], image_paths=tuple(paths)), *frames[4:8]]
    got = []
    with pytest.raises(QdbevError, match=r"broken\.jpg \(3000 bytes\) cannot be decoded"):
        for loaded in FrameLoader(stream, SPEC, workers=workers):
            got.append(loaded.frame.token)
    assert got == [frame.token for frame in frames[:3]]
    assert not leftovers()


def test_breaking_off_leaves_nothing(frames: tuple[Frame, ...]) -> None:
    stream = iter(FrameLoader(frames, SPEC, workers=2))
    next(stream)
    assert multiprocessing.active_children()
    stream.close()  # type: ignore[attr-defined]
    assert not leftovers()


def test_a_killed_worker_is_noticed(frames: tuple[Frame, ...]) -> None:
    stream = iter(FrameLoader(frames, SPEC, workers=2, prefetch=2))
    next(stream)
    for process in multiprocessing.active_children():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(QdbevError, match="a loader process ended with exit code -9") as caught:
        for _ in stream:
            pass
    assert caught.value.exit_code == ExitCode.MISSING
    assert not leftovers()


def test_prefetch_is_bounded(frames: tuple[Frame, ...]) -> None:
    """A consumer that stops asking does not fill the memory: no more is loaded than was agreed."""
    loader = FrameLoader(frames, SPEC, workers=2, prefetch=3)
    stream = iter(loader)
    next(stream)
    time.sleep(0.3)
    generator_frame = stream.gi_frame  # type: ignore[attr-defined]
    assert generator_frame.f_locals["submitted"] <= 1 + 3
    stream.close()  # type: ignore[attr-defined]


def test_iterates_from_a_thread(frames: tuple[Frame, ...]) -> None:
    """A stream is often fed by a thread; workers must not be forked from a process that has some."""
    tokens: list[str] = []
    thread = threading.Thread(
        target=lambda: tokens.extend(x.frame.token for x in FrameLoader(frames[:4], SPEC, workers=2))
    )
    thread.start()
    thread.join(60)
    assert tokens == [frame.token for frame in frames[:4]]


def test_no_room_for_the_shared_memory(frames: tuple[Frame, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loader_module.os, "posix_fallocate", full)
    with pytest.raises(QdbevError, match=r"no room for .* MiB of prefetched frames"):
        next(iter(FrameLoader(frames, SPEC, workers=1)))
    assert not leftovers()
