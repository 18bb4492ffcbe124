"""What the order of sums makes of a quantised student: the shipped one in ONNX Runtime at every level, and in torch.

    python benchmarks/levels.py [--frames N]

Graph optimisation and convolution kernels change the order in which floats are summed, the last bit of a sum settles
whether it rounds up or down, and a stream carries that on. So runs of one file drift apart, torch from itself as well;
whether they see the same is a matter of their scores. Each run feeds back its own state over two synthetic scenes, and
the official evaluator scores it. How far scores go when nothing but such bits changes, torch says: it runs again with
every bias off by a millionth of itself. Writes benchmarks/results/levels.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import record
import torch
from rich.console import Console
from rich.table import Table

from qdbev_deploy.contract import stream_inputs
from qdbev_deploy.data.stream_frames import parity_frames
from qdbev_deploy.export.accuracy import Accuracy
from qdbev_deploy.model import BEVFormer
from qdbev_deploy.quant import load_model
from qdbev_deploy.reference import UNFUSED, session_of, stream_of
from qdbev_deploy.streaming import StreamingSession

STUDENT = Path(__file__).parents[1] / "examples/micro/student"
LEVELS = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED",
          "all": "ORT_ENABLE_ALL"}  # fmt: skip
NUDGE, NUDGED = 1e-6, "torch, nudged"


def nudged(seed: int) -> BEVFormer:
    """The student with every bias off by about a millionth of itself."""
    model, _ = load_model(STUDENT.with_suffix(".pt"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(1 + NUDGE * torch.randn(parameter.shape, generator=generator))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=80, help="over two scenes; the most is 80")
    parser.add_argument("--nudged", type=int, default=6, help="runs of torch with biases a millionth off")
    args = parser.parse_args()
    model, _ = load_model(STUDENT.with_suffix(".pt"))

    def stream(level: str, config: Mapping[str, str] = UNFUSED) -> StreamingSession:
        settings = {"graph_optimization_level": getattr(onnxruntime.GraphOptimizationLevel, level)}
        runtime = session_of(str(STUDENT.with_suffix(".onnx")), config, settings=settings)
        return stream_of(runtime, stream_inputs(model.spec))

    runs = {"torch": model.session(), "torch, without oneDNN": model.session()}
    runs |= {f"{NUDGED} {seed}": nudged(seed).session() for seed in range(args.nudged)}
    runs |= {f"ONNX Runtime, level {name}": stream(level) for name, level in LEVELS.items()}
    runs["ONNX Runtime, its own fusion of Q/DQ"] = stream(LEVELS["all"], {})
    accuracy = Accuracy(model.spec)
    console = Console()
    with console.status("frames ...") as status, parity_frames(model.spec, "float32", None, args.frames) as (_, frames):
        for index, frame in enumerate(frames):
            status.update(f"frame {index + 1} ...")
            outputs = {}
            for name, run in runs.items():
                with torch.backends.mkldnn.flags(enabled=name != "torch, without oneDNN"):
                    output = run.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
                outputs[name] = (output.bev_embed, output.classes, output.coords)
            accuracy.add_all(frame, outputs)
    rows = {name: {"nds": scores.nds, "map": scores.map} for name, scores in accuracy.scores().items()}
    table = Table(title=f"the W4A6 student of micro over {args.frames} frames", box=None)
    for heading in ("run by", "NDS", "mAP"):
        table.add_column(heading, justify="left" if heading == "run by" else "right")
    for name, row in rows.items():
        table.add_row(name, f"{row['nds']:.4f}", f"{row['map']:.4f}")
    console.print(table)
    console.print(f"written to {record.write('levels', {'frames': args.frames, 'runs': rows})}")


if __name__ == "__main__":
    main()
