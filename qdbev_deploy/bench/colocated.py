"""Instances side by side, as processes or as streams of one engine, with or without a load; and one alone before."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qdbev_deploy.bench.children import Child
from qdbev_deploy.bench.clock import Clock
from qdbev_deploy.bench.load import On
from qdbev_deploy.bench.measure import (
    Hooks,
    Measurement,
    Plan,
    Progress,
    measure_engine,
    silent,
    without_garbage_collection,
)
from qdbev_deploy.bench.recording import COLUMNS, Recording
from qdbev_deploy.bench.samples import Samples
from qdbev_deploy.bench.sections import LEAST_SECONDS
from qdbev_deploy.bench.sensors.process import FamilyTime
from qdbev_deploy.bench.statistics import percentile
from qdbev_deploy.bench.system import Subject, System
from qdbev_deploy.bench.watch import Sensors


@dataclass(frozen=True)
class Neighbours:
    """Who runs beside whom."""

    instances: int = 2
    as_: Literal["processes", "streams"] = "processes"
    load: On | None = None
    load_processes: int = 1


@dataclass(frozen=True)
class Side:
    """All instances together, and one alone."""

    alone: Measurement
    together: tuple[Measurement, ...]
    spent: dict[str, float | None]  # cores in use while all ran: by all of ours together, by others, by the hypervisor

    def merged(self) -> Measurement:
        """One measurement whose "repeats" are the instances; readings are the first instance's."""
        rows = []
        for number, instance in enumerate(self.together):
            part = instance.recording.rows[: instance.recording.count].copy()
            part[:, COLUMNS.index("repeat")] = number
            rows.append(part)
        first = self.together[0]
        return Measurement(
            Recording.of(np.concatenate(rows)), first.readings, [w for m in self.together for w in m.warmups],
            [log for m in self.together for log in m.streams], first.memory, first.seconds,
        )  # fmt: skip

    def to_dict(self, neighbours: Neighbours, confidence: float) -> dict[str, Any]:
        """The section `co_located`: each instance, the one alone, and how much slower its company made it."""

        def numbers(measurement: Measurement) -> dict[str, Any]:
            total = measurement.recording.column("total")
            values = {f"p{p:g}": percentile(total, p, confidence).value for p in (50, 99)}
            return {name: round(value, 5) for name, value in values.items()}

        alone, together = numbers(self.alone), [numbers(measurement) for measurement in self.together]
        return {
            "instances": neighbours.instances,
            "as": neighbours.as_,
            "load": neighbours.load,
            "load_processes": neighbours.load_processes if neighbours.load else 0,
            "alone_ms": alone,
            "each_ms": together,
            "times_slower": {
                name: round(float(np.median([t[name] for t in together])) / alone[name], 3) for name in alone
            },
        }


def run_side_by_side(
    subject: Subject, samples: Samples, folder: Path, plan: Plan, neighbours: Neighbours, clock: Clock,
    sensors: Sensors, progress: Progress = silent,
) -> tuple[Side, dict[str, Any]]:  # fmt: skip
    """One instance alone, then all beside the load; also the first instance's own memory facts."""

    loads: list[int] = []

    def measured(count: int) -> _Outcome:
        if neighbours.as_ == "processes":
            return _processes(subject.path, folder, plan, count, loads)
        return _streams(subject, samples, plan, count, clock, sensors, loads)

    progress(0, None, "one instance alone")
    (alone,), _, _ = measured(1)
    with contextlib.ExitStack() as stack:
        if neighbours.load is not None:
            for _ in range(neighbours.load_processes):
                child = stack.enter_context(Child({"action": "burn", "on": neighbours.load}))
                child.expect("ready")
                loads.append(child.pid)
        progress(0, None, f"{neighbours.instances} instances")
        together, spent, facts = measured(neighbours.instances)
    return Side(alone, tuple(together), spent), facts


# Measurements, cores in use meanwhile, the first instance's own facts
_Outcome = tuple[list[Measurement], "dict[str, float | None]", dict[str, Any]]


def _processes(bundle: Path, folder: Path, plan: Plan, count: int, loads: list[int]) -> _Outcome:
    request = {"action": "instance", "bundle": str(bundle), "samples": str(folder), "plan": plan.to_dict()}
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(request)) for _ in range(count)]
        for child in children:
            child.expect("ready")
        ours = [*loads, *(child.pid for child in children)]
        before = FamilyTime.now(ours)
        for child in children:
            child.tell({})
        for child in children:
            child.expect("measured")
        spent = FamilyTime.now(ours).since(before, LEAST_SECONDS)
        for child in children:
            child.tell({})
        results = [child.expect("result") for child in children]
    facts = {"missing": results[0]["missing"], "peak_bytes": results[0]["peak_bytes"]}
    return [Measurement.from_dict(result["measurement"]) for result in results], spent, facts


def _streams(
    subject: Subject, samples: Samples, plan: Plan, count: int, clock: Clock, sensors: Sensors, loads: list[int]
) -> _Outcome:
    """Threads of this process, each with a stream of the same engine; the first reads the sensors."""
    engine = subject.engine()
    gate, stop = threading.Barrier(count), threading.Event()
    through = threading.Semaphore(0)
    outcomes: list[Measurement | BaseException | None] = [None] * count

    def stay_busy(system: System) -> None:
        through.release()
        spare = Recording(1)
        index = 0
        while not stop.is_set():
            spare.rewind()
            system.run(index, spare)
            index += 1

    def work(number: int) -> None:
        hooks = Hooks(lambda: _wait(gate), stay_busy, stop.is_set)
        watched = sensors if number == 0 else Sensors([])
        try:
            outcomes[number] = measure_engine(engine, subject, samples, plan, clock, watched, silent, hooks=hooks)
        except BaseException as error:
            outcomes[number] = error
            gate.abort()
            through.release()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    try:
        with without_garbage_collection():
            before = FamilyTime.now(loads)
            for thread in threads:
                thread.start()
            for _ in threads:
                through.acquire()
            spent = FamilyTime.now(loads).since(before, LEAST_SECONDS)
    finally:
        stop.set()
        gate.abort()
        for thread in threads:
            thread.join()
        engine.close()
    return _all_or_the_error(outcomes), spent, {}


def _wait(gate: threading.Barrier) -> None:
    gate.wait()


def _all_or_the_error(outcomes: Sequence[Measurement | BaseException | None]) -> list[Measurement]:
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error  # the cause, before those whom it kept waiting
    return [outcome for outcome in outcomes if isinstance(outcome, Measurement)]


def default_load_processes(load: On | None) -> int:
    """A CPU load takes half of the cores; one process of copies fills a GPU's bus."""
    return max(len(os.sched_getaffinity(0)) // 2, 1) if load == "cpu" else 1
