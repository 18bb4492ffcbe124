"""The detection head: BEV queries, ego motion, encoder, decoder, and the branches that say class and box."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qdbev_deploy.contract import BOX_CODE, CAMERAS, CAN_BUS_SIZE, CLASSES, VariantSpec
from qdbev_deploy.model.decoder import Decoder
from qdbev_deploy.model.encoder import Encoder
from qdbev_deploy.model.layers import initialise_linear
from qdbev_deploy.model.taps import Tap
from qdbev_deploy.ops import rotate_nearest

CODE_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)  # of the box loss, one a code; velocity counts less
PRIOR_PROBABILITY = 0.01  # focal loss starts with every class this unlikely


class HeadOutputs(NamedTuple):
    """What the head computes; the leading axis of classes and coords is the decoder layer."""

    bev_embed: Tensor  # [cells, 1, C]
    classes: Tensor  # [layers, 1, Q, 10] logits
    coords: Tensor  # [layers, 1, Q, 10] box codes, centres in metres


class LearnedPosition(nn.Module):
    """A position for each BEV cell: an embedding of its column beside one of its row."""

    def __init__(self, bev_hw: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(bev_hw[0], channels // 2)
        self.col_embed = nn.Embedding(bev_hw[1], channels // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self) -> Tensor:
        rows, cols = self.row_embed.weight, self.col_embed.weight
        shape = (rows.shape[0], cols.shape[0], -1)
        return torch.cat([cols[None].expand(shape), rows[:, None].expand(shape)], dim=-1).flatten(0, 1)  # [cells, C]


def ego_shift(can_bus: Tensor, spec: VariantSpec) -> Tensor:
    """How far the previous BEV lies from this one, in fractions of the grid.  # [2] as x, y

    The translation is in global axes and the yaw absolute. With angle differences written out, no atan2 is needed:
    length * cos(yaw - direction) is dx cos(yaw) + dy sin(yaw).
    """
    dx, dy, yaw = can_bus[0], can_bus[1], can_bus[-2]
    cos, sin = torch.cos(yaw), torch.sin(yaw)
    width_m, height_m = spec.pc_range[3] - spec.pc_range[0], spec.pc_range[4] - spec.pc_range[1]
    return torch.stack([(dx * sin - dy * cos) / width_m, (dx * cos + dy * sin) / height_m])


class Transformer(nn.Module):
    """Embeddings of cameras, levels and ego motion; encoder; decoder."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        channels = spec.embed_dim
        self.spec = spec
        self.level_embeds = nn.Parameter(torch.randn(spec.level_embed_rows, channels))
        self.cams_embeds = nn.Parameter(torch.randn(len(CAMERAS), channels))
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        self.reference_points = nn.Linear(channels, 3)
        self.can_bus_mlp = nn.Sequential(
            nn.Linear(CAN_BUS_SIZE, channels // 2), nn.ReLU(), nn.Linear(channels // 2, channels), nn.ReLU()
        )
        self.can_bus_mlp.add_module("norm", nn.LayerNorm(channels))
        self.tokens_tap = Tap()  # all cameras and levels, read by every encoder layer
        initialise_linear(self.reference_points, self.can_bus_mlp)

    def tokens(self, features: list[Tensor]) -> Tensor:
        """Feature maps [1, cams, C, h, w] -> [cams, S, C], each token knowing its camera and its level."""
        levels = [
            feature[0].flatten(2).transpose(1, 2) + self.cams_embeds[:, None] + self.level_embeds[level]
            for level, feature in enumerate(features)
        ]
        tokens: Tensor = self.tokens_tap(torch.cat(levels, dim=1))
        return tokens

    def bev(
        self,
        features: list[Tensor],
        queries: Tensor,
        position: Tensor,
        prev_bev: Tensor,
        use_prev_bev: Tensor,
        can_bus: Tensor,
        lidar2img: Tensor,
    ) -> Tensor:
        """The encoder's BEV of this frame.  # [cells, C]"""
        spec = self.spec
        previous = prev_bev[:, 0].transpose(0, 1).unflatten(-1, spec.bev_hw)  # [C, h, w]
        rotated = rotate_nearest(previous, can_bus[-1], spec.rotate_center_xy).flatten(1).transpose(0, 1)
        bev: Tensor = self.encoder(
            queries + self.can_bus_mlp(can_bus),
            position,
            self.tokens(features),
            lidar2img[0],
            rotated,
            use_prev_bev.reshape(()) > 0.5,
            ego_shift(can_bus, spec),
        )
        return bev


class Branch(nn.Module):
    """A stack of layers with a tap before each Linear but the last, whose few outputs stay in float."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)  # the names a Sequential would give
        linears = [index for index, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
        self.taps = nn.ModuleDict({str(index): Tap(nonnegative=index > 0) for index in linears[:-1]})

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            if name in self.taps:
                x = self.taps[name](x)
            if name != "taps":
                x = layer(x)
        return x


def _class_branch(channels: int) -> Branch:
    logits = nn.Linear(channels, len(CLASSES))
    nn.init.constant_(logits.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    return Branch(
        nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(),
        nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(),
        logits,
    )  # fmt: skip


def _box_branch(channels: int) -> Branch:
    return Branch(
        nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(),
        nn.Linear(channels, len(BOX_CODE)),
    )  # fmt: skip


class Head(nn.Module):
    """From the neck's feature maps to BEV, class logits and box codes."""

    code_weights: nn.Parameter

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.code_weights = nn.Parameter(torch.tensor(CODE_WEIGHTS), requires_grad=False)
        self.positional_encoding = LearnedPosition(spec.bev_hw, spec.embed_dim)
        self.transformer = Transformer(spec)
        self.cls_branches = nn.ModuleList(_class_branch(spec.embed_dim) for _ in range(spec.decoder_layers))
        self.reg_branches = nn.ModuleList(_box_branch(spec.embed_dim) for _ in range(spec.decoder_layers))
        self.bev_embedding = nn.Embedding(spec.bev_cells, spec.embed_dim)
        self.query_embedding = nn.Embedding(spec.queries, 2 * spec.embed_dim)

    def _metres(self, code: Tensor) -> Tensor:
        low, high = self.spec.pc_range[:3], self.spec.pc_range[3:]
        x, y, z = (code[..., i : i + 1] * (high[a] - low[a]) + low[a] for a, i in enumerate((0, 1, 4)))
        return torch.cat([x, y, code[..., 2:4], z, code[..., 5:]], dim=-1)

    def bev(
        self, features: list[Tensor], prev_bev: Tensor, use_prev_bev: Tensor, can_bus: Tensor, lidar2img: Tensor
    ) -> Tensor:
        """The BEV alone: all that a frame leaves to the next one.  # [cells, 1, C]"""
        bev = self.transformer.bev(
            features, self.bev_embedding.weight, self.positional_encoding(), prev_bev, use_prev_bev, can_bus, lidar2img
        )
        return bev[:, None]

    def forward(
        self,
        features: list[Tensor],
        prev_bev: Tensor,
        use_prev_bev: Tensor,
        can_bus: Tensor,
        lidar2img: Tensor,
        *,
        all_layers: bool = False,
    ) -> HeadOutputs:
        """`all_layers` gives every decoder layer's outputs, as training needs; otherwise the last one's alone."""
        transformer = self.transformer
        bev_embed = self.bev(features, prev_bev, use_prev_bev, can_bus, lidar2img)
        position, query = self.query_embedding.weight[None].chunk(2, dim=-1)
        reference = transformer.reference_points(position).sigmoid()
        states, codes = transformer.decoder(query, position, bev_embed[None, :, 0], reference, self.reg_branches)
        first = 0 if all_layers else len(states) - 1
        return HeadOutputs(
            bev_embed,
            torch.stack([branch(state) for branch, state in zip(self.cls_branches[first:], states[first:])]),
            torch.stack([self._metres(code) for code in codes[first:]]),
        )
