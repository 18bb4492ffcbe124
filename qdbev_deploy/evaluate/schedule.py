"""Which frames a processor of finite speed takes from a stream, and whose output counts at which moment."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdbev_deploy.errors import QdbevError

_LONGEST_MS = 1e9  # eleven days; comparing refuses NaN, infinity, and integers that no float holds


def is_latency(value: Any) -> bool:
    """Whether that is a time in milliseconds that a frame can take."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LONGEST_MS


@dataclass(frozen=True)
class Latency:
    """Time from taking a frame to its boxes: the k-th processed frame takes `milliseconds[k % n]`."""

    milliseconds: tuple[float, ...]
    source: str
    unstable: tuple[str, ...] = ()  # why the benchmark calls its own run unstable
    bundle: str | None = None  # sha256 of the manifest of the bundle that was measured

    def __post_init__(self) -> None:
        if not self.milliseconds:
            raise QdbevError(f"no latency ({self.source})", "at least one", "pass --latency-ms X")
        for value in self.milliseconds:
            if not is_latency(value):
                raise QdbevError(
                    f"a latency of {value} ms ({self.source})",
                    "finite latencies, 0 ms or more",
                    "pass --latency-ms with such a number",
                )

    @classmethod
    def constant(cls, milliseconds: float) -> Latency:
        return cls((milliseconds,), f"constant {milliseconds:g} ms")

    @classmethod
    def from_bench(cls, path: str | os.PathLike[str]) -> Latency:
        """The end-to-end samples of a benchmark, in the order in which they were measured, over and over."""
        path = Path(path)
        needed = "JSON with the list latency_ms.samples: milliseconds of each frame in the order measured"
        again = "qdbev-deploy bench BUNDLE -o BENCH.json writes one; or pass --latency-ms X"
        try:
            document: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise QdbevError(f"there is no file {path}", needed, again) from None
        except (OSError, ValueError) as error:
            raise QdbevError(f"{path} cannot be read as JSON: {error}", needed, again) from None
        section = document.get("latency_ms") if isinstance(document, dict) else None
        samples = section.get("samples") if isinstance(section, dict) else None
        if not isinstance(samples, list) or not samples:
            raise QdbevError(f"{path} has no list of numbers latency_ms.samples", needed, again)
        for index, value in enumerate(samples):
            if not is_latency(value):
                said = json.dumps(value)
                raise QdbevError(
                    f"{path}: latency_ms.samples[{index}] is {said if len(said) <= 40 else said[:40] + '...'}",
                    "finite numbers, 0 ms or more",
                    again,
                )
        said = f"{len(samples)} samples of {path.name}"
        unstable = _why_unstable(document.get("stability"))
        return cls(tuple(map(float, samples)), f"{said}, an unstable run" if unstable else said, unstable,
                   _manifest_of(document.get("bundle")))  # fmt: skip

    def cycle_us(self) -> Iterator[int]:
        """Microseconds, the unit of nuScenes' clock, for one processed frame after the other."""
        return itertools.cycle(round(value * 1000) for value in self.milliseconds)


def _why_unstable(stability: Any) -> tuple[str, ...]:
    """The reasons that a benchmark gives; a file of one's own measurements speaks of no stability."""
    if not isinstance(stability, dict) or stability.get("stable") is not False:
        return ()
    reasons = stability.get("reasons")
    return tuple(map(str, reasons)) if isinstance(reasons, list) and reasons else ("the benchmark does not say why",)


def _manifest_of(bundle: Any) -> str | None:
    found = bundle.get("manifest_sha256") if isinstance(bundle, dict) else None
    return found if isinstance(found, str) else None


@dataclass(frozen=True)
class Schedule:
    """What became of the frames of one scene."""

    shown: tuple[int | None, ...]  # per frame: whose output is the latest that is ready when this frame arrives
    dropped: tuple[int, ...]  # frames that a newer one replaced before they were looked at


def simulate(arrivals_us: Sequence[int], latencies_us: Iterator[int]) -> Schedule:
    """Run frames that arrive at `arrivals_us` (rising) through one processor that takes one frame at a time.

    A frame that finds the processor idle is taken at once. Otherwise it waits in a place for one, from which the next
    frame ousts it. When the processor becomes free it takes what waits; a frame that arrives in that very moment
    counts as there already. An output counts from the moment it is ready, that moment included.
    """
    shown: list[int | None] = []
    dropped: list[int] = []
    waiting: int | None = None
    running: int | None = None
    ready_us = 0  # when `running` is ready
    latest: int | None = None
    for index, now_us in enumerate(arrivals_us):
        while running is not None and ready_us <= now_us:
            latest, running = running, None
            if waiting is not None and ready_us < now_us:
                running, waiting = waiting, None
                ready_us += next(latencies_us)
        if waiting is not None:
            dropped.append(waiting)
            waiting = None
        if running is None:
            running, ready_us = index, now_us + next(latencies_us)
            if ready_us == now_us:  # no latency at all: ready in the moment it arrives
                latest, running = running, None
        else:
            waiting = index
        shown.append(latest)
    return Schedule(tuple(shown), tuple(dropped))
