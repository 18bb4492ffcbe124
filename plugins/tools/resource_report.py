#!/usr/bin/env python3
"""Registers, stack and spills of every kernel, as ptxas reports them; fails if an FP16 or INT8 path spills.

    python plugins/tools/resource_report.py --arch 87 --arch 90 [--json]

Compiles the kernels anew for each architecture and keeps nothing. Needs nvcc and c++filt, not a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

PLUGINS = Path(__file__).resolve().parent.parent
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_BODY = re.compile(r"body_kernel<qdbev::(\w+)<([^>]+)>")
_TYPES = {"float": "fp32", "qdbev::Half": "fp16", "signed char": "int8", "qdbev::AnyAux": "any"}


@dataclass
class Kernel:
    arch: str
    op: str
    value: str
    aux: str  # "any": the variant for unaligned tensors
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int

    @property
    def spills(self) -> bool:
        return self.spill_store_bytes + self.spill_load_bytes > 0


def parse(report: str) -> list[Kernel]:
    """The kernels in a `-Xptxas -v` report whose names have been demangled."""
    kernels: list[Kernel] = []
    name = arch = None
    stack = (0, 0, 0)
    for line in report.splitlines():
        if "Compiling entry function" in line:
            body = _BODY.search(line)
            found = re.search(r"for '(\w+)'", line)
            if body is None or found is None:
                raise ValueError(f"an entry function of an unknown form: {line}")
            name, arch, stack = body, found[1], (0, 0, 0)
        elif numbers := _STACK.search(line):
            stack = (int(numbers[1]), int(numbers[2]), int(numbers[3]))
        elif (used := _USED.search(line)) and name is not None and arch is not None:
            value, aux = (_TYPES[item.strip()] for item in name[2].split(","))
            op = name[1].removesuffix("Body")
            kernels.append(Kernel(arch, op, value, aux, int(used[1]), *stack))
            name = None
    return kernels


def compile_report(source: Path, arch: str, nvcc: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [nvcc, "-std=c++17", "-O3", f"-arch=sm_{arch}", "-Xptxas", "-v", f"-I{PLUGINS / 'include'}", "-c",
             str(source), "-o", str(Path(folder) / "out.o")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"nvcc failed on {source}:\n{done.stderr}")
    return subprocess.run(["c++filt"], input=done.stderr, capture_output=True, text=True, check=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", action="append", required=True, metavar="CC", help="e.g. 87; may be repeated")
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sources = sorted((PLUGINS / "kernels").glob("*.cu"))
    kernels = [k for arch in args.arch for s in sources for k in parse(compile_report(s, arch, args.nvcc))]
    if not kernels:
        raise SystemExit("no kernel was reported: has ptxas changed its words?")
    if args.json:
        print(json.dumps([asdict(kernel) for kernel in kernels], indent=2))
    else:
        print(f"{'arch':8}{'kernel':18}{'value':7}{'aux':6}{'registers':>10}{'stack':>7}{'spilled':>9}")
        for k in kernels:
            spilled = k.spill_store_bytes + k.spill_load_bytes
            print(f"{k.arch:8}{k.op:18}{k.value:7}{k.aux:6}{k.registers:>10}{k.stack_bytes:>7}{spilled:>9}")
    bad = [k for k in kernels if k.spills and k.value in ("fp16", "int8")]
    for k in bad:
        print(f"{k.arch}: {k.op} with {k.value} values spills", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
