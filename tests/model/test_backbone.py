"""ResNet-50 and ResNet-101-DCN written once more, from the state dict alone, with torch's plainest functions.

The recording of the official head begins after the backbone; this is what guards its wiring.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qdbev_deploy.contract import VARIANTS, BackboneSpec
from qdbev_deploy.model.resnet import ResNet
from tests.ops import naive

Weights = dict[str, Tensor]


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    shape = (1, -1, 1, 1)
    mean, variance = w[f"{name}.running_mean"].view(shape), w[f"{name}.running_var"].view(shape)
    return (x - mean) / (variance + 1e-5).sqrt() * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)


def deformable(w: Weights, name: str, x: Tensor) -> Tensor:
    """Offsets are the first 18 channels, masks the sigmoid of the last 9."""
    raw = F.conv2d(x, w[f"{name}.conv_offset.weight"], w[f"{name}.conv_offset.bias"], padding=1)
    arrays = (t.double().numpy() for t in (x, raw[:, :18], raw[:, 18:].sigmoid(), w[f"{name}.weight"]))
    return torch.from_numpy(naive.modulated_deform_conv2d(*arrays, stride=1, padding=1, dilation=1)).float()


def bottleneck(w: Weights, name: str, x: Tensor, stride: int, caffe: bool, dcn: bool) -> Tensor:
    first, second = (stride, 1) if caffe else (1, stride)
    y = F.conv2d(x, w[f"{name}.conv1.weight"], stride=first)
    y = norm(w, f"{name}.bn1", y).clamp(min=0)
    y = deformable(w, f"{name}.conv2", y) if dcn else F.conv2d(y, w[f"{name}.conv2.weight"], stride=second, padding=1)
    y = norm(w, f"{name}.bn2", y).clamp(min=0)
    y = norm(w, f"{name}.bn3", F.conv2d(y, w[f"{name}.conv3.weight"]))
    if f"{name}.downsample.0.weight" in w:
        x = norm(w, f"{name}.downsample.1", F.conv2d(x, w[f"{name}.downsample.0.weight"], stride=stride))
    return (x + y).clamp(min=0)


def reference(w: Weights, spec: BackboneSpec, x: Tensor) -> list[Tensor]:
    x = norm(w, "bn1", F.conv2d(x, w["conv1.weight"], stride=2, padding=3)).clamp(min=0)
    windows = F.pad(x, (1, 1, 1, 1), value=-float("inf")).unfold(2, 3, 2).unfold(3, 3, 2)
    x, outputs = windows.amax(dim=(-1, -2)), []
    for stage, blocks in enumerate(spec.blocks, start=1):
        for index in range(blocks):
            stride = 2 if stage > 1 and index == 0 else 1
            name, dcn = f"layer{stage}.{index}", stage in spec.dcn_stages
            x = bottleneck(w, name, x, stride, spec.style == "caffe", dcn)
        outputs.append(x)
    return [outputs[stage - 1] for stage in spec.out_stages]


def shaken(spec: BackboneSpec) -> ResNet:
    """A backbone in which no norm, offset or mask is trivial, and whose activations stay of one size."""
    torch.manual_seed(0)
    model = ResNet(spec).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "conv_offset" in name:
                parameter.normal_(0, 0.05 if name.endswith("weight") else 0.5)
            elif ".bn" in name or name.startswith("bn") or "downsample.1" in name:
                parameter.uniform_(0.5, 1.0) if name.endswith("weight") else parameter.uniform_(-0.3, 0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.3, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model


@pytest.mark.parametrize("name", ["tiny", "base"])
@torch.inference_mode()
def test_every_stage_is_the_plain_network(name: str) -> None:
    # The official blocks, styles and deformable stages; narrow, and few blocks, for the loops are slow.
    spec = dataclasses.replace(VARIANTS[name].backbone, width=4, blocks=(2, 2, 2, 2), out_stages=(1, 2, 3, 4))
    model, image = shaken(spec), torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(model(image), reference(model.state_dict(), spec, image)):
        assert float(theirs.abs().max()) > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_blocks_of_the_official_sizes() -> None:
    assert VARIANTS["tiny"].backbone.blocks == (3, 4, 6, 3)
    assert VARIANTS["small"].backbone.blocks == VARIANTS["base"].backbone.blocks == (3, 4, 23, 3)
    assert VARIANTS["base"].backbone.dcn_stages == (3, 4)
