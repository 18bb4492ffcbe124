"""Frames as network input, read and preprocessed ahead by worker processes, in order."""

from __future__ import annotations

import contextlib
import errno
import mmap
import multiprocessing
import os
import signal
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.contract import CAMERAS, PreprocessSpec
from qdbev_deploy.data.nuscenes import Frame
from qdbev_deploy.data.preprocess import load_frame
from qdbev_deploy.errors import ExitCode, QdbevError

Float = npt.NDArray[np.float32]

# One frame in work and one waiting: a worker never idles for the parent to wake up.
_TASKS_A_WORKER = 2


@dataclass(frozen=True)
class LoadedFrame:
    """A frame with its tensors."""

    frame: Frame
    image: npt.NDArray[Any]  # float32 [1, 6, 3, H, W], or uint8 [1, 6, height, width, 3]
    lidar2img: Float  # [1, 6, 4, 4]


class FrameLoader:
    """Iterates over frames in their order, `prefetch` of them ahead of the consumer.

    Workers live as long as an iteration: they are gone when it ends, breaks off or raises. An error in a worker, such
    as an image that cannot be decoded, is raised at the place of its frame.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        spec: PreprocessSpec,
        *,
        workers: int | None = None,
        prefetch: int | None = None,
        copy: bool = True,
        form: str = "float32",
    ) -> None:
        """`workers` None: one a core, at most four; 0: no processes. `prefetch` None: twice the workers.

        With `copy` False the image is lent: it is overwritten once the next frame has been asked for. `form` as
        `load_frame` has it.
        """
        if workers is not None and workers < 0:
            raise QdbevError(
                f"{workers} loader processes", "0 or more (0: frames are loaded in this process)", "pass workers=2"
            )
        self.frames = tuple(frames)
        self.spec = spec
        self.workers = min(len(os.sched_getaffinity(0)), 4) if workers is None else workers
        self.prefetch = max(prefetch if prefetch is not None else 2 * self.workers, 1)
        self.copy = copy
        self.form = form

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[LoadedFrame]:
        if self.workers == 0:
            return (LoadedFrame(frame, *load_frame(frame, self.spec, self.form)) for frame in self.frames)
        return self._prefetched()

    def _prefetched(self) -> Iterator[LoadedFrame]:
        shape, dtype = _image_of(self.spec, self.form)
        slot_bytes = int(np.prod(shape)) * dtype.itemsize
        slots = self.prefetch + 1  # the consumer holds one
        with contextlib.ExitStack() as stack:
            with _shared_file(slots * slot_bytes) as path:
                with path.open("r+b") as file:
                    memory = mmap.mmap(file.fileno(), 0)
                crew = stack.enter_context(_Crew(min(self.workers, len(self.frames)), path, self.spec, self.form))
                # From here on the file has no name: nothing is left of it however this process ends.
            # Not closed explicitly: arrays that were lent may still point into it.
            tensors = [np.frombuffer(memory, dtype, int(np.prod(shape)), slot * slot_bytes).reshape(shape)
                       for slot in range(slots)]  # fmt: skip
            free = deque(range(slots))
            submitted = 0
            ready: dict[int, tuple[int, Float | BaseException]] = {}
            for index, frame in enumerate(self.frames):
                while index not in ready:
                    while submitted < len(self.frames) and free and crew.has_room:
                        crew.send(submitted, free.popleft(), self.frames[submitted])
                        submitted += 1
                    for number, slot, outcome in crew.receive():
                        ready[number] = (slot, outcome)
                slot, outcome = ready.pop(index)
                if isinstance(outcome, BaseException):
                    raise outcome
                yield LoadedFrame(frame, tensors[slot].copy() if self.copy else tensors[slot], outcome)
                free.append(slot)


def _image_of(spec: PreprocessSpec, form: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of a frame's image."""
    if form == "uint8":
        return (1, len(CAMERAS), *spec.source_hw, 3), np.dtype(np.uint8)
    return (1, len(CAMERAS), 3, *spec.padded_hw), np.dtype(np.float32)


class _Crew:
    """Worker processes, each at the end of a pipe: one that dies is noticed, and nothing hangs on a lock it held."""

    def __init__(self, count: int, memory: Path, spec: PreprocessSpec, form: str) -> None:
        # Not forked from here: the caller may have threads, and a fork of a process with threads may hang.
        context = multiprocessing.get_context("forkserver")
        self._pipes: dict[Connection, BaseProcess] = {}
        self._load: dict[Connection, int] = {}
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, str(memory), spec, form), daemon=True)
            process.start()
            theirs.close()
            self._pipes[ours], self._load[ours] = process, 0
        try:
            for pipe in self._pipes:
                self._receive_one(pipe)  # it has mapped the memory
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in self._pipes.items():
            pipe.close()
            process.terminate()
        for process in self._pipes.values():
            process.join()

    @property
    def has_room(self) -> bool:
        return min(self._load.values()) < _TASKS_A_WORKER

    def send(self, index: int, slot: int, frame: Frame) -> None:
        pipe = min(self._load, key=self._load.__getitem__)
        try:
            pipe.send((index, slot, frame))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._death(pipe) from error
        self._load[pipe] += 1

    def receive(self) -> list[tuple[int, int, Float | BaseException]]:
        """At least one outcome: (index, slot, lidar2img or the error)."""
        results = []
        for pipe in wait(list(self._pipes)):
            assert isinstance(pipe, Connection)
            results.append(self._receive_one(pipe))
            self._load[pipe] -= 1
        return results

    def _receive_one(self, pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._death(pipe) from error

    def _death(self, pipe: Connection) -> QdbevError:
        process = self._pipes[pipe]
        process.join(1.0)
        return QdbevError(
            f"a loader process ended with exit code {process.exitcode}",
            "workers that live as long as the stream; one that was killed most often ran out of memory",
            'use fewer workers or a smaller prefetch; a script needs its `if __name__ == "__main__":` around this',
            exit_code=ExitCode.MISSING,
        )


@contextlib.contextmanager
def _shared_file(size: int) -> Iterator[Path]:
    """A file of that size, allocated, in memory where /dev/shm has the room: in a container it often has not."""
    for folder in ("/dev/shm", tempfile.gettempdir()):
        try:
            handle, name = tempfile.mkstemp(prefix=f"qdbev-loader-{os.getpid()}-", dir=folder)
        except OSError:
            continue
        path = Path(name)
        try:
            # Without this, a full file system would kill the worker that writes with SIGBUS.
            os.posix_fallocate(handle, 0, size)
            yield path
            return
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(handle)
            path.unlink(missing_ok=True)
    raise QdbevError(
        f"no room for {size / 2**20:.0f} MiB of prefetched frames in /dev/shm or {tempfile.gettempdir()}",
        "memory for the frames that are loaded ahead",
        "use a smaller prefetch, or start the container with --shm-size=1g",
        exit_code=ExitCode.MISSING,
    )


def _work(pipe: Connection, memory_path: str, spec: PreprocessSpec, form: str) -> None:
    # Ctrl-C reaches the whole group; the parent alone decides when work ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Path(memory_path).open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    shape, dtype = _image_of(spec, form)
    count = int(np.prod(shape))
    pipe.send(None)
    while True:
        try:
            index, slot, frame = pipe.recv()
        except (EOFError, OSError):
            return
        outcome: Float | BaseException
        try:
            image, outcome = load_frame(frame, spec, form)
            np.frombuffer(memory, dtype, count, slot * count * dtype.itemsize).reshape(shape)[...] = image
        except Exception as error:
            outcome = error
        try:
            pipe.send((index, slot, outcome))
        except OSError:
            return
