"""ResNets under the official parameter names: basic and bottleneck blocks, both stride styles, deformable stages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdbev_deploy.contract import BackboneSpec
from qdbev_deploy.model.taps import Tap
from qdbev_deploy.ops import modulated_deform_conv2d


class DeformableConv(nn.Module):
    """A 3x3 modulated deformable convolution that predicts its own offsets and masks."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        self.bias: nn.Parameter | None
        self.register_parameter("bias", None)  # there once a batch norm has been folded in
        self.columns_tap = Tap(nonnegative=True)  # samples of what a ReLU made, times a mask in 0..1
        self.conv_offset = nn.Conv2d(in_channels, 27, 3, stride=stride, padding=1)
        nn.init.zeros_(self.conv_offset.weight)  # starts as a plain convolution with half-open masks
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        raw = self.conv_offset(x)
        offset, mask = raw[:, :18], raw[:, 18:].sigmoid()
        return modulated_deform_conv2d(
            x, offset, mask, self.weight, self.bias, stride=self.stride, columns=self.columns_tap
        )


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)


# A block's input is tapped once by the network, for its first convolution, its shortcut and whatever else reads it: an
# identity shortcut so shares the input's scale. A shortcut that is a convolution has a scale of its own, so that the
# addition fuses into the last convolution.


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, spec: BackboneSpec, deformable: bool) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2: nn.Module = DeformableConv(width, width, 1) if deformable else _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(in_channels, width, stride)
        self.middle_tap = Tap(nonnegative=True)
        self.residual_tap = nn.Identity() if self.downsample is None else Tap()

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle_tap(F.relu(self.bn1(self.conv1(x)), inplace=True))
        y = self.bn2(self.conv2(y))
        y = y + (x if self.downsample is None else self.residual_tap(self.downsample(x)))
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut. The stride sits on the 3x3 (pytorch style) or on the first 1x1 (caffe style)."""

    def __init__(self, in_channels: int, width: int, stride: int, spec: BackboneSpec, deformable: bool) -> None:
        super().__init__()
        stride1, stride2 = (stride, 1) if spec.style == "caffe" else (1, stride)
        self.conv1 = _conv(in_channels, width, 1, stride1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2: nn.Module = DeformableConv(width, width, stride2) if deformable else _conv(width, width, 3, stride2)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, width * spec.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * spec.expansion)
        self.downsample = _downsample(in_channels, width * spec.expansion, stride)
        self.middle_tap = Tap(nonnegative=True)
        self.residual_tap = nn.Identity() if self.downsample is None else Tap()
        self.inner_tap = Tap(nonnegative=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle_tap(F.relu(self.bn1(self.conv1(x)), inplace=True))
        y = self.inner_tap(F.relu(self.bn2(self.conv2(y)), inplace=True))
        y = self.bn3(self.conv3(y))
        y = y + (x if self.downsample is None else self.residual_tap(self.downsample(x)))
        return F.relu(y, inplace=True)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """Images [N, 3, H, W] -> feature maps of the stages in `spec.out_stages`."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conv1 = nn.Conv2d(3, spec.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(spec.width)
        self.image_tap, self.stem_tap = Tap(), Tap(nonnegative=True)
        block = Bottleneck if spec.block == "bottleneck" else BasicBlock
        in_channels = spec.width
        for stage, count in enumerate(spec.blocks, start=1):
            width = spec.width * 2 ** (stage - 1)
            blocks: list[nn.Module] = []
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(block(in_channels, width, stride, spec, stage in spec.dcn_stages))
                in_channels = width * spec.expansion
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.output_taps = nn.ModuleList(
            nn.ModuleList(Tap(nonnegative=True) for _ in range(count)) for count in spec.blocks
        )
        self._initialise()
        self._freeze()

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.endswith("conv_offset"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _freeze(self) -> None:
        """What training leaves alone: frozen stages, and every batch norm where norm is frozen."""
        frozen: list[nn.Module] = []
        if self.spec.frozen_stages > 0:
            frozen += [self.conv1, self.bn1, *(self.stage(stage) for stage in range(1, self.spec.frozen_stages + 1))]
        if self.spec.frozen_norm:
            frozen += [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in frozen:
            module.requires_grad_(False)

    def stage(self, index: int) -> nn.Sequential:
        stage: nn.Sequential = getattr(self, f"layer{index}")
        return stage

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(self.image_tap(x))), inplace=True)
        x = self.stem_tap(F.max_pool2d(x, 3, stride=2, padding=1))
        outputs = []
        for stage in range(1, max(self.spec.out_stages) + 1):
            for block, tap in zip(self.stage(stage), self.output_taps[stage - 1].children()):
                x = tap(block(x))
            if stage in self.spec.out_stages:
                outputs.append(x)
        return outputs
