"""BEVFormer as one module, and its streaming step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qdbev_deploy.contract import CAMERAS, TensorSpec, VariantSpec, stream_inputs, variant
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.model.fpn import FPN
from qdbev_deploy.model.head import Head, HeadOutputs
from qdbev_deploy.model.resnet import ResNet
from qdbev_deploy.streaming import StreamingSession


def require_shapes(wanted: Sequence[TensorSpec], given: Sequence[Tensor]) -> None:
    """Shapes are static, so a wrong one is a mistake and never a smaller or a larger batch."""
    for spec, tensor in zip(wanted, given):
        # The MLPerf harness feeds use_prev_bev without axes.
        if tuple(tensor.shape) != spec.shape and not (spec.name == "use_prev_bev" and tensor.numel() == 1):
            raise QdbevError(
                f"an input {spec.name} of shape {tuple(tensor.shape)}",
                f"{spec.shape}: {spec.meaning}",
                "pass one frame, as contract.stream_inputs describes it",
            )


class BEVFormer(nn.Module):
    """Six cameras in, a BEV map and boxes out. Parameter names are those of the official checkpoints.

    Training code calls `extract_features` and `pts_bbox_head`; everything else calls `step`.
    """

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.meta: dict[str, Any] = {}  # what the checkpoint says of itself beside its weights
        self.img_backbone = ResNet(spec.backbone)
        self.img_neck = FPN(spec)
        self.pts_bbox_head = Head(spec)

    def extract_features(self, images: Tensor) -> list[Tensor]:
        """images [B, cams, 3, H, W] -> the neck's maps, each [B, cams, C, h, w]."""
        batch = images.shape[:2]
        return [level.unflatten(0, batch) for level in self.img_neck(self.img_backbone(images.flatten(0, 1)))]

    def forward(
        self,
        images: Tensor,
        prev_bev: Tensor,
        use_prev_bev: Tensor,
        can_bus: Tensor,
        lidar2img: Tensor,
        *,
        all_layers: bool = False,
    ) -> HeadOutputs:
        """The streaming graph of the contract: inputs in its order, outputs in its order.

        `all_layers` gives classes and boxes of every decoder layer, otherwise of the last alone.
        """
        require_shapes(stream_inputs(self.spec)[:1], (images,))
        features = self.extract_features(images)
        return self.head_step(features, prev_bev, use_prev_bev, can_bus, lidar2img, all_layers=all_layers)

    step = forward

    def head_step(self, features: list[Tensor], *inputs: Tensor, all_layers: bool = False) -> HeadOutputs:
        """The same from the neck's feature maps and the contract's other inputs."""
        require_shapes(stream_inputs(self.spec)[1:], inputs)
        maps = [(1, len(CAMERAS), self.spec.embed_dim, *hw) for hw in self.spec.feature_hws]
        if [tuple(feature.shape) for feature in features] != maps:
            raise QdbevError(
                f"feature maps of shapes {[tuple(feature.shape) for feature in features]}",
                f"{maps} for variant '{self.spec.name}'",
                "pass what extract_features returns, one frame at a time",
            )
        outputs: HeadOutputs = self.pts_bbox_head(features, *inputs, all_layers=all_layers)
        return outputs

    def session(self, *, all_layers: bool = False, **options: Any) -> StreamingSession:
        """A stream on this model in evaluation mode: numpy arrays in and out, the BEV state stays on its device.

        `all_layers` as in `forward`; the other options are the session's.
        """
        self.eval()
        device = self.pts_bbox_head.code_weights.device
        empty = torch.zeros(self.spec.bev_cells, 1, self.spec.embed_dim, device=device)

        def tensor(array: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)

        @torch.inference_mode()
        def step(
            images: npt.NDArray[Any], prev_bev: Tensor | None, use_prev: bool, can_bus: Any, lidar2img: Any
        ) -> tuple[Tensor, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
            outputs = self.step(
                tensor(images),
                empty if prev_bev is None else prev_bev,
                torch.full((1,), float(use_prev), device=device),
                tensor(can_bus),
                tensor(lidar2img),
                all_layers=all_layers,
            )
            return outputs.bev_embed, outputs.classes.cpu().numpy(), outputs.coords.cpu().numpy()

        return StreamingSession(step, **options)


def build_model(variant_or_spec: str | VariantSpec, *, seed: int | None = None) -> BEVFormer:
    """A BEVFormer with fresh weights. `seed` makes them reproducible and leaves torch's own generator untouched."""
    spec = variant(variant_or_spec)
    if seed is None:
        return BEVFormer(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BEVFormer(spec)
