"""Draw what the car sees: six cameras with projected boxes around a view from above.

A frame becomes a PNG, a scene a GIF or an MP4. Ground truth is drawn in class colours; with --results, predictions
take the colours and ground truth becomes white outlines.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdbev_deploy.cli.progress import progress_bar
from qdbev_deploy.errors import ExitCode, QdbevError, usage_error

if TYPE_CHECKING:
    from qdbev_deploy.boxes import Boxes
    from qdbev_deploy.data.nuscenes import Frame, NuScenesSequences, Scene
    from qdbev_deploy.evaluate.canvas import Picture
    from qdbev_deploy.evaluate.submission import Results

EPILOG = """\
examples:
  qdbev-deploy show data/nuscenes
  qdbev-deploy show data/nuscenes --scene scene-0103 --frame 12 --results results.json --out frame.png
  qdbev-deploy show data/nuscenes --scene scene-0103 --out scene.mp4
"""

_log = logging.getLogger(__name__)
_usage = partial(usage_error, "show")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataroot", type=Path, metavar="DATAROOT", help="nuScenes data root")
    parser.add_argument("--version", metavar="NAME", help="such as v1.0-mini (default: the only one in the data root)")
    parser.add_argument("--scene", metavar="NAME", help="scene name (default: the first one)")
    parser.add_argument("--frame", metavar="TOKEN|INDEX", help="sample token, or index of a key frame in the scene")
    parser.add_argument("--results", type=Path, metavar="RESULTS.json", help="draw these predictions, too")
    parser.add_argument(
        "--min-score", type=float, default=0.25, metavar="S", help="leave out predictions below S (0.25)"
    )
    parser.add_argument("--no-truth", action="store_true", help="do not draw ground truth")
    parser.add_argument("--out", type=Path, default=Path("show.png"), help=".png, .gif or .mp4 (default: show.png)")
    parser.add_argument("--width", type=int, default=1600, metavar="PIXELS", help="width of the picture (1600)")
    parser.add_argument("--palette", type=int, metavar="N", help="PNG with N colours (2-256): a smaller file")
    parser.add_argument("--key-frames", action="store_true", help="a video of key frames alone, without the sweeps")


def _check(args: argparse.Namespace) -> None:
    from qdbev_deploy.evaluate.outputs import check_output_file
    from qdbev_deploy.evaluate.pictures import Layout
    from qdbev_deploy.evaluate.video import FORMATS

    suffix = args.out.suffix.lower()
    if suffix not in FORMATS:
        raise _usage(f"--out {args.out}", "a name that ends with " + ", ".join(FORMATS))
    if suffix != ".png" and args.frame is not None:
        raise _usage(f"--frame with --out {args.out}", "--out NAME.png for one frame")
    if args.palette is not None and (suffix != ".png" or not 2 <= args.palette <= 256):
        raise _usage(f"--palette {args.palette} with --out {args.out}", "2 to 256 colours, and a PNG")
    if not math.isfinite(args.min_score):
        raise _usage(f"--min-score {args.min_score}", "a finite number: scores lie between 0 and 1")
    Layout.of(args.width)
    check_output_file(args.out)


def _scene_of_token(sequences: NuScenesSequences, token: str) -> str:
    try:
        sample = sequences.nusc.get("sample", token)
    except KeyError:
        raise QdbevError(
            f"no key frame with the token {token} in {sequences.dataroot}",
            "a sample token of this data root, or the index of a key frame",
            "pass --scene NAME --frame INDEX",
        ) from None
    name: str = sequences.nusc.get("scene", sample["scene_token"])["name"]
    return name


def _choose(
    sequences: NuScenesSequences, args: argparse.Namespace, key_frames_only: bool
) -> tuple[Scene, Frame | None]:
    """The scene, and the one frame of it that is asked for: None means all."""
    frame: str | None = args.frame
    by_index = frame is None or re.fullmatch(r"\d{1,6}", frame)
    name = args.scene or sequences.scene_names[0]
    if not by_index:
        name = _scene_of_token(sequences, str(frame))
        if args.scene not in (None, name):
            raise QdbevError(f"the frame {frame} belongs to {name}", f"a frame of {args.scene}", "leave out --scene")
    if name not in sequences.scene_names:
        raise QdbevError(
            f"no scene '{name}' in {sequences.dataroot}",
            "one of " + ", ".join(sequences.scene_names[:12]) + (" ..." if len(sequences.scene_names) > 12 else ""),
            "pass --scene with one of these",
        )
    (scene,) = sequences.scenes([name], key_frames_only=key_frames_only)
    if args.out.suffix.lower() != ".png":
        return scene, None
    if not by_index:
        return scene, next(candidate for candidate in scene.frames if candidate.token == frame)
    index = int(frame or 0)
    if index >= len(scene.frames):
        raise QdbevError(
            f"frame {index} of {name}", f"0 to {len(scene.frames) - 1}: it has {len(scene.frames)} key frames",
            "pass another --frame",
        )  # fmt: skip
    return scene, scene.frames[index]


def _predictions(results: Results | None, frame: Frame, min_score: float) -> Boxes | None:
    from qdbev_deploy.evaluate.submission import records_to_boxes

    if results is None:
        return None
    boxes = records_to_boxes(results[frame.token], frame)
    return boxes[boxes.score >= min_score]


def _check_frames(args: argparse.Namespace, results: Results, frames: tuple[Frame, ...]) -> None:
    for frame in frames:
        if frame.token not in results:
            kind = "key frame" if frame.is_key_frame else "sweep"
            raise QdbevError(
                f"{args.results} has no boxes for the {kind} {frame.token} ({frame.scene}, frame {frame.index})",
                "an entry for every frame that is drawn",
                "pass --key-frames" if not frame.is_key_frame else "write results for the split that holds this scene",
            )


def run(args: argparse.Namespace) -> int:
    from qdbev_deploy.data.nuscenes import NuScenesSequences
    from qdbev_deploy.evaluate.annotations import SceneAnnotations, visible_boxes
    from qdbev_deploy.evaluate.pictures import describe, draw_frame
    from qdbev_deploy.evaluate.results_file import read_results
    from qdbev_deploy.evaluate.video import write_png, write_video

    _check(args)
    results = read_results(args.results) if args.results is not None else None
    sequences = NuScenesSequences(args.dataroot, args.version)
    still = args.out.suffix.lower() == ".png"
    scene, frame = _choose(sequences, args, key_frames_only=still or args.key_frames)
    frames = scene.frames if frame is None else (frame,)
    if results is not None:
        _check_frames(args, results, frames)
    annotations = None if args.no_truth else SceneAnnotations(sequences.nusc, scene)

    def draw(one: Frame) -> Picture:
        objects = None if annotations is None else annotations.at(one)  # None also where nobody knows
        truth = None if objects is None else visible_boxes(objects, one)
        predictions = _predictions(results, one, args.min_score)
        caption = describe(one, scene.frames[0], truth=truth is not None, predictions=predictions is not None)
        return draw_frame(one, caption, truth=truth, predictions=predictions, width=args.width)

    if frame is not None:
        write_png(args.out, draw(frame), colours=args.palette)
    else:
        write_video(args.out, _with_progress(frames, draw), fps=2.0 if args.key_frames else 12.0)
    said: dict[str, Any] = {"out": str(args.out), "scene": scene.name, "frames": [one.token for one in frames]}
    if args.json:
        print(json.dumps(said))
    else:
        what = f"frame {frames[0].index}" if frame is not None else f"{len(frames)} frames"
        print(f"{args.out}: {what} of {scene.name}")
    return int(ExitCode.DONE)


def _with_progress(frames: tuple[Frame, ...], draw: Any) -> Iterator[Picture]:
    with progress_bar("drawing", len(frames)) as advance:
        for frame in frames:
            yield draw(frame)
            advance()
