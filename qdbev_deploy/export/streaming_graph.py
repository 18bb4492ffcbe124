"""The model as the file shows it: the state's type, the flag's rank, the layers and the image's form as asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdbev_deploy.contract import TensorSpec, VariantSpec, stream_inputs, stream_outputs
from qdbev_deploy.export.options import ExportOptions
from qdbev_deploy.model import BEVFormer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


def graph_inputs(spec: VariantSpec, options: ExportOptions) -> tuple[TensorSpec, ...]:
    """The contract's inputs with the options applied."""
    return stream_inputs(spec, options.io, options.image)


def graph_outputs(spec: VariantSpec, options: ExportOptions) -> tuple[TensorSpec, ...]:
    """The contract's outputs with the options applied."""
    return stream_outputs(spec, options.io)


class StreamingGraph(nn.Module):
    """Wraps a model; what it computes in torch is what the parity report holds the file against."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: BEVFormer, options: ExportOptions) -> None:
        super().__init__()
        self.model = model
        self.spec, self.options = model.spec, options
        preprocess = model.spec.preprocess
        self.register_buffer("mean", torch.tensor(preprocess.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std)[:, None, None], persistent=False)

    def _network_input(self, image: Tensor) -> Tensor:
        """`PreprocessSpec` in the graph: resize in float, order, normalise, pad."""
        preprocess = self.spec.preprocess
        (height, width), (padded_height, padded_width) = preprocess.resized_hw, preprocess.padded_hw
        # The cast comes first: TensorRT takes 8-bit inputs, but computes with none.
        planes = image[0].float().permute(0, 3, 1, 2)
        planes = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False, antialias=False)
        if preprocess.channel_order == "bgr":
            planes = planes.flip(1)
        planes = (planes - self.mean) / self.std
        return F.pad(planes, (0, padded_width - width, 0, padded_height - height))[None]

    def forward(
        self, image: Tensor, prev_bev: Tensor, use_prev_bev: Tensor, can_bus: Tensor, lidar2img: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.options.image == "uint8":
            image = self._network_input(image)
        bev_embed, classes, coords = self.model.step(
            image, prev_bev.float(), use_prev_bev, can_bus, lidar2img, all_layers=self.options.io == "mlperf"
        )
        return bev_embed.half() if self.options.io == "fp16" else bev_embed, classes, coords
