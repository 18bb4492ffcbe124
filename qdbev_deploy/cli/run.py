"""Stream scenes through a bundle, frame by frame as in the car, and write its boxes as a nuScenes submission.

The state stays where the engine computes; it is dropped where a scene begins or frames are missing. The results are
what `evaluate` scores and `show --results` draws.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdbev_deploy.cli.progress import progress_bar
from qdbev_deploy.errors import ExitCode, QdbevError

if TYPE_CHECKING:
    from qdbev_deploy.data.nuscenes import NuScenesSequences, Scene
    from qdbev_deploy.engine import BundleSession

EPILOG = """\
examples:
  qdbev-deploy run student.qdbev --dataroot data/nuscenes --scene scene-0103 --out results.json
  qdbev-deploy run student.qdbev --dataroot data/nuscenes --split mini_val --out results
"""
RESULTS = "results.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle (NAME.qdbev)")
    parser.add_argument("--dataroot", type=Path, required=True, metavar="DIR", help="nuScenes data root")
    parser.add_argument("--version", metavar="NAME", help="such as v1.0-mini (default: the only one in the data root)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--scene", action="append", metavar="NAME", help="a scene; may be repeated")
    which.add_argument("--split", help="such as mini_val (default: all scenes of the data root)")
    parser.add_argument("--sweeps", action="store_true", help="the 12 Hz stream, not its key frames alone")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR|FILE.json", help="where results.json goes")


def run(args: argparse.Namespace) -> int:
    from qdbev_deploy.evaluate.outputs import check_output_file, output_folder

    if args.max_frames is not None and args.max_frames < 1:
        raise QdbevError(f"--max-frames {args.max_frames}", "at least one frame", "leave it out for all frames",
                         exit_code=ExitCode.USAGE)  # fmt: skip
    _refuse_a_bundle(args.out)
    if args.out.suffix.lower() == ".json":
        check_output_file(args.out)
        return _run(args, args.out)
    with output_folder(args.out, [RESULTS]):
        return _run(args, args.out / RESULTS)


def _refuse_a_bundle(out: Path) -> None:
    """What is in a bundle was verified as a whole; nothing else is written into one."""
    from qdbev_deploy.engine.verification import is_bundle

    if inside := next((folder for folder in (out, *out.absolute().parents) if is_bundle(folder)), None):
        raise QdbevError(f"--out {out} lies in the bundle {inside}", "a place outside of bundles", "pass another --out",
                         exit_code=ExitCode.USAGE)  # fmt: skip


def _run(args: argparse.Namespace, out: Path) -> int:
    from qdbev_deploy.data.nuscenes import NuScenesSequences
    from qdbev_deploy.engine import Bundle
    from qdbev_deploy.evaluate.runner import detect_scenes
    from qdbev_deploy.evaluate.submission import write_submission

    bundle = Bundle.open(args.bundle)
    scenes = _scenes(NuScenesSequences(args.dataroot, args.version), args)
    count = sum(len(scene.frames) for scene in scenes)
    with bundle.session() as session:
        watched = _Watched(session)
        with progress_bar("frames", count) as advance:
            results = detect_scenes(watched.step, bundle.spec, scenes, on_frame=advance, image=bundle.image)
    write_submission(out, results)
    said: dict[str, Any] = {
        "out": str(out),
        "bundle": bundle.name,
        "backend": bundle.backend,
        "scenes": len(scenes),
        "frames": count,
        "resets": dict(watched.resets),
        "boxes": sum(map(len, results.values())),
        "frames_per_s": watched.frames_per_s,
    }
    if args.json:
        print(json.dumps(said, indent=2))
    else:
        _print(said)
    return int(ExitCode.DONE)


def _scenes(sequences: NuScenesSequences, args: argparse.Namespace) -> list[Scene]:
    scenes, left = [], args.max_frames
    for scene in sequences.scenes(args.scene or args.split, key_frames_only=not args.sweeps):
        frames = scene.frames if left is None else scene.frames[:left]
        if frames:
            scenes.append(dataclasses.replace(scene, frames=frames))
        left = None if left is None else left - len(frames)
    return scenes


class _Watched:
    """A session's step that counts resets and the time between its first frame's end and its last one's."""

    def __init__(self, session: BundleSession) -> None:
        self._session = session
        self.resets: Counter[str] = Counter()
        self._steps = 0
        self._first_end = self._last_end = 0.0

    def step(self, *frame: Any) -> Any:
        output = self._session.step(*frame)
        if output.reset:
            self.resets[output.reset_reason] += 1
        self._steps += 1
        self._last_end = time.perf_counter()
        self._first_end = self._first_end or self._last_end
        return output

    @property
    def frames_per_s(self) -> float | None:
        """None where one frame alone was run, whose time holds what is done once."""
        elapsed_s = self._last_end - self._first_end
        return (self._steps - 1) / elapsed_s if elapsed_s > 0 else None


def _print(said: dict[str, Any]) -> None:
    resets = ", ".join(f"{count} by {reason}" for reason, count in said["resets"].items())
    print(f"{said['out']}: {said['boxes']} boxes of {said['frames']} frames in {said['scenes']} scenes")
    print(f"the state was dropped {sum(said['resets'].values())} times: {resets}")
    if said["frames_per_s"] is not None:
        print(f"{said['frames_per_s']:.1f} frames a second as observed, loading included; `bench` measures")
