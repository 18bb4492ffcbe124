"""The main job end to end, by the commands a user would type. Writes demo-out/; takes a few minutes without a GPU.

    python examples/demo.py [--out demo-out]

It draws a synthetic nuScenes, proves the road to the official evaluator with ground truth, streams the shipped detector
(an untrained one while none is shipped, and says so) through the validation scenes, quantises it to four and six bits,
exports it with its integers and proves the file against torch, checks it for a target, and draws a frame.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from pathlib import Path

from qdbev_deploy.cli import main as qdbev
from qdbev_deploy.data.nuscenes import NuScenesSequences
from qdbev_deploy.evaluate.submission import ground_truth_records, write_submission
from qdbev_deploy.model import build_model, save_checkpoint


def step(number: int, what: str) -> None:
    print(f"\n=== {number}. {what}", flush=True)


def run(*arguments: str) -> None:
    """One command, shown as it would be typed."""
    print(f"$ qdbev-deploy {shlex.join(arguments)}", flush=True)
    code = qdbev(arguments)
    if code != 0:
        sys.exit(f"the demo stops here: exit code {code}")


def scores(folder: Path) -> tuple[float, float]:
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["scores"]
    return found["map"], found["nds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    out: Path = parser.parse_args().out
    started = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    data = str(out / "data")

    step(1, "what this machine has")
    run("doctor", "--for", "cpu", "--for", "data", "--for", "train")

    step(2, "a synthetic nuScenes, which the official devkit reads as it reads the real one")
    run("data", "synth", "--out", data, "--scenes", "5", "--frames", "8")
    run("data", "info", data)

    step(3, "the evaluator's road, proved: ground truth written as detections must score 1.0")
    sequences = NuScenesSequences(data)
    truth = out / "ground_truth.json"
    frames = [frame for scene in sequences.scenes("mini_val") for frame in scene.frames]
    write_submission(truth, {f.token: ground_truth_records(sequences.ground_truth(f), f) for f in frames})
    run("evaluate", str(truth), "--dataroot", data, "--out", str(out / "truth-scores"))
    true_map, true_nds = scores(out / "truth-scores")
    if true_map < 0.999:
        sys.exit(f"ground truth scored mAP {true_map}: the road to the evaluator is broken")

    step(4, "a detector, streamed frame by frame with its state, and scored")
    model = out / "micro.pt"
    save_checkpoint(model, build_model("micro", seed=0))
    print("micro with random weights: no trained student is shipped yet, so its score must be near 0")
    run("inspect", str(model))
    run("evaluate", str(model), "--dataroot", data, "--out", str(out / "micro-scores"))
    model_map, model_nds = scores(out / "micro-scores")

    step(5, "the same as a stream: an output counts when it is ready, 150 ms late")
    run("evaluate", str(model), "--dataroot", data, "--streaming", "--latency-ms", "150")

    step(6, "four bits for weights, six for activations; exported with its integers, and proved against torch")
    student, exported = out / "student.pt", out / "student.onnx"
    run(
        "calibrate",
        "--checkpoint",
        str(model),
        "--recipe",
        "w4a6",
        "--dataroot",
        data,
        "--frames",
        "8",
        "-o",
        str(student),
    )
    run("export", "--checkpoint", str(student), "-o", str(exported), "--dataroot", data, "--frames", "6")

    step(7, "what TensorRT 10.3 on an Orin would say of that file")
    run("check", str(exported), "--target", "trt10.3", "--gpu", "orin")

    step(8, "a picture")
    picture = out / "frame.png"
    run("show", data, "--scene", frames[0].scene, "--frame", "3", "--out", str(picture))

    print(f"\nground truth:    mAP {true_map:.3f}, NDS {true_nds:.3f}")
    print(f"untrained micro: mAP {model_map:.3f}, NDS {model_nds:.3f}")
    print(f"look at {picture}; {time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
