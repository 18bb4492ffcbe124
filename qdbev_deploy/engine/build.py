"""From an ONNX file to a bundle: checked, lowered, built, its precision guarded, its outputs proved."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.util
import itertools
import json
import logging
import os
import platform
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import onnx

from qdbev_deploy import __version__
from qdbev_deploy.check import check_model
from qdbev_deploy.data.stream_frames import PARITY_FRAMES, StreamFrame, parity_frames
from qdbev_deploy.engine.backends import choose
from qdbev_deploy.engine.bisect import Divergence, first_divergence, runner_of
from qdbev_deploy.engine.bundle import Bundle
from qdbev_deploy.engine.documents import (
    CONTRACT,
    GUARD,
    GUARD_SCHEMA,
    LAYERS,
    PARITY,
    PARITY_SCHEMA,
    SUFFIX,
    contract_document,
    emulates,
    guard_document,
    layers_document,
    precision_summary,
    seal,
    write_document,
)
from qdbev_deploy.engine.guard import EMULATED, Allowance, GuardReport, judge
from qdbev_deploy.engine.interface import Backend, BuildOptions, BuildResult, Layer, Say, Stream
from qdbev_deploy.engine.parity import Arithmetic, EngineParity, prove
from qdbev_deploy.engine.placing import bundle_folder, require_replaceable
from qdbev_deploy.engine.source import Source, read_source
from qdbev_deploy.errors import ExitCode, QdbevError, listed
from qdbev_deploy.files import write_json
from qdbev_deploy.graph.float_baseline import float_copy
from qdbev_deploy.graph.index import name_nodes, with_shapes
from qdbev_deploy.streaming import StreamingSession

_log = logging.getLogger(__name__)

MIN_FRAMES = 4
PROFILED_FRAMES = 4
_LISTED = 6  # findings that an error names
NOT_PROVED = (
    "that the engine computes what the file computes",
    "that it carries its state over frames and drops it between scenes",
    "what share of the time each precision takes",
)


def build(
    onnx_path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    variant: str | None = None,
    allow: Sequence[Allowance] = (),
    verify: bool = True,
    dataroot: str | os.PathLike[str] | None = None,
    frames: Iterable[StreamFrame] | None = None,
    frame_count: int = PARITY_FRAMES,
    debug_parity: bool = False,
    say: Say = lambda phase, done, total: None,
    **options: Any,
) -> Bundle:
    """Build `onnx_path` into the bundle `out`; `options` are those of BuildOptions.

    `out` None: the file's name with .qdbev, in the current folder. `variant` is for files that do not say theirs.
    Parity runs on `frames`; None: on two scenes of `dataroot`, and where that is None, too, on a synthetic drive. A
    guard or a parity that fails leaves its report beside (NAME.guard.json, NAME.parity.json) and no bundle.
    """
    request = _Request(
        path=Path(onnx_path),
        out=Path(out) if out is not None else Path(Path(onnx_path).name).with_suffix(SUFFIX),
        backend=choose(backend).backend,
        options=BuildOptions(**options),
        variant=variant,
        allow=tuple(allow),
    )
    require_replaceable(request.out)
    if verify:
        _require_frames(frames, frame_count)
    say("reading the file", None, None)
    source = read_source(request.path, variant)
    model, reference_is = _to_build(source, request)
    lowered, notes = _checked(model, source, request.backend)
    name_nodes(lowered)
    with bundle_folder(request.out) as folder:
        result = request.backend.build(lowered, folder, request.options, say)
        say("judging precision", None, None)
        rules = (*request.allow, EMULATED) if _emulates(request) else request.allow
        guard = judge(lowered, result.layers, rules)
        if not guard.passed:
            report = request.beside("guard")
            write_json(report, guard_document(guard.to_dict()))
            guard.require(report.name)
        layers, parity = result.layers, None
        if verify:
            prover = _Prover(request, source, model, lowered, reference_is, result, folder, say)
            with _frames_for(source, frames, dataroot, frame_count) as (frames_are, found):
                parity, times = prover.run(found, frames_are, frame_count, debug_parity)
            layers = tuple(dataclasses.replace(layer, time_ms=times.get(layer.name)) for layer in layers)
            guard = judge(lowered, layers, rules)
        say("writing the bundle", None, None)
        _write(folder, request, source, result, layers, guard, parity, [*notes, *result.notes])
        bundle = Bundle.open(folder)  # here, as another build may take the name the moment it is given
    for kind in REPORTS:
        _forget(request.beside(kind))
    return dataclasses.replace(bundle, path=request.out)


REPORTS = {"guard": GUARD_SCHEMA, "parity": PARITY_SCHEMA}  # of a build that failed, by their kind
_MAX_REPORT_BYTES = 256 << 20


def _is_report(path: Path, kind: str) -> bool:
    """Whether a file is a report that a build wrote, and not somebody's of the same name."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_REPORT_BYTES:
            return False
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("schema") == REPORTS[kind]


def _forget(path: Path) -> None:
    """The report of an earlier build into this name that failed. The bundle is there, whatever becomes of this."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class _Request:
    path: Path
    out: Path
    backend: Backend
    options: BuildOptions
    variant: str | None
    allow: tuple[Allowance, ...]

    def beside(self, kind: str) -> Path:
        """Where the report of a build that failed lies: beside the bundle that was not written.

        A name that is free, or that an earlier report of ours has; what is somebody else's stays.
        """
        for number in itertools.count(1):
            path = self.out.with_suffix(f".{kind}.json" if number == 1 else f".{kind}-{number}.json")
            if not os.path.lexists(path) or _is_report(path, kind):
                break
        return path

    def command(self) -> str:
        """The command that builds it again, in the folder of the ONNX file."""
        words = ["qdbev-deploy", "build", "--onnx", self.path.name, f"--{self.options.precision}",
                 "--backend", self.backend.name, "-o", self.out.name]  # fmt: skip
        if self.variant is not None:
            words += ["--variant", self.variant]
        defaults = BuildOptions()
        for name, flag in FLAGS.items():
            value = getattr(self.options, name)
            if value == getattr(defaults, name):
                continue
            words.append(flag)
            if isinstance(value, tuple):
                words.append(",".join(value))
            elif value is not True:
                words.append(value.name if isinstance(value, Path) else str(value))
        for item in self.allow:
            words += ["--allow", f"{item.pattern}:{item.reason}"]
        return shlex.join(re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", word) for word in words)


# Fields of BuildOptions as the command line names them.
FLAGS = {
    "workspace_mb": "--workspace", "optimization_level": "--opt-level", "timing_cache": "--timing-cache",
    "dla_core": "--dla", "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible", "tactic_sources": "--tactic-sources",
    "profile_verbosity": "--profile-verbosity", "threads": "--threads", "fused": "--fused",
}  # fmt: skip


def _require_frames(frames: Iterable[StreamFrame] | None, count: int) -> None:
    """What parity needs is asked for before a build that may take an hour."""
    if count < MIN_FRAMES:
        raise QdbevError(f"{count} frames", f"at least {MIN_FRAMES}, so that the state is carried and dropped",
                         f"pass --frames {PARITY_FRAMES}", exit_code=ExitCode.USAGE)  # fmt: skip
    if frames is None and importlib.util.find_spec("nuscenes") is None:
        raise QdbevError(
            "the Python package 'nuscenes-devkit' is not installed, and parity runs on its sequences",
            "the extra 'data', or a build that proves nothing",
            "pip install 'qdbev-deploy[data]', or pass --no-verify",
            exit_code=ExitCode.MISSING,
        )


def _frames_for(
    source: Source, frames: Iterable[StreamFrame] | None, dataroot: str | os.PathLike[str] | None, count: int
) -> AbstractContextManager[tuple[str, Iterator[StreamFrame]]]:
    if frames is not None:
        return contextlib.nullcontext(("the caller's frames", iter(frames)))
    return parity_frames(source.spec, source.image, dataroot, count)


def _to_build(source: Source, request: _Request) -> tuple[onnx.ModelProto, str]:
    """(the model that is built, what its reference is): a baseline of a quantised file goes without its Q/DQ."""
    if request.options.precision == "int8":
        if not source.is_quantised:
            raise QdbevError(
                f"{source.path.name} holds no QuantizeLinear, so that nothing in it says what runs in int8",
                "a file with Q/DQ: an export of a quantised student, or a calibrated float file",
                _how_to_quantise(source.path, request.variant),
            )
        return source.model, "ONNX Runtime on the file, Q/DQ computed one by one"
    if not source.is_quantised:
        return source.model, "ONNX Runtime on the file"
    return float_copy(source.model), "ONNX Runtime on the file without its Q/DQ"


def _how_to_quantise(path: Path, variant: str | None) -> str:
    """Two commands that can be pasted, but for the place of the data."""
    quantised = path.with_name(f"{path.stem}-int8.onnx")
    which = [] if variant is None else ["--variant", variant]
    calibrate = ["qdbev-deploy", "calibrate", "--onnx", str(path), *which, "--recipe", "w8a8", "--dataroot", "DIR"]
    build = ["qdbev-deploy", "build", "--onnx", str(quantised), "--int8"]
    return f"{shlex.join([*calibrate, '-o', str(quantised)])} && {shlex.join(build)}"


def _checked(model: onnx.ModelProto, source: Source, backend: Backend) -> tuple[onnx.ModelProto, list[str]]:
    """(the model as the target takes it, notes), held against its rules: warnings are logged, errors end the build."""
    report = check_model(model, source.path.name, backend.target())
    if report.errors:
        broken = listed([f"[{item.rule}] {item.node}: {item.says}" for item in report.errors], _LISTED, "; ")
        raise QdbevError(
            f"{source.path.name} breaks {len(report.errors)} rules of {report.target}: {broken}",
            "a file that breaks none",
            f"{shlex.join(['qdbev-deploy', 'check', str(source.path), '--target', report.target])} lists them all",
            exit_code=ExitCode.GUARD,
        )
    alike = Counter((finding.rule, finding.says) for finding in report.findings)
    for (rule, says), count in alike.items():
        _log.warning("[%s] %s (%d %s)", rule, says, count, "node" if count == 1 else "nodes")
    warnings = [f"warning of check: [{rule}] {says} ({count})" for (rule, says), count in alike.items()]
    return report.model, [*warnings, *report.lowered]


def _emulates(request: _Request) -> bool:
    return emulates(request.backend.name, given_options(request.options))


def _arithmetic(request: _Request) -> Arithmetic:
    """What the engine computes in, which decides what parity asks of it."""
    return "fp32" if _emulates(request) else request.options.precision


class _Prover:
    """Parity, and the profile of layers, on an engine that lies in its folder and has no name yet."""

    def __init__(self, request: _Request, source: Source, model: onnx.ModelProto,
                 lowered: onnx.ModelProto, reference_is: str, result: BuildResult, folder: Path,
                 say: Say) -> None:  # fmt: skip
        self.request, self.source, self.reference_is = request, source, reference_is
        self.model, self.lowered = model, lowered
        self.result, self.folder, self.say = result, folder, say

    def run(
        self, frames: Iterator[StreamFrame], frames_are: str, count: int, debug: bool
    ) -> tuple[EngineParity, dict[str, float]]:
        """(the report, milliseconds of each layer); refuses where parity fails."""
        self.say("loading the engine", None, None)
        engine = self.request.backend.open(
            self.folder / self.result.engine_file, self.source.inputs, self.source.outputs,
            open_options(self.request.options, self.result.opens_with, self.result.extra_files),
        )  # fmt: skip
        kept: list[StreamFrame] = []

        def keeping() -> Iterator[StreamFrame]:
            for frame in frames:
                if len(kept) < PROFILED_FRAMES:
                    kept.append(frame)
                yield frame

        try:
            report = prove(
                engine, self.model, self.source.spec, keeping(), frames_are, _arithmetic(self.request),
                reference_is=self.reference_is, progress=lambda done: self.say("parity", done, count),
            )  # fmt: skip
            if not report.passed:
                self._refuse(report, debug)
            self.say("timing the layers", None, None)
            return report, engine.profile(lambda stream: _feed(stream, kept))
        finally:
            engine.close()

    def _refuse(self, report: EngineParity, debug: bool) -> None:
        path, document = self.request.beside("parity"), report.to_dict()
        found = f"the engine does not compute what the file computes: {'; '.join(report.failures)}"
        next_step = f"read {path.name}, or pass --debug-parity to find the layer"
        if debug and report.worst_feeds is not None:
            divergence = self._first_divergence(report, report.worst_feeds)
            document["first_divergence"] = divergence.to_dict() if divergence else None
            found += f". {divergence.says()}" if divergence else f". {_NO_LAYER}"
            next_step = f"read {path.name}"
        write_json(path, document)
        raise QdbevError(
            found,
            f"agreement within the tolerance for {report.arithmetic} over {report.frames} frames",
            next_step,
            exit_code=ExitCode.GUARD,
        )

    def _first_divergence(self, report: EngineParity, feeds: dict[str, Any]) -> Divergence | None:
        self.say("bisecting", None, None)
        return first_divergence(
            with_shapes(self.model), self.lowered, feeds, runner_of(self.request.backend, self.request.options),
            report.asked.relative, progress=lambda rounds, left: self.say(f"bisecting, {left} left", None, None),
        )  # fmt: skip


_NO_LAYER = "No tensor between the layers differs, so that what differs is made where the builder fuses"


def open_options(options: BuildOptions, opens_with: dict[str, Any], extra_files: Sequence[str]) -> dict[str, Any]:
    """What `Backend.open` is told: the build's options, what the build said to pass on, and its further files."""
    return {**given_options(options), **opens_with, "extra_files": list(extra_files)}


def given_options(options: BuildOptions) -> dict[str, Any]:
    """The options as JSON has them; files by name, as another machine has them elsewhere."""
    return {
        name: value.name if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(options).items()
    }


def _feed(stream: Stream, frames: Sequence[StreamFrame]) -> None:
    session = StreamingSession(stream.step)
    for frame in frames:
        session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)


def _write(
    folder: Path, request: _Request, source: Source, result: BuildResult, layers: tuple[Layer, ...],
    guard: GuardReport, parity: EngineParity | None, notes: list[str],
) -> None:  # fmt: skip
    write_document(folder / CONTRACT, contract_document(source.spec, source.io, source.image))
    write_document(folder / LAYERS, layers_document(layers))
    judged = guard_document(guard.to_dict())
    write_document(folder / GUARD, judged)
    if parity is not None:
        write_document(folder / PARITY, parity.to_dict())
    seal(folder, {
        "tool": f"qdbev-deploy {__version__}",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "backend": request.backend.name,
        "engine_file": result.engine_file,
        "extra_files": list(result.extra_files),
        "machine": platform.machine(),
        "versions": result.versions,
        "gpu": result.gpu,
        "build": {
            "command": request.command(),
            "options": given_options(request.options),
            "opens_with": result.opens_with,
            "notes": notes,
        },
        "precision": precision_summary(judged, request.options.precision, emulated=_emulates(request)),
        "parity": parity.summary() if parity else {"passed": None, "not_proved": list(NOT_PROVED)},
        "provenance": source.provenance(),
    })  # fmt: skip
