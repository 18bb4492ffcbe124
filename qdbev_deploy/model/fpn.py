"""The feature pyramid: 1x1 laterals, nearest upsampling, 3x3 outputs, extra levels by stride."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.model.taps import Tap


class _Conv(nn.Module):
    """A bare convolution under the name that official checkpoints give it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.conv(x)
        return output


class FPN(nn.Module):
    """Backbone stages -> `num_levels` maps of `embed_dim` channels."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        in_channels, channels = spec.backbone.out_channels, spec.embed_dim
        self.lateral_convs = nn.ModuleList(_Conv(count, channels, 1) for count in in_channels)
        self.fpn_convs = nn.ModuleList(
            _Conv(channels, channels, 3, stride=1 if level < len(in_channels) else 2)
            for level in range(spec.num_levels)
        )
        # The laterals read what the backbone has tapped. `upper_taps` lie on one side of each addition.
        self.upper_taps = nn.ModuleList(Tap() for _ in in_channels[1:])
        self.input_taps = nn.ModuleList(Tap() for _ in range(spec.num_levels))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        laterals = [conv(feature) for conv, feature in zip(self.lateral_convs, features)]
        for level in range(len(laterals) - 1, 0, -1):
            upper = F.interpolate(
                self.upper_taps[level - 1](laterals[level]), size=laterals[level - 1].shape[2:], mode="nearest"
            )
            laterals[level - 1] = laterals[level - 1] + upper
        outputs: list[Tensor] = []
        for level, (conv, tap) in enumerate(zip(self.fpn_convs, self.input_taps)):
            extra = level - len(laterals)
            # The first extra level reads the last output as it is; only later ones pass a ReLU first.
            source = laterals[level] if extra < 0 else outputs[-1] if extra == 0 else F.relu(outputs[-1])
            outputs.append(conv(tap(source)))
        return outputs
