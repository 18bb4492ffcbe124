"""Builds a plan: in a thread, so that Ctrl-C is heard at once, with the builder's phases on the progress bar."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx

from qdbev_deploy.engine.interface import BuildOptions, Say
from qdbev_deploy.engine.tensorrt import network as networks
from qdbev_deploy.engine.tensorrt import options as settings
from qdbev_deploy.engine.tensorrt import timing_cache
from qdbev_deploy.engine.tensorrt.log import Log
from qdbev_deploy.engine.tensorrt.releases import Release
from qdbev_deploy.errors import ExitCode, QdbevError

T = TypeVar("T")
_POLL_S = 0.1
_STOPPING_S = 20.0  # how long a builder that was told to stop may take to hear it


@dataclass(frozen=True)
class Plan:
    """A serialised engine, and what there is to say of its making."""

    content: bytes
    notes: tuple[str, ...]


def _monitor(trt: Any, say: Say, stop: threading.Event) -> Any:
    """TensorRT 10's progress monitor: phases and steps to the bar, and False, which ends the build, once told so."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            say(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            say(phase_name, step + 1, self.steps.get(phase_name))
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, None)
            say(phase_name, steps, steps)

    return Monitor()


def _leave_at_once(finished: threading.Event) -> None:
    """End the process as Ctrl-C should: libraries must not be taken down under a builder that still runs in them."""
    if finished.is_set():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(ExitCode.INTERRUPTED))


def interruptible(work: Callable[[], T], stop: threading.Event, *, hears: bool) -> T:
    """What `work` returns, from a thread of its own, while this one listens for Ctrl-C.

    TensorRT's builder holds its thread for minutes, and Python hears signals in the main thread alone. Interrupted,
    `stop` is set; a builder that does not look at it (8.6) is left behind, and the process ends without it.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    finished = threading.Event()  # not Thread.join: interrupted, it takes the thread for dead (bpo-45274)

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    threading.Thread(target=run, name="tensorrt-builder", daemon=True).start()
    try:
        while not finished.wait(_POLL_S):
            pass
    except BaseException:
        stop.set()
        try:
            finished.wait(_STOPPING_S if hears else 0.0)
        finally:
            if not finished.is_set():
                atexit.register(_leave_at_once, finished)
        raise
    if errors:
        raise errors[0]
    return results[0]


def build_plan(trt: Any, release: Release, log: Log, model: onnx.ModelProto, options: BuildOptions, say: Say) -> Plan:
    """Parse the lowered model and build it; plugins are registered already."""
    settings.refuse_foreign(options)
    settings.refuse_dla_where_there_is_none(options, release)
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    builder = log.made("builder", lambda: trt.Builder(log.logger))
    config = builder.create_builder_config()
    settings.apply(trt, builder, config, options, release, quantised=quantised)
    typed = networks.typed_model(model, options, release)
    network = networks.make_network(trt, builder, options, release)
    say("parse", None, None)
    parser = networks.parse(trt, network, log, typed)
    notes = []
    if settings.is_strongly_typed(release, options):
        notes.append("strongly typed: precisions are those of the file")
    elif options.precision != "fp32":
        count = networks.constrain_geometry(trt, network, typed)
        notes.append(f"precisions by flags; {count} layers of geometry kept in float32")
    if options.timing_cache is not None:
        timing_cache.attach(config, log, options.timing_cache)
    stop, hears = threading.Event(), hasattr(trt, "IProgressMonitor")
    if hears:
        config.progress_monitor = _monitor(trt, say, stop)

    def work() -> Any:
        """Holds what the builder uses, so that an interrupted one that runs on finds it."""
        assert parser is not None  # the network borrows its weights
        return builder.build_serialized_network(network, config)

    say("build", None, None)
    serialised = interruptible(work, stop, hears=hears)
    if serialised is None:
        raise _build_failure(trt, log, options)
    if options.timing_cache is not None:
        size = timing_cache.keep(config, options.timing_cache)
        notes.append(f"timing cache {options.timing_cache.name}: {size:,} bytes")
    return Plan(bytes(serialised), tuple(notes))


def _build_failure(trt: Any, log: Log, options: BuildOptions) -> QdbevError:
    memory = "" if options.workspace_mb is None else f" (the workspace is limited to {options.workspace_mb} MiB)"
    return log.failure(
        f"TensorRT {trt.__version__} built no engine{memory}",
        "an implementation of every layer",
        "qdbev-deploy check, then try a larger --workspace, or other --tactic-sources",
        exit_code=ExitCode.GUARD,
    )
