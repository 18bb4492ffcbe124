"""Write a checkpoint as one ONNX file that carries its integers, and prove it: torch and ONNX Runtime side by side.

The file needs no library of ours to run: each BEV op is a function of standard ops in it. Beside it a report
(NAME.export.json) says what was compared and how far it was apart; where parity fails the exit code is 5, and file and
report stay for inspection.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from qdbev_deploy.data.stream_frames import PARITY_FRAMES
from qdbev_deploy.errors import ExitCode, QdbevError, usage_error
from qdbev_deploy.files import jsonable

if TYPE_CHECKING:
    from qdbev_deploy.export import ExportReport
    from qdbev_deploy.export.parity import BesideRun

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h

EPILOG = """\
examples:
  qdbev-deploy export --checkpoint student.pt -o student.onnx
  qdbev-deploy export --checkpoint bevformer_tiny_epoch_24.pth --variant tiny -o tiny.onnx --io mlperf
  qdbev-deploy export --checkpoint student.pt -o student.onnx --dataroot /data/nuscenes --image uint8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="a quantised student, or a float BEVFormer checkpoint")
    parser.add_argument(
        "--variant", help="what the checkpoint should be; without it, its own word or its shapes decide"
    )
    parser.add_argument("-o", "--output", required=True, help="the ONNX file to write")
    parser.add_argument(
        "--carrier", default="int8", choices=("int8", "int4"),
        help="how weights' integers are stored: one a byte, or two a byte for distribution (opset 21)",
    )  # fmt: skip
    parser.add_argument(
        "--clip", default="exact", choices=("exact", "relaxed"),
        help="exact: activations are clipped to their k bits; relaxed: int8 alone saturates",
    )  # fmt: skip
    parser.add_argument(
        "--io", default="fp32", choices=("fp32", "fp16", "mlperf"),
        help="fp16: the state in FP16; mlperf: as MLPerf's harness feeds and reads it, every decoder layer's outputs",
    )  # fmt: skip
    parser.add_argument(
        "--image", default="float32", choices=("float32", "uint8"),
        help="uint8: native camera frames [1, 6, height, width, 3] in RGB, resized, normalised and padded in the graph",
    )  # fmt: skip
    parser.add_argument("--opset", type=int, help="17 to 21; without it, the lowest that holds the graph, 18 at least")
    parser.add_argument("--dataroot", help="nuScenes for the proof; without it, a synthetic drive is drawn")
    parser.add_argument("--frames", type=int, help=f"frames of the proof, over two scenes (default {PARITY_FRAMES})")
    parser.add_argument("--no-verify", action="store_true", help="write the file and prove nothing; the report says so")
    parser.add_argument("--dynamic-shapes", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    if args.dynamic_shapes:
        raise QdbevError(
            "dynamic shapes are asked for",
            "static shapes, batch 1: state, engines and the C++ runtime allocate once",
            "export one file for each image size",
        )
    for name in ("dataroot", "frames"):
        if args.no_verify and getattr(args, name) is not None:
            raise usage_error("export", f"--{name} with --no-verify", f"--{name} alone: nothing runs without the proof")
    frames = PARITY_FRAMES if args.frames is None else args.frames
    if frames < 4:
        raise QdbevError(
            f"{frames} frames", "at least 4, so that the state is carried and dropped", f"pass --frames {PARITY_FRAMES}"
        )

    if not args.no_verify:
        _keep_pages()
    from rich.console import Console

    from qdbev_deploy.export import ExportOptions, export_onnx
    from qdbev_deploy.export.destination import check_destination
    from qdbev_deploy.graph.files import sha256_of
    from qdbev_deploy.quant import load_model

    options = ExportOptions(
        io=args.io, image=args.image, carrier=args.carrier, clip=args.clip, opset=args.opset
    ).to_dict()
    check_destination(args.output, args.checkpoint)
    model, recipe = load_model(args.checkpoint, args.variant)
    if args.variant is not None and model.spec.name != args.variant:
        raise QdbevError(
            f"{args.checkpoint} is a '{model.spec.name}'", f"a '{args.variant}'", f"pass --variant {model.spec.name}"
        )
    with Console(stderr=True).status("reading") as status:
        report = export_onnx(
            model,
            args.output,
            recipe=recipe,
            checkpoint_sha256=sha256_of(args.checkpoint),
            verify=not args.no_verify,
            dataroot=args.dataroot,
            frame_count=frames,
            progress=lambda text: status.update(f"{text} ..."),
            **options,
        )
    if args.json:
        print(json.dumps(jsonable(report.to_dict()), indent=2))
    else:
        _print(report)
    return int(ExitCode.DONE if report.parity is None or report.parity.passed else ExitCode.GUARD)


def _keep_pages() -> None:
    """Have huge pages where there are such, and keep them: else half of torch's time for a large frame is page faults.

    To be called before torch allocates anything, which is when it asks for its setting.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # glibc gives large blocks back to the kernel at once
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _print(report: ExportReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{report.path}: {report.variant}, opset {report.opset}, {report.file_bytes / 1e6:.1f} MB, "
        f"written in {report.export_s:.0f} s",
        highlight=False, markup=False,
    )  # fmt: skip
    types = sorted({name for row in report.weight_bytes.values() for name in row})
    sizes = Table(title="weights in MB (1e6 bytes)", title_justify="left", box=None)
    sizes.add_column("part")
    for name in (*types, "all"):
        sizes.add_column(name, justify="right")
    rows: dict[str, dict[str, int]] = dict(report.weight_bytes)
    rows["all"] = {name: sum(row.get(name, 0) for row in report.weight_bytes.values()) for name in types}
    for part, row in rows.items():
        cells = [f"{row[name] / 1e6:.3f}" if name in row else "-" for name in types]
        sizes.add_row(part, *cells, f"{sum(row.values()) / 1e6:.3f}")
    console.print(sizes)
    if report.parity is None:
        console.print("not proved, as --no-verify asked:")
        for claim in report.not_proved:
            console.print(f"  {claim}")
        return
    _print_parity(console, report.parity, report.parity_s)


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-")


def _beside(what: str, run: BesideRun | None) -> list[tuple[str, str, str]]:
    """A run that is reported beside, and the file's own over the same frames."""
    if run is None:
        return [(f"box centres, {what}", "refuses the file", "reported")]
    return [
        (f"box centres, {what}, {run.frames} frames, m", f"{run.boxes.center_m:.1e}", "reported"),
        (f"  own state over these {run.frames}, m", f"{run.file_boxes.center_m:.1e}", "reported"),
    ]


def _print_parity(console: Any, parity: Any, seconds: float) -> None:
    from rich.table import Table

    console.print(
        f"\nparity with torch over {parity.frames} frames ({parity.frames_are}), "
        f"{sum(map(bool, parity.resets))} of them the first of a scene, {seconds:.0f} s",
        highlight=False, markup=False,
    )  # fmt: skip
    table = Table(box=None)
    for heading in ("compared", "difference", "asked"):
        table.add_column(heading, justify="left" if heading == "compared" else "right")
    how, outputs, boxes = parity.judged
    asked = parity.to_dict()["asked"]
    for name, gap in outputs.items():
        table.add_row(f"{name}, {how}, share", f"{gap:.1e}", _power(asked["output_relative"]))
    for name, what, unit in (
        ("center_m", "box centres", ", m"),
        ("size_share", "box sizes", ", share"),
        ("yaw_sin_cos", "sine and cosine of yaw", ""),
        ("velocity_mps", "velocities", ", m/s"),
        ("score", "scores", ""),
    ):
        table.add_row(f"{what}, {how}{unit}", f"{getattr(boxes, name):.1e}", _power(asked[f"box_{name}"]))
    table.add_row(f"detections without a partner, {how}", f"{boxes.detections_moved} of {boxes.detections}", "0")
    if parity.step_boxes is not None:
        elements = sum(item.elements for item in parity.activations.values())
        different = sum(item.different for item in parity.activations.values())
        worst = max(item.different / max(item.elements, 1) for item in parity.activations.values())
        step = max(item.largest_step for item in parity.activations.values())
        rows = (
            *(
                (f"{name}, own state, largest absolute", f"{gap:.1e}", "reported")
                for name, gap in parity.outputs.items()
            ),
            ("box centres, own state, m", f"{parity.boxes.center_m:.1e}", "reported"),
            *_beside("torch against itself", parity.control),
            *_beside("ONNX Runtime's Q/DQ fusion", parity.default_mode),
            (f"weights' integers, {parity.weight_integers:,}", f"{parity.weight_integers_different:,}", "0"),
            (f"activations' integers, {elements:,}", f"{different:,}", "-"),
            ("  in the worst tensor", f"{worst:.1e}", "1e-4"),
            ("  largest step", str(step), "1"),
        )
        beyond = sum(item.beyond for item in parity.activations.values())
        if beyond:
            rows += (("  beyond their bits, as --clip relaxed lets them", f"{beyond:,}", "reported"),)
        for row in rows:
            table.add_row(*row)
    scored = {(parity.scored_frames, run): scores for run, scores in parity.scores.items()}
    if parity.default_mode is not None:
        scored |= {(parity.default_mode.frames, run): scores for run, scores in parity.default_mode.scores.items()}
    for (count, run), scores in scored.items():
        nds = f"{scores.nds:.4f}" if scores.nds is not None else "cannot be scored"
        table.add_row(f"NDS over {count} frames, {run}", nds, "reported")
    console.print(table)
    if parity.scores:
        console.print("NDS of so few frames is enough to compare runs, and no benchmark")
    few = "" if parity.frames >= asked["frames"] else f" over {parity.frames} frames; {asked['frames']} are asked for"
    console.print(f"parity holds{few}" if parity.passed else f"parity FAILS{few}:", highlight=False)
    for failure in parity.failures:
        console.print(f"  {failure}", highlight=False, markup=False)
    if parity.default_mode_error is not None:
        console.print(
            f"ONNX Runtime {parity.onnxruntime} opens this file with session.disable_quant_qdq=1 alone, as build and "
            f"run do; with its own fusion of Q/DQ it refuses it: {parity.default_mode_error}",
            highlight=False, markup=False,
        )  # fmt: skip
