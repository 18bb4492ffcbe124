"""What quantising one part at a time costs: the tool behind a table like QD-BEV's first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from qdbev_deploy.calibration.recipe import PARTS, Part
from qdbev_deploy.data.nuscenes import Frame, NuScenesSequences
from qdbev_deploy.data.preprocess import load_frame
from qdbev_deploy.files import atomic_output
from qdbev_deploy.model import BEVFormer
from qdbev_deploy.quant.quantise import enable_parts
from qdbev_deploy.train.losses import detection_loss
from qdbev_deploy.train.matching import Targets, targets_of

ROWS: tuple[tuple[str, frozenset[Part]], ...] = (
    ("none", frozenset()),
    *((part, frozenset({part})) for part in PARTS),
    ("all", frozenset(PARTS)),
)


@torch.inference_mode()
def _mean_loss(
    model: BEVFormer, rollouts: Sequence[Sequence[Frame]], truth: dict[str, Targets], on_frame: Callable[[], object]
) -> float:
    """Detection loss of the last decoder layer over the sequences, each streamed with its own state."""
    losses = []
    session = model.session()
    for frames in rollouts:
        session.reset()
        for frame in frames:
            images, lidar2img = load_frame(frame, model.spec.preprocess)
            output = session.step(images, lidar2img, frame.ego, frame.scene)
            loss, _ = detection_loss(
                torch.from_numpy(output.classes),
                torch.from_numpy(output.coords),
                truth[frame.token],
                model.pts_bbox_head.code_weights,
            )
            losses.append(float(loss))
            on_frame()
    return float(np.mean(losses))


def sensitivity(
    model: BEVFormer,
    data: NuScenesSequences,
    rollouts: Sequence[Sequence[Frame]],
    on_frame: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Mean detection loss with nothing, each part, and everything quantised. The model keeps everything enabled."""
    truth = {
        frame.token: targets_of(data.ground_truth(frame).boxes, model.spec) for frames in rollouts for frame in frames
    }
    table = {}
    try:
        for name, parts in ROWS:
            enable_parts(model, set(parts))
            table[name] = _mean_loss(model, rollouts, truth, on_frame)
    finally:
        enable_parts(model, set(PARTS))
    return table


def plot(table: dict[str, float], title: str, path: Path) -> None:
    """The table as a bar chart: what each part adds to the float model's loss."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = [name for name in table if name != "none"]
    added = [table[name] - table["none"] for name in names]
    bars = axes.bar(names, added, color=["#4c78a8"] * len(PARTS) + ["#e45756"])
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=9)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.margins(y=0.15)
    axes.set_ylabel("loss added")
    axes.set_title(f"{title} (float: {table['none']:.2f})", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_output(path) as partial:
        figure.savefig(partial, format="png")
