"""`export_onnx`: the file, and the report that proves it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from qdbev_deploy.calibration.recipe import Recipe
from qdbev_deploy.data.stream_frames import PARITY_FRAMES, StreamFrame, parity_frames
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.export.assemble import assemble
from qdbev_deploy.export.carriers import with_carriers
from qdbev_deploy.export.destination import check_destination, report_path
from qdbev_deploy.export.options import DEFAULT_OPSET, DEFORM_CONV_OPSET, INT4_OPSET, ExportOptions
from qdbev_deploy.export.parity import ParityReport, prove
from qdbev_deploy.export.streaming_graph import StreamingGraph
from qdbev_deploy.files import atomic_output, jsonable, write_json
from qdbev_deploy.graph.files import MAX_PROTOBUF_BYTES
from qdbev_deploy.graph.parts import weight_bytes
from qdbev_deploy.model import BEVFormer
from qdbev_deploy.model.checkpoint import weights_digest
from qdbev_deploy.model.resnet import DeformableConv
from qdbev_deploy.quant.quantise import integers, is_quantised

NOT_PROVED = (
    "that ONNX Runtime computes from this file what torch computes",
    "that the integers in the file and along the way are those of the checkpoint",
    "that the state carries over frames and is dropped between scenes",
)


@dataclass(frozen=True)
class ExportReport:
    """What was written and what was proved of it; `parity` None: nothing was, and `not_proved` says what."""

    path: Path
    variant: str
    options: dict[str, Any]
    opset: int
    file_bytes: int
    weight_bytes: dict[str, dict[str, int]]
    nodes: dict[str, int]
    parity: ParityReport | None
    not_proved: tuple[str, ...]
    export_s: float
    parity_s: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.path.name,
            "variant": self.variant,
            "options": self.options,
            "opset": self.opset,
            "file_bytes": self.file_bytes,
            "weight_bytes": self.weight_bytes,
            "nodes": self.nodes,
            "parity": self.parity.to_dict() if self.parity else None,
            "not_proved": list(self.not_proved),
            "export_s": round(self.export_s, 1),
            "parity_s": round(self.parity_s, 1),
        }


def export_onnx(
    model: BEVFormer,
    path: str | os.PathLike[str],
    *,
    recipe: Recipe | None = None,
    checkpoint_sha256: str | None = None,
    verify: bool = True,
    dataroot: str | os.PathLike[str] | None = None,
    frames: Iterable[StreamFrame] | None = None,
    frame_count: int = PARITY_FRAMES,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> ExportReport:
    """Write `model`, float or quantised, as one ONNX file, and a report beside it as `NAME.export.json`.

    `options` are those of `ExportOptions`. Parity runs on `frames`; None: on two scenes of `dataroot`, and where that
    is None, too, on a synthetic drive. The file is written whether parity holds or not; `report.parity.passed` says.
    A `path` that cannot be written and a data root without two scenes are refused before anything is traced.
    """
    check_destination(path)
    chosen = ExportOptions(**options)
    say = progress or (lambda _: None)
    quantised = is_quantised(model)
    if chosen.carrier == "int4" and not _has_four_bit_weights(model, quantised):
        raise QdbevError(
            "--carrier int4 with a float checkpoint" if not quantised else "--carrier int4 without a weight of 4 bits",
            "a student whose recipe gives weights 4 bits or fewer",
            "leave --carrier out, or train with --recipe w4a6",
        )
    if chosen.clip == "relaxed" and not quantised:
        raise QdbevError("--clip relaxed with a float checkpoint", "a student: a float model has nothing to clip",
                         "leave --clip out")  # fmt: skip
    deformable = any(isinstance(module, DeformableConv) for module in model.modules())
    # Where columns are rounded, the standard op cannot say so; below its opset there is none.
    sample_columns = deformable and (quantised or (chosen.opset or DEFORM_CONV_OPSET) < DEFORM_CONV_OPSET)
    opset = chosen.opset or (
        INT4_OPSET if chosen.carrier == "int4"
        else DEFORM_CONV_OPSET if deformable and not sample_columns else DEFAULT_OPSET
    )  # fmt: skip
    model = model.eval()
    with _drive(model, chosen, frames, dataroot, frame_count, say) if verify else nullcontext() as drive:
        return _write_and_prove(model, path, chosen, opset, sample_columns, recipe, checkpoint_sha256, drive, say)


Drive = tuple[str, Iterable[StreamFrame]]


@contextmanager
def _drive(
    model: BEVFormer,
    options: ExportOptions,
    frames: Iterable[StreamFrame] | None,
    dataroot: str | os.PathLike[str] | None,
    count: int,
    say: Callable[[str], None],
) -> Iterator[Drive]:
    """(what the frames of the proof are, the frames); the first is read at once, so that a bad data root is told."""
    if frames is not None:
        yield "the caller's frames", frames
        return
    say("frames for parity")
    with parity_frames(model.spec, options.image, dataroot, count) as (frames_are, found):
        yield frames_are, chain(list(islice(found, 1)), found)


def _write_and_prove(
    model: BEVFormer,
    path: str | os.PathLike[str],
    chosen: ExportOptions,
    opset: int,
    sample_columns: bool,
    recipe: Recipe | None,
    checkpoint_sha256: str | None,
    drive: Drive | None,
    say: Callable[[str], None],
) -> ExportReport:
    quantised = is_quantised(model)
    started = time.monotonic()
    say("tracing")
    carried = with_carriers(model, chosen) if quantised else model
    metadata: dict[str, Any] = {
        "variant": model.spec.to_dict(),
        "weights_sha256": weights_digest(model),
        "bits": _bits(model) if quantised else "float",
    }
    if checkpoint_sha256 is not None:
        metadata["checkpoint_sha256"] = checkpoint_sha256
    if recipe is not None:
        metadata["recipe"] = recipe.to_dict()
    proto, taps = assemble(StreamingGraph(carried, chosen), chosen, opset, metadata, sample_columns=sample_columns)
    if proto.ByteSize() > MAX_PROTOBUF_BYTES:
        raise QdbevError(f"a model of {proto.ByteSize():,} bytes", f"at most {MAX_PROTOBUF_BYTES:,}", "export less")
    export_s = time.monotonic() - started

    started, parity = time.monotonic(), None
    with atomic_output(path) as partial:
        partial.write_bytes(proto.SerializeToString(deterministic=True))
        if drive is not None:
            parity = _verify(StreamingGraph(model, chosen), proto, taps, drive, say)
    report = ExportReport(
        path=Path(path),
        variant=model.spec.name,
        options=chosen.to_dict(),
        opset=opset,
        file_bytes=Path(path).stat().st_size,
        weight_bytes=weight_bytes(proto),
        nodes=dict(Counter(f"{node.domain}::{node.op_type}".removeprefix("::") for node in proto.graph.node)),
        parity=parity,
        not_proved=() if drive is not None else NOT_PROVED,
        export_s=export_s,
        parity_s=time.monotonic() - started,
    )
    write_json(report_path(path), jsonable(report.to_dict()))
    return report


def _verify(
    graph: StreamingGraph,
    proto: onnx.ModelProto,
    taps: dict[str, str],
    drive: Drive,
    say: Callable[[str], None],
) -> ParityReport:
    def progress(done: int) -> None:
        say(f"parity, frame {done}")

    frames_are, frames = drive
    parity = prove(graph, proto, taps, frames, frames_are, progress)
    _compare_weights(graph.model, proto, parity)
    parity.judge()
    return parity


def _compare_weights(model: BEVFormer, proto: onnx.ModelProto, report: ParityReport) -> None:
    """Every weight's integers in the file against those of the model; the packed projection lies in two pieces.

    What no streaming step reads (the class branches of all decoder layers but the last, say) is not in the file.
    """
    if not is_quantised(model):
        return
    stored = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name.rpartition(".integers")[1]}
    for name, weight in integers(model).weights.items():
        prefix = f"{name}_weight" if name.endswith(".in_proj") else f"{name}.weight"
        pieces = [numpy_helper.to_array(tensor).astype(np.int8)
                  for key, tensor in sorted(stored.items()) if key.startswith(f"{prefix}.integers")]  # fmt: skip
        if not pieces and name.removesuffix(".in_proj") not in report.weights_used:
            continue
        ours = weight.integers.numpy()
        theirs = np.concatenate([piece.reshape(len(piece), -1) for piece in pieces]) if pieces else np.empty((0, 0))
        report.weights += 1
        report.weight_integers += ours.size
        same = theirs.shape == ours.reshape(len(ours), -1).shape
        report.weight_integers_different += (
            int(np.count_nonzero(theirs != ours.reshape(len(ours), -1))) if same else ours.size
        )


def _has_four_bit_weights(model: BEVFormer, quantised: bool) -> bool:
    return quantised and any(weight.grid.bits <= 4 for weight in integers(model).weights.values())


def _bits(model: BEVFormer) -> dict[str, Any]:
    """How many bits each quantised tensor has, weights and activations apart."""
    found = integers(model)
    return {
        "weights": {name: weight.grid.bits for name, weight in found.weights.items()},
        "activations": {
            name: {"bits": item.grid.bits, "signed": item.grid.signed} for name, item in found.activations.items()
        },
    }
