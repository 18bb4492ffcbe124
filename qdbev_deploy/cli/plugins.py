"""Build the plugin library for a target machine, or say what a built one holds."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from qdbev_deploy.errors import ExitCode

EPILOG = """\
examples:
  qdbev-deploy plugins build
  qdbev-deploy plugins build --arch 87 --tensorrt-root /opt/tensorrt
  qdbev-deploy plugins build --cpu-only
  qdbev-deploy plugins info
"""

_BUILD_EPILOG = """\
examples:
  qdbev-deploy plugins build
  qdbev-deploy plugins build --arch 87 --arch 110 --out build/boards
  qdbev-deploy plugins build --arch 87 --toolchain plugins/cmake/jetson-aarch64.cmake --tensorrt-root /opt/jetson

The library is built on the machine that will run it, or cross-compiled with a toolchain file. A second build reuses
what has not changed.
"""


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a number from 1")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    raw = argparse.RawDescriptionHelpFormatter
    build = actions.add_parser(
        "build", help="build the library with CMake", description="Build the plugin library with CMake.",
        epilog=_BUILD_EPILOG, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    kernels = build.add_mutually_exclusive_group()
    kernels.add_argument(
        "--arch", action="append", default=[], metavar="CC",
        help="compute capability without its dot (87: Orin, 110: Thor); may be repeated (default: this machine's GPU)",
    )  # fmt: skip
    kernels.add_argument(
        "--cpu-only", action="store_true", help="the ops on the CPU only: no kernels, no TensorRT plugins"
    )
    build.add_argument(
        "--tensorrt-root", type=Path, metavar="DIR", help="where TensorRT's headers are (default: search)"
    )
    build.add_argument(
        "--fetch-headers", action="store_true", help="download NVIDIA's public headers if none are found"
    )
    build.add_argument("--toolchain", type=Path, metavar="FILE", help="CMake toolchain file, for cross-compiling")
    build.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the library (default: where it will be found)"
    )
    build.add_argument("--jobs", type=_count, metavar="N", help="compilers at once (default: one a core)")
    info = actions.add_parser(
        "info", help="version, ABI and contents of a library", description="Say what a built library holds.",
        formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    info.add_argument("library", nargs="?", type=Path, help="a library (default: the one that would be used)")
    # Both actions also take the options that every command has.
    for action in (build, info):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        action.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from qdbev_deploy.plugins import library_info

    note = ""
    if args.action == "build":
        from qdbev_deploy.plugin_build import build_library, describe, plan_build

        plan = plan_build(
            out=args.out, architectures=args.arch, cpu_only=args.cpu_only, tensorrt_root=args.tensorrt_root,
            toolchain=args.toolchain, fetch_headers=args.fetch_headers,
        )  # fmt: skip
        print(f"building {describe(plan)}", file=sys.stderr)
        library = build_library(plan, jobs=args.jobs, log=sys.stderr if args.verbose else None)
        if args.toolchain:  # made for another processor: this one cannot load it
            print(json.dumps({"path": str(library)}, indent=2) if args.json else f"built {library}")
            return int(ExitCode.DONE)
        args.library = library
        note = plan.why_architectures
    info = library_info(args.library)
    if args.json:
        print(json.dumps(info.to_dict() | ({"architectures_because": note} if note else {}), indent=2))
        return int(ExitCode.DONE)
    print(f"library        {info.path}")
    print(f"version        {info.version}, ABI {info.abi}")
    print(f"CUDA           {', '.join('sm_' + arch for arch in info.cuda_architectures) or 'none: CPU ops only'}")
    print(f"TensorRT       {'plugins for ' + info.tensorrt if info.tensorrt else 'no plugins'}")
    print(f"ops            {', '.join(info.ops)}")
    return int(ExitCode.DONE)
