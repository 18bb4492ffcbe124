"""Say of an ONNX file, without a GPU: does it build for that target, what runs in int8, what would it cost.

The file is first lowered in memory as `build` would lower it; what remains against the rules is listed with the node
and the rule. Exit code 5 where a rule is broken; warnings alone do not fail.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from qdbev_deploy.errors import ExitCode

if TYPE_CHECKING:
    from qdbev_deploy.check import CheckReport

EPILOG = """\
examples:
  qdbev-deploy check student.onnx --target trt10.3 --gpu orin
  qdbev-deploy check student.onnx --target trt8.6 --json
"""
_LISTED = 4  # nodes of one finding that a person reads; --json has them all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an ONNX file, ours or any other")
    parser.add_argument("--target", required=True, help="trt8.6, trt10.3, trt11 or ort")
    parser.add_argument("--gpu", help="orin, thor, rtx3090, h200 or sm_XX: adds the roofline")


def run(args: argparse.Namespace) -> int:
    from qdbev_deploy.check import check_onnx

    report = check_onnx(args.model, args.target, args.gpu)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report)
    return int(ExitCode.GUARD if report.errors else ExitCode.DONE)


def _print(report: CheckReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)  # names of files and nodes mean nothing else
    console.print(f"{report.file} for {report.target}", soft_wrap=True)
    for note in report.lowered:
        console.print(f"  lowered: {note}", soft_wrap=True)
    alike: dict[tuple[str, str, str], list[str]] = {}
    for finding in report.findings:
        alike.setdefault((finding.level, finding.rule, finding.says), []).append(finding.node)
    for (level, rule, says), nodes in alike.items():
        console.print(f"  {level}: [{rule}] {says}", soft_wrap=True)
        for node in nodes[:_LISTED]:
            console.print(f"    {node}", soft_wrap=True)
        if len(nodes) > _LISTED:
            console.print(f"    and {len(nodes) - _LISTED} more; --json lists them")
    table = Table(box=None)
    for heading in ("part", "GMAC a frame", "in int8", "weights, MB", "roofline, ms"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    total = sum(sum(row.values()) for row in report.weight_bytes.values())
    for part in dict.fromkeys([*(p for p in report.coverage if p != "all"), *report.weight_bytes, "all"]):
        row = report.coverage.get(part)
        size = total if part == "all" else sum(report.weight_bytes.get(part, {}).values())
        roofline = report.roofline
        milliseconds = roofline and (roofline.total_ms if part == "all" else roofline.ms_by_part.get(part, 0.0))
        table.add_row(
            part,
            f"{row['macs'] / 1e9:.2f}" if row else "-",
            f"{row['int8_share']:.1%}" if row else "-",
            f"{size / 1e6:.2f}",
            f"{milliseconds:.3f}" if milliseconds is not None else "-",
        )
    console.print(table)
    console.print(f"activations alive at once: {report.activation_peak_bytes / 1e6:.0f} MB at most, floats as FP16")
    for name, here in report.plugins.items():
        console.print(f"plugin {name}: {'in ' + report.plugin_library if here else 'not here'}", soft_wrap=True)
    if report.plugins and not all(report.plugins.values()):
        console.print(f"plugin library: {report.plugin_library}", soft_wrap=True)
    if report.roofline:
        from qdbev_deploy.check.cost import ASSUMPTIONS

        bound = report.roofline
        console.print(
            f"roofline on {bound.device.name}: {bound.total_ms:.2f} ms a frame, "
            f"{bound.bound_by_memory:.0%} of it memory ({bound.device.int8_tops:g} TOPS int8, "
            f"{bound.device.fp16_tflops:g} TFLOPS FP16, {bound.device.memory_gb_s:g} GB/s); it assumes that"
        )
        for assumption in ASSUMPTIONS:
            console.print(f"  {assumption}")
    if report.not_known:
        console.print(f"{len(report.not_known)} nodes are not counted: their shapes do not say how much they multiply")
    console.print(
        f"{len(report.errors)} rules broken" if report.errors else "no rule is broken",
        style="bold red" if report.errors else "bold",
    )
