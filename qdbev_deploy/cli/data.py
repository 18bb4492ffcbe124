"""Make a synthetic nuScenes data set, or say what a data root holds and what it lacks."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qdbev_deploy.cli.progress import progress_bar
from qdbev_deploy.data.tables import SYNTH_VERSIONS
from qdbev_deploy.errors import ExitCode

if TYPE_CHECKING:
    from qdbev_deploy.data.info import DatasetInfo

EPILOG = """\
examples:
  qdbev-deploy data synth --out data/synth
  qdbev-deploy data synth --out data/big --version v1.0-trainval --scenes 100 --frames 40 --seed 7
  qdbev-deploy data info data/synth
  qdbev-deploy data info /data/nuscenes --version v1.0-trainval --json
"""

_SYNTH_EPILOG = """\
examples:
  qdbev-deploy data synth --out data/synth
  qdbev-deploy data synth --out data/stream --scenes 2 --sweeps all

The devkit reads the result as it reads nuScenes. Scenes carry names of the official splits: of five scenes, one belongs
to mini_val (val), the others to mini_train (train).
"""

_INFO_EPILOG = """\
example:
  qdbev-deploy data info data/synth

Returns 3 where something is missing or broken.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    raw = argparse.RawDescriptionHelpFormatter
    synth = actions.add_parser(
        "synth", help="write a synthetic data set", description="Write a synthetic nuScenes data set.",
        epilog=_SYNTH_EPILOG, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    synth.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to create")
    synth.add_argument("--scenes", type=int, default=10, metavar="N", help="scenes (default: 10)")
    synth.add_argument("--frames", type=int, default=20, metavar="M", help="key frames a scene, at 2 Hz (default: 20)")
    synth.add_argument(
        "--version", choices=SYNTH_VERSIONS, default=SYNTH_VERSIONS[0],
        help="whose scene names and splits it has (default: %(default)s)",
    )  # fmt: skip
    synth.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, another world (default: 0)")
    synth.add_argument(
        "--sweeps", choices=("val", "all", "none"), default="val",
        help="which scenes have the 12 Hz frames between key frames: those of the validation split, on which "
        "streaming is measured (default), all (five times as large), or none",
    )  # fmt: skip
    synth.add_argument("--no-can-bus", action="store_true", help="leave out the CAN bus expansion")
    synth.add_argument("--workers", type=int, metavar="N", help="processes that draw (default: one a core)")
    synth.add_argument(
        "--overwrite", action="store_true", help="replace a synthetic data set that is there, and nothing else"
    )

    info = actions.add_parser(
        "info", help="look through a data root", description="Say what a data root holds and what it lacks.",
        epilog=_INFO_EPILOG, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    info.add_argument("dataroot", type=Path, metavar="DIR", help="the folder with samples/, sweeps/, maps/, v1.0-*/")
    info.add_argument("--version", help="which version, where there are several")
    for action in (synth, info):  # so that they may stand at the end of the line, too
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document on stdout"
        )
        action.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="log every step to stderr"
        )


def run(args: argparse.Namespace) -> int:
    return _synth(args) if args.action == "synth" else _info(args)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Being told to end is like Ctrl-C: what is half-written and who helps with it go first."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told twice, it still tidies up
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, which alone receives signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _synth(args: argparse.Namespace) -> int:
    from qdbev_deploy.data.synth.write import synthesise

    start = time.perf_counter()
    with _sigterm_interrupts(), progress_bar("drawing images", None) as progress:
        summary = synthesise(
            args.out,
            scenes=args.scenes,
            frames=args.frames,
            version=args.version,
            seed=args.seed,
            sweeps=args.sweeps,
            can_bus=not args.no_can_bus,
            workers=args.workers,
            overwrite=args.overwrite,
            progress=progress,
        )
    seconds = time.perf_counter() - start
    rate = summary.images / seconds
    if args.json:
        facts = {
            "path": str(summary.path), "version": summary.version, "scenes": list(summary.scenes),
            "key_frames_per_scene": summary.key_frames, "images": summary.images, "annotations": summary.annotations,
            "bytes": summary.bytes, "seconds": round(seconds, 3), "images_per_second": round(rate, 2),
        }  # fmt: skip
        print(json.dumps(facts, indent=2))
    else:
        print(
            f"{summary.path}: {len(summary.scenes)} scenes of {summary.key_frames} key frames, "
            f"{summary.images} images, {summary.annotations} annotations, {summary.bytes / 1e6:.1f} MB "
            f"in {seconds:.1f} s ({rate:.0f} images/s)"
        )
        print(f"next: qdbev-deploy data info {summary.path}")
    return ExitCode.DONE


def _info(args: argparse.Namespace) -> int:
    from qdbev_deploy.data.info import inspect_dataroot

    info = inspect_dataroot(args.dataroot, args.version)
    if args.json:
        print(json.dumps(info.to_dict(), indent=2))
    else:
        _print_info(info)
    return ExitCode.DONE if info.whole else ExitCode.BAD_INPUT


def _print_info(info: DatasetInfo) -> None:
    splits = ", ".join(f"{name} ({count})" for name, count in info.splits.items()) or "none of the official ones"
    others = [version for version in info.versions if version != info.version]
    rows = [
        ("data root", info.dataroot),
        ("version", info.version + (f" (also here: {', '.join(others)})" if others else "")),
        ("scenes", str(info.scenes)),
        ("splits", splits),
        ("key frames", str(info.key_frames)),
        ("camera sweeps", str(info.sweeps)),
        ("annotations", str(info.annotations)),
        ("ego motion", info.ego_motion),
        ("size", f"{info.bytes / 1e6:.1f} MB"),
    ]
    rows += [
        (channel, f"{info.files.get(channel, 0)} files"
         + (f", {info.missing_files[channel]} missing" if channel in info.missing_files else "")
         + (f", {info.broken_files[channel]} broken" if channel in info.broken_files else ""))
        for channel in sorted({*info.files, *info.missing_files})
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        print(f"{name:<{width}}{value}")
    if info.whole:
        print("\nnothing is missing")
    else:
        print(f"\n{len(info.problems)} problem(s):")
        for problem in info.problems:
            print(f"- {problem.found}.\n  next: {problem.next_step}")
