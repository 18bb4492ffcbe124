"""Post-training quantisation of a checkpoint: activations observed over rolled-out sequences, scales applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from qdbev_deploy.calibration.cache import CalibrationCache
from qdbev_deploy.calibration.histogram import Histogram, Method
from qdbev_deploy.data.nuscenes import Frame
from qdbev_deploy.data.preprocess import load_frame
from qdbev_deploy.model import BEVFormer
from qdbev_deploy.quant.quantise import activation_quantizers, observing


def observe(
    model: BEVFormer, rollouts: Sequence[Sequence[Frame]], on_frame: Callable[[], object] = lambda: None
) -> dict[str, Histogram]:
    """Stream the sequences through the model in float and count its activations."""
    with observing(model) as histograms:
        session = model.session(all_layers=True)  # so that every decoder layer's class branch is seen
        for frames in rollouts:
            session.reset()
            for frame in frames:
                images, lidar2img = load_frame(frame, model.spec.preprocess)
                session.step(images, lidar2img, frame.ego, frame.scene)
                on_frame()
    return histograms


def apply_scales(cache: CalibrationCache, model: BEVFormer) -> None:
    """Give every activation quantiser its scale from the cache."""
    quantizers = activation_quantizers(model)
    cache.require(quantizers)
    for name, quantizer in quantizers.items():
        quantizer.set_scale(cache.scales[name])


@torch.no_grad()
def scales_of(
    model: BEVFormer, histograms: dict[str, Histogram], method: Method, percentile: float
) -> dict[str, float]:
    """The scale of each activation by the method."""
    quantizers = activation_quantizers(model)
    return {name: histogram.scale(method, quantizers[name].grid, percentile) for name, histogram in histograms.items()}
