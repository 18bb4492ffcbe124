"""Writes a synthetic data set: several processes draw, one keeps the books, and the folder appears when it is whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np

from qdbev_deploy.contract import CAMERAS
from qdbev_deploy.data.synth.camera import take_picture
from qdbev_deploy.data.synth.ground import Ground, map_mask, paint_ground
from qdbev_deploy.data.synth.lidar import scan
from qdbev_deploy.data.synth.records import LIDAR, Clerk, SceneFacts, Shot, can_bus_messages, shots_of
from qdbev_deploy.data.synth.scene import find_attempt
from qdbev_deploy.data.synth.things import ego_pose, things_at
from qdbev_deploy.data.synth.world import World, make_world
from qdbev_deploy.data.tables import SYNTH_VERSIONS, TABLES
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.files import atomic_output

JPEG_QUALITY = 50
MARKER = "synth.json"  # at the root of what this module wrote: how, and that it may be overwritten
_TOOL = "qdbev-deploy data synth"
_SHOTS_PER_TASK = 2
_SWEEP_COLUMN_STEP = 6  # between key frames the LiDAR's files are thinner still: nothing is counted on them

Sweeps = Literal["val", "all", "none"]
_In = TypeVar("_In")
_Out = TypeVar("_Out")
Progress = Callable[[int, int], None]  # images written, images in all


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a data set contains."""

    version: str
    seed: int
    key_frames: int
    names: tuple[str, ...]  # of the scenes
    sweeps: tuple[bool, ...]  # whether a scene has them


@dataclass(frozen=True)
class Summary:
    """What was written."""

    path: Path
    version: str
    scenes: tuple[str, ...]
    key_frames: int
    images: int
    annotations: int
    bytes: int


def scene_names(version: str, count: int) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Names from the official splits, and which of them belong to validation: one in five, the second one first."""
    from nuscenes.utils.splits import create_splits_scenes

    if version not in SYNTH_VERSIONS:
        raise QdbevError(
            f"version '{version}'",
            f"{' or '.join(SYNTH_VERSIONS)}: the scenes take their names from its splits",
            f"pass --version {SYNTH_VERSIONS[0]}",
        )
    splits = create_splits_scenes()
    mini = version == "v1.0-mini"
    train, val = (list(splits[name]) for name in (("mini_train", "mini_val") if mini else ("train", "val")))
    if not 1 <= count <= len(train) + len(val):
        fewer = "pass fewer --scenes" + (", or --version v1.0-trainval" if mini else "")
        raise QdbevError(
            f"{count} scenes of {version}",
            f"1 to {len(train) + len(val)}, the names its official splits have",
            "pass --scenes 1 or more" if count < 1 else fewer,
        )
    order: list[tuple[str, bool]] = []
    while len(order) < count:
        from_val = bool(val) and (len(order) % 5 == 1 or not train)
        order.append(((val if from_val else train).pop(0), from_val))
    return tuple(name for name, _ in order), tuple(is_val for _, is_val in order)


def synthesise(
    out: str | os.PathLike[str],
    *,
    scenes: int = 10,
    frames: int = 20,
    version: str = "v1.0-mini",
    seed: int = 0,
    sweeps: Sweeps = "val",
    can_bus: bool = True,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Write a data set of `scenes` scenes with `frames` key frames each into the folder `out`.

    `sweeps`: which scenes have the frames between key frames, at 12 Hz: those of the validation split, on which
    streaming is measured, all, or none. `workers` None: as many as there are cores. The same arguments give the same
    bytes, whatever the number of workers.
    """
    if not 2 <= frames <= 80:
        raise QdbevError(f"{frames} key frames a scene", "2 to 80 (a second to 40 seconds)", "pass another --frames")
    if seed < 0:
        raise QdbevError(f"seed {seed}", "a whole number, 0 or more", "pass another --seed")
    if workers is not None and workers < 1:
        raise QdbevError(f"{workers} processes that draw", "1 or more", "pass --workers 1, or leave it out")
    names, is_val = scene_names(version, scenes)
    plan = Plan(version, seed, frames, names, tuple(sweeps == "all" or (sweeps == "val" and val) for val in is_val))
    count = workers or len(os.sched_getaffinity(0))
    if overwrite:
        _refuse_foreign(Path(out))
    with atomic_output(out, overwrite=overwrite) as root:
        summary = _write(plan, root, Path(out), can_bus, count, progress)
        if overwrite:
            _refuse_foreign(Path(out))  # again: drawing took its time, and somebody may have put something there
        return summary


# Every file that a data set of this module consists of. What is not among them is somebody else's.
_OWN_FILES = re.compile(
    rf"{re.escape(MARKER)}"
    rf"|(samples|sweeps)/({'|'.join((*CAMERAS, LIDAR))})/synth-\d+-\d+__\w+__\d+\.(jpg|pcd\.bin)"
    rf"|maps/[0-9a-f]{{32}}\.png"
    rf"|can_bus/scene-\d+_pose\.json"
    rf"|({'|'.join(map(re.escape, SYNTH_VERSIONS))})/({'|'.join(TABLES)})\.json"
)
_OWN_FOLDERS = re.compile(rf"(samples|sweeps)(/({'|'.join((*CAMERAS, LIDAR))}))?|maps|can_bus|v1\.0-\w+")


def _refuse_foreign(out: Path) -> None:
    """Overwriting deletes the whole folder, so nothing may be in it that was not written here."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = json.loads((out / MARKER).read_text(encoding="utf-8"))["tool"]
    except (OSError, ValueError, LookupError, TypeError):
        found = None
    if found != _TOOL:
        raise QdbevError(
            f"{out} exists and was not written by {_TOOL}: it has no {MARKER} that says so",
            "a synthetic data set, an empty folder or nothing at the place that is overwritten",
            "choose another --out, or remove it yourself",
        )
    for path in sorted(out.rglob("*")):
        pattern = _OWN_FOLDERS if path.is_dir() and not path.is_symlink() else _OWN_FILES
        if not pattern.fullmatch(path.relative_to(out).as_posix()):
            raise QdbevError(
                f"{path} is no part of the synthetic data set in {out}",
                "nothing else in a folder that is overwritten, since all of it is deleted",
                "move it elsewhere, or choose another --out",
            )


def _write(plan: Plan, root: Path, final: Path, can_bus: bool, workers: int, progress: Progress | None) -> Summary:
    for folder in ("samples", "sweeps"):
        for channel in (*CAMERAS, LIDAR):
            (root / folder / channel).mkdir(parents=True)
    for folder in ("maps", plan.version, *(["can_bus"] if can_bus else [])):
        (root / folder).mkdir()

    shots = [shots_of(plan.key_frames, sweeps) for sweeps in plan.sweeps]
    searches = [_Search(scene, plan.key_frames, plan.seed) for scene in range(len(plan.names))]
    total = sum(map(len, shots)) * len(CAMERAS)
    facts = [SceneFacts() for _ in plan.names]
    done = 0
    with _crew(workers) as pool:
        attempts = dict(_run(pool, _search, searches, workers))
        tasks = [
            _Task(plan, scene, attempts[scene], tuple(scene_shots[start : start + _SHOTS_PER_TASK]), str(root))
            for scene, scene_shots in enumerate(shots)
            for start in range(0, len(scene_shots), _SHOTS_PER_TASK)
        ]
        for result in _run(pool, _draw, tasks, workers):
            facts[result.scene].visible.update(result.visible)
            facts[result.scene].points.update(result.points)
            done += result.images
            if progress:
                progress(done, total)

    clerk = Clerk(plan.version, plan.seed)
    for scene, name in enumerate(plan.names):
        world = make_world(scene, plan.key_frames, plan.seed, attempts[scene])
        clerk.add_scene(scene, name, world, shots[scene], facts[scene])
        cv2.imwrite(str(root / clerk.map_name(scene)), map_mask(world))
        if can_bus:
            messages = can_bus_messages(world, plan.key_frames, clerk.start_us(scene))
            _dump(root / "can_bus" / f"{name}_pose.json", messages)
    for table, records in clerk.tables.items():
        _dump(root / plan.version / f"{table}.json", records)
    how = {"tool": _TOOL, "version": plan.version, "seed": plan.seed, "scenes": plan.names,
           "key_frames": plan.key_frames, "scenes_with_sweeps": sum(plan.sweeps), "can_bus": can_bus}  # fmt: skip
    _dump(root / MARKER, how)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    return Summary(
        final, plan.version, plan.names, plan.key_frames, total, len(clerk.tables["sample_annotation"]), size
    )


def _dump(path: Path, records: object) -> None:
    path.write_text(json.dumps(records, separators=(",", ":"), allow_nan=False), encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------------------
# The processes that draw


@dataclass(frozen=True)
class _Search:
    scene: int
    key_frames: int
    seed: int


@dataclass(frozen=True)
class _Task:
    plan: Plan
    scene: int
    attempt: int
    shots: tuple[Shot, ...]
    root: str


@dataclass(frozen=True)
class _Result:
    scene: int
    images: int
    visible: dict[int, dict[int, float]]
    points: dict[int, dict[int, int]]


@contextmanager
def _crew(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes to work in, or None for this one. When the block is left, none of them writes any more."""
    if workers <= 1:
        yield None
        return
    # Not forked from here: the caller may have threads, and a fork of a process with threads may hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"), _start_worker) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise QdbevError(
                "a process that draws images ended early",
                "about 500 MB of memory for each of them",
                'pass fewer --workers; a script needs its `if __name__ == "__main__":` around this',
                exit_code=ExitCode.MISSING,
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _run(
    pool: ProcessPoolExecutor | None, work: Callable[[_In], _Out], tasks: list[_In], workers: int
) -> Iterator[_Out]:
    """Results as they come. Few tasks are handed over at a time, so that little is left to wait for on Ctrl-C."""
    if pool is None:
        yield from map(work, tasks)
        return
    waiting = iter(tasks)
    running: set[Future[_Out]] = set()
    while True:
        while len(running) < 2 * workers and (task := next(waiting, None)) is not None:
            running.add(pool.submit(work, task))
        if not running:
            return
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            yield future.result()


def _start_worker() -> None:
    # Ctrl-C reaches the whole group; the parent alone decides what becomes of the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    """A parent that was killed hands out no more work, and nobody else would ever end this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@lru_cache(maxsize=2)
def _scenery(scene: int, key_frames: int, seed: int, attempt: int) -> tuple[World, Ground]:
    world = make_world(scene, key_frames, seed, attempt)
    return world, paint_ground(world)


def _search(task: _Search) -> tuple[int, int]:
    return task.scene, find_attempt(task.scene, task.key_frames, task.seed)


def _draw(task: _Task) -> _Result:
    world, ground = _scenery(task.scene, task.plan.key_frames, task.plan.seed, task.attempt)
    clerk = Clerk(task.plan.version, task.plan.seed)
    visible: dict[int, dict[int, float]] = {}
    points: dict[int, dict[int, int]] = {}
    for shot in task.shots:
        shares: dict[int, list[float]] = {}
        for camera in world.rig.cameras:
            time_s = (shot.lidar_us + camera.delay_us) / 1e6
            picture = take_picture(world, ground, camera, time_s, shot.is_key)
            for actor, (seen, whole) in picture.visible.items():
                totals = shares.setdefault(actor, [0.0, 0.0])
                totals[0] += seen
                totals[1] += whole
            path = Path(task.root) / clerk.file_name(task.scene, shot, camera.name, camera.delay_us)
            path.write_bytes(encode_jpeg(picture.image))
        lidar2global = ego_pose(world, shot.lidar_us / 1e6) @ world.rig.lidar2ego
        sweep = scan(things_at(world, shot.lidar_us / 1e6), lidar2global, 1 if shot.is_key else _SWEEP_COLUMN_STEP)
        sweep.points.tofile(Path(task.root) / clerk.file_name(task.scene, shot, LIDAR, 0))
        if shot.is_key:
            visible[shot.key] = {actor: seen / whole for actor, (seen, whole) in shares.items()}
            points[shot.key] = sweep.counts
    return _Result(task.scene, len(task.shots) * len(CAMERAS), visible, points)


def encode_jpeg(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert ok
    return data.tobytes()
