"""Preprocessing time, the loader's frames a second, and how fast the synthetic data set is drawn.

    python benchmarks/data.py [--variants micro tiny ...] [--dataroot DIR] [--scenes N] [--frames M]

Decoding and preprocessing are those of one frame, six 1600x900 images, on one core. The loader reads the 12 Hz stream
of all scenes over and over, images from the page cache, for four seconds; its first frame, which waits
for the processes to start, is timed apart. Without --dataroot a synthetic set is drawn first, and that is timed too.
Writes benchmarks/results/data.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from rich.console import Console
from rich.table import Table

from qdbev_deploy.contract import VARIANTS, PreprocessSpec
from qdbev_deploy.data.loader import FrameLoader
from qdbev_deploy.data.nuscenes import Frame, NuScenesSequences
from qdbev_deploy.data.preprocess import preprocess, read_image
from qdbev_deploy.data.synth.write import synthesise

STREAM_HZ = 12.0
LOADED_S = 4.0  # how long the loader is watched


def draw(out: Path, scenes: int, frames: int) -> dict[str, Any]:
    """A synthetic set with sweeps in all scenes, and what it took; also the processor time an image costs."""
    start = time.process_time()
    alone = synthesise(out.with_name("alone"), scenes=2, frames=3, sweeps="all", workers=1)
    core_ms = (time.process_time() - start) * 1e3 / alone.images
    start = time.perf_counter()
    summary = synthesise(out, scenes=scenes, frames=frames, sweeps="all")
    seconds = time.perf_counter() - start
    return {
        "images": summary.images,
        "seconds": round(seconds, 2),
        "images_per_s": round(summary.images / seconds, 1),
        "core_ms_per_image": round(core_ms, 1),
        "megabytes": round(summary.bytes / 1e6, 2),
        "kilobytes_per_image": round(summary.bytes / 1e3 / summary.images, 1),
    }


def on_one_core(frame: Frame, specs: dict[str, PreprocessSpec], runs: int) -> dict[str, Any]:
    """Decoding and preprocessing of six images with the process bound to a single core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        images = np.stack([read_image(path) for path in frame.image_paths])
        return {
            "decode": record.timed_ms(lambda: [read_image(path) for path in frame.image_paths], runs=runs),
            **{
                name: record.timed_ms(lambda spec=spec: preprocess(images, spec), runs=runs)
                for name, spec in specs.items()
            },
        }
    finally:
        os.sched_setaffinity(0, cores)


def loader_rate(frames: list[Frame], spec: PreprocessSpec, workers: int) -> dict[str, float]:
    """Frames a second once the stream runs, in the process (0 workers) or beside it."""
    stream = list(itertools.islice(itertools.cycle(frames), 1000))
    begin = time.perf_counter()
    iterator = (loaded for loaded in FrameLoader(stream, spec, workers=workers, copy=False))
    next(iterator)
    first = time.perf_counter()
    delivered, seconds = 0, 0.0
    for _ in iterator:
        delivered += 1
        seconds = time.perf_counter() - first
        if seconds > LOADED_S:
            break
    iterator.close()
    return {
        "frames_per_s": round(delivered / seconds, 1),
        "first_frame_ms": round((first - begin) * 1e3, 1),
        "of_12_hz": round(delivered / seconds / STREAM_HZ, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--dataroot", type=Path, help="a data root to read (default: draw a synthetic one)")
    parser.add_argument("--scenes", type=int, default=4, help="scenes to draw (default: 4)")
    parser.add_argument("--frames", type=int, default=6, help="key frames a scene (default: 6)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of loader processes to try")
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    specs = {name: VARIANTS[name].preprocess for name in args.variants}

    # Other work on the machine shows in every figure below but the processor times.
    results: dict[str, Any] = {
        "source": "a data root" if args.dataroot else "synthetic",
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
    }
    with tempfile.TemporaryDirectory() as folder:
        dataroot = args.dataroot
        if dataroot is None:
            dataroot = Path(folder) / "data"
            results["synth"] = draw(dataroot, args.scenes, args.frames)
        scenes = NuScenesSequences(dataroot).scenes(key_frames_only=False)
        frames = [frame for scene in scenes for frame in scene.frames]
        results["one_core_ms"] = on_one_core(frames[0], specs, args.runs)
        results["loader"] = {
            name: {str(workers): loader_rate(frames, spec, workers) for workers in args.workers}
            for name, spec in specs.items()
        }

    console = Console()
    if "synth" in results:
        synth = results["synth"]
        console.print(
            f"synth: {synth['images']} images in {synth['seconds']} s, {synth['images_per_s']} images/s, "
            f"{synth['core_ms_per_image']} ms of one core an image, "
            f"{synth['kilobytes_per_image']} kB an image with all other files"
        )
    decode = results["one_core_ms"]["decode"]["median_ms"]
    console.print(f"load average before: {results['load_average_before'][0]}")
    console.print(f"decoding six images on one core: {decode} ms")
    table = Table(
        "variant", "preprocess, one core (ms)", *(f"loader, {workers} workers (frames/s)" for workers in args.workers)
    )
    for name in specs:
        rates = [f"{results['loader'][name][str(workers)]['frames_per_s']:.1f}" for workers in args.workers]
        table.add_row(name, f"{results['one_core_ms'][name]['median_ms']:.1f}", *rates)
    console.print(table)
    console.print(f"written: {record.write('data', results)}")


if __name__ == "__main__":
    main()
