"""The main job end to end, by the commands a user would type. Writes demo-out/; takes a few minutes without a GPU.

    python examples/demo.py [--out demo-out]

A synthetic nuScenes is drawn, and the road to the official evaluator proved with ground truth. Then a student goes down
the whole road: exported with its integers and proved against torch, checked for a target, built into an engine whose
precision and outputs are proved, run frame by frame with its state, scored, measured, reported, packaged, and drawn.

The student is examples/micro/student.pt, which was trained on such scenes. A checkout without it quantises random
weights on the spot: the road is the same, and the scores must be near 0.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from qdbev_deploy.data.nuscenes import Frame, NuScenesSequences
from qdbev_deploy.evaluate.submission import ground_truth_records, write_submission

SHIPPED = Path(__file__).parent / "micro" / "student.pt"
SPLIT = "mini_val"
NOISE_BOXES = 20  # of random weights in the picture
MARK = ".made-by-the-demo"  # in the folder that the demo may replace


def step(number: int, what: str) -> None:
    print(f"\n=== {number}. {what}", flush=True)


def run(*arguments: object) -> None:
    """One command, shown as it would be typed, in a process of its own: what it measures is not the demo's."""
    words = [str(argument) for argument in arguments]
    print(f"$ qdbev-deploy {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "qdbev_deploy.cli", *words], check=False).returncode
    if code != 0:
        sys.exit(f"the demo stops here: exit code {code}")


def fresh_folder(out: Path) -> None:
    """An empty folder: a new one, or that of an earlier demo, which is removed. Nobody else's is."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        sys.exit(f"{out} is no folder: pass another --out")
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARK).is_file():
            sys.exit(f"{out} is not empty, and no demo made it: pass another --out, or empty it yourself")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def scores(folder: Path) -> tuple[float, float]:
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["scores"]
    return found["map"], found["nds"]


def prove_the_evaluator(out: Path, data: Path, frames: list[Frame], sequences: NuScenesSequences) -> None:
    """Ground truth, written as detections, must score 1."""
    truth = out / "ground_truth.json"
    write_submission(truth, {f.token: ground_truth_records(sequences.ground_truth(f), f) for f in frames})
    run("evaluate", truth, "--dataroot", data, "--out", out / "truth-scores")
    truth_map, _ = scores(out / "truth-scores")
    if truth_map < 0.999:
        sys.exit(f"ground truth scored mAP {truth_map}: the road to the evaluator is broken")


def the_student(out: Path, data: Path) -> tuple[Path, bool]:
    """(a quantised checkpoint, whether it was trained)."""
    if SHIPPED.is_file():
        return SHIPPED, True
    from qdbev_deploy.model import build_model, save_checkpoint

    print("no trained student is in this checkout: the weights are random, so its scores must be near 0")
    model, student = out / "micro.pt", out / "student.pt"
    save_checkpoint(model, build_model("micro", seed=0))
    run("calibrate", "--checkpoint", model, "--recipe", "w4a6", "--dataroot", data, "--frames", 6, "-o", student)
    return student, False


def least_score(results: Path, frame: Frame, usual: float, boxes_at_least: int) -> float:
    """The score from which boxes are drawn: the usual one, or less where too few boxes reach it."""
    boxes = json.loads(results.read_text(encoding="utf-8"))["results"][frame.token]
    ordered = sorted((box["detection_score"] for box in boxes), reverse=True)
    return min(usual, float(ordered[min(boxes_at_least, len(ordered)) - 1])) if ordered else usual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    out: Path = parser.parse_args().out
    started = time.perf_counter()
    fresh_folder(out)
    data, onnx, bundle = out / "data", out / "student.onnx", out / "student.qdbev"
    bench, report = out / "bench.json", out / "report.html"

    step(1, "what this machine has")
    run("doctor", "--for", "cpu", "--for", "data", "--for", "train")

    step(2, "a synthetic nuScenes, which the official devkit reads as it reads the real one")
    run("data", "synth", "--out", data, "--scenes", 4, "--frames", 8)
    run("data", "info", data)
    sequences = NuScenesSequences(data)
    frames = [frame for scene in sequences.scenes(SPLIT) for frame in scene.frames]

    step(3, "the evaluator's road, proved: ground truth written as detections must score 1.0")
    prove_the_evaluator(out, data, frames, sequences)

    step(4, "a student: BEVFormer micro with weights of four bits and activations of six")
    student, trained = the_student(out, data)
    run("inspect", student)

    step(5, "exported with its integers unchanged, and proved against torch")
    run("export", "--checkpoint", student, "-o", onnx, "--dataroot", data, "--frames", 6)

    step(6, "what TensorRT 10.3 on an Orin would say of that file")
    run("check", onnx, "--target", "trt10.3", "--gpu", "orin")

    step(7, "built into an engine, its precision and its outputs proved")
    run("build", "--onnx", onnx, "--int8", "--dataroot", data, "--frames", 6, "-o", bundle)

    step(8, "run over the validation scenes, frame by frame with its state, and scored")
    run("run", bundle, "--dataroot", data, "--split", SPLIT, "--out", out / "results")
    results = out / "results" / "results.json"
    run("evaluate", results, "--dataroot", data, "--out", out / "scores")
    student_map, student_nds = scores(out / "scores")

    step(9, "measured, with a report to open in a browser")
    run(
        "bench", bundle, "--dataroot", data, "--frames", 60, "--repeats", 2, "--warmup", 10, "--layers",
        "-o", bench, "--report", report,
    )  # fmt: skip

    step(10, "the same scenes as a stream: an output counts when it is ready")
    run("evaluate", bundle, "--dataroot", data, "--streaming", "--key-frames", "--latency-from", bench)

    step(11, "what is in the engine, and its graph")
    run("inspect", bundle, "--top", 10, "--graph", out / "engine.html")

    step(12, "for a fleet: a model repository of the Triton Inference Server")
    run("package", bundle, "--triton", out / "triton")

    step(13, "a picture: its detections, and ground truth in white")
    picture, frame = out / "detections.png", frames[3]
    usual, at_least = (0.25, 5) if trained else (1.0, NOISE_BOXES)
    least = least_score(results, frame, usual, at_least)
    if not trained:
        print(f"the {NOISE_BOXES} best boxes of random weights are noise")
    run(
        "show", data, "--scene", frame.scene, "--frame", 3, "--results", results, "--min-score", repr(least),
        "--out", picture,
    )  # fmt: skip

    used = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime
               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))  # fmt: skip
    kind = "the trained student of examples/micro" if trained else "random weights"
    print(f"\n{kind}: mAP {student_map:.3f}, NDS {student_nds:.3f}")
    print(f"open {report} and {out / 'engine.html'}, look at {picture}")
    print(f"{time.perf_counter() - started:.0f} s in all, {used:.0f} s of processor time")


if __name__ == "__main__":
    main()
