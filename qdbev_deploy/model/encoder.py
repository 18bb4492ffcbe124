"""The BEV encoder: temporal self-attention, spatial cross-attention, feed-forward, each followed by a norm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.model.layers import FeedForward, initialise_deformable, initialise_linear
from qdbev_deploy.model.taps import Tap
from qdbev_deploy.ops import PillarGeometry, spatial_cross_attn, temporal_self_attn
from qdbev_deploy.ops.projection import cell_centers


class Memory(NamedTuple):
    """What temporal attention looks back on; fixed before the first layer."""

    frames: Tensor  # [2, cells, C]: previous BEV after rotation, initial queries of this frame
    references: Tensor  # [2, cells, 2]: the previous frame's cells moved by the ego shift, this frame's cells
    use_prev: Tensor  # [] bool


class TemporalSelfAttention(nn.Module):
    """BEV queries look at the previous BEV and at themselves."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.heads, self.points, self.bev_hw = spec.heads, spec.temporal_points, spec.bev_hw
        channels = spec.embed_dim
        self.sampling_offsets = nn.Linear(2 * channels, spec.heads * 2 * spec.temporal_points * 2)
        self.attention_weights = nn.Linear(2 * channels, spec.heads * 2 * spec.temporal_points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.output_dropout = nn.Dropout(spec.dropout)
        self.frames_tap, self.value_tap, self.output_tap = Tap(), Tap(), Tap()
        initialise_linear(self.value_proj, self.output_proj)
        initialise_deformable(self, spec.heads, 2, spec.temporal_points)

    def forward(self, query: Tensor, position: Tensor, memory: Memory) -> Tensor:
        # Without a past, both frames are this layer's own queries; with one, the current half stays as it began.
        frames = torch.where(memory.use_prev, memory.frames, query[None])
        value = self.value_tap(self.value_proj(self.frames_tap(frames))).unflatten(-1, (self.heads, -1))
        context = torch.cat([frames[0], query + position], dim=-1)
        attended = temporal_self_attn(
            value,
            memory.references,
            self.sampling_offsets(context).unflatten(-1, (self.heads, 2, self.points, 2)),
            self.attention_weights(context).unflatten(-1, (self.heads, 2, self.points)),
            self.bev_hw,
        )
        output: Tensor = query + self.output_dropout(self.output_proj(self.output_tap(attended)))
        return output


class PillarAttention(nn.Module):
    """The part of spatial cross-attention that gathers from the cameras."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.heads, self.levels, self.points = spec.heads, spec.num_levels, spec.spatial_points
        self.spatial_shapes, self.geometry = spec.feature_hws, PillarGeometry.of(spec)
        samples = spec.heads * spec.num_levels * spec.spatial_points
        self.sampling_offsets = nn.Linear(spec.embed_dim, samples * 2)
        self.attention_weights = nn.Linear(spec.embed_dim, samples)
        self.value_proj = nn.Linear(spec.embed_dim, spec.embed_dim)
        self.value_tap = Tap()
        initialise_linear(self.value_proj)
        initialise_deformable(self, spec.heads, spec.num_levels, spec.spatial_points)

    def forward(self, query: Tensor, tokens: Tensor, lidar2img: Tensor) -> Tensor:
        # Offsets and logits depend on the query alone: computed once, whatever the number of cameras.
        return spatial_cross_attn(
            self.value_tap(self.value_proj(tokens)).unflatten(-1, (self.heads, -1)),
            lidar2img,
            self.sampling_offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2)),
            self.attention_weights(query).unflatten(-1, (self.heads, self.levels * self.points)),
            self.spatial_shapes,
            self.geometry,
        )


class SpatialCrossAttention(nn.Module):
    """BEV queries look into the cameras that see their pillar."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.deformable_attention = PillarAttention(spec)
        self.output_proj = nn.Linear(spec.embed_dim, spec.embed_dim)
        self.output_dropout = nn.Dropout(spec.dropout)
        self.output_tap = Tap()
        initialise_linear(self.output_proj)

    def forward(self, query: Tensor, tokens: Tensor, lidar2img: Tensor) -> Tensor:
        attended = self.deformable_attention(query, tokens, lidar2img)
        output: Tensor = query + self.output_dropout(self.output_proj(self.output_tap(attended)))
        return output


class EncoderLayer(nn.Module):
    """Post-norm: temporal attention, norm, spatial attention, norm, feed-forward, norm."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([TemporalSelfAttention(spec), SpatialCrossAttention(spec)])
        self.ffns = nn.ModuleList([FeedForward(spec.embed_dim, spec.ffn_dim, spec.dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(spec.embed_dim) for _ in range(3))
        initialise_linear(self.ffns)

    def forward(self, query: Tensor, position: Tensor, memory: Memory, tokens: Tensor, lidar2img: Tensor) -> Tensor:
        query = self.norms[0](self.attentions[0](query, position, memory))
        query = self.norms[1](self.attentions[1](query, tokens, lidar2img))
        output: Tensor = self.norms[2](self.ffns[0](query))
        return output


class Encoder(nn.Module):
    """All layers, on [cells, C] queries."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.bev_hw = spec.bev_hw
        self.layers = nn.ModuleList(EncoderLayer(spec) for _ in range(spec.encoder_layers))

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        tokens: Tensor,
        lidar2img: Tensor,
        prev_bev: Tensor,
        use_prev: Tensor,
        shift: Tensor,
    ) -> Tensor:
        """tokens [cams, S, C]; prev_bev [cells, C], already rotated; use_prev [] bool; shift [2] in grid units."""
        cells = cell_centers(self.bev_hw, query.device)
        moved = cells + torch.where(use_prev, shift, torch.zeros_like(shift))
        memory = Memory(torch.stack([prev_bev, query]), torch.stack([moved, cells]), use_prev)
        for layer in self.layers:
            query = layer(query, position, memory, tokens, lidar2img)
        return query
