"""The object decoder: queries attend to one another and to the BEV, and refine their reference points."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.model.layers import FeedForward, SelfAttention, initialise_deformable, initialise_linear
from qdbev_deploy.model.taps import Tap
from qdbev_deploy.ops import ms_deform_attn


def inverse_sigmoid(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """The logit, bounded: both x and 1 - x count as at least `epsilon`."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=epsilon) / (1 - x).clamp(min=epsilon))


class BevAttention(nn.Module):
    """Deformable attention of object queries on the BEV map."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.heads, self.points, self.bev_hw = spec.heads, spec.decoder_points, spec.bev_hw
        self.sampling_offsets = nn.Linear(spec.embed_dim, spec.heads * spec.decoder_points * 2)
        self.attention_weights = nn.Linear(spec.embed_dim, spec.heads * spec.decoder_points)
        self.value_proj = nn.Linear(spec.embed_dim, spec.embed_dim)
        self.output_proj = nn.Linear(spec.embed_dim, spec.embed_dim)
        self.output_dropout = nn.Dropout(spec.dropout)
        self.value_tap, self.output_tap = Tap(), Tap()
        initialise_linear(self.value_proj, self.output_proj)
        initialise_deformable(self, spec.heads, 1, spec.decoder_points)

    def forward(self, query: Tensor, position: Tensor, bev: Tensor, reference_xy: Tensor) -> Tensor:
        context = query + position
        attended = ms_deform_attn(
            self.value_tap(self.value_proj(bev)).unflatten(-1, (self.heads, -1)),
            reference_xy,
            self.sampling_offsets(context).unflatten(-1, (self.heads, 1, self.points, 2)),
            self.attention_weights(context).unflatten(-1, (self.heads, self.points)),
            [self.bev_hw],
        )
        output: Tensor = query + self.output_dropout(self.output_proj(self.output_tap(attended)))
        return output


class DecoderLayer(nn.Module):
    """Post-norm: self-attention, norm, BEV attention, norm, feed-forward, norm."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([SelfAttention(spec.embed_dim, spec.heads, spec.dropout), BevAttention(spec)])
        self.ffns = nn.ModuleList([FeedForward(spec.embed_dim, spec.ffn_dim, spec.dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(spec.embed_dim) for _ in range(3))
        initialise_linear(self.ffns)

    def forward(self, query: Tensor, position: Tensor, bev: Tensor, reference_xy: Tensor) -> Tensor:
        query = self.norms[0](self.attentions[0](query, position))
        query = self.norms[1](self.attentions[1](query, position, bev, reference_xy))
        output: Tensor = self.norms[2](self.ffns[0](query))
        return output


class Decoder(nn.Module):
    """All layers with iterative refinement: each layer's box regression moves the reference of the next."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(spec) for _ in range(spec.decoder_layers))
        self.bev_tap = Tap()  # every layer reads the same map

    def forward(
        self, query: Tensor, position: Tensor, bev: Tensor, reference: Tensor, reg_branches: nn.ModuleList
    ) -> tuple[list[Tensor], list[Tensor]]:
        """query, position [B, Q, C]; bev [B, cells, C]; reference [B, Q, 3] in 0..1.

        -> each layer's queries, and each layer's raw box codes with the reference already added: x, y and z are
        sigmoids, in 0..1 of pc_range. The regression runs once a layer and serves refinement and output alike.
        """
        states, codes = [], []
        bev = self.bev_tap(bev)
        for layer, regress in zip(self.layers, reg_branches):
            query = layer(query, position, bev, reference[..., :2])
            raw = regress(query)
            logit = inverse_sigmoid(reference)
            xy = (raw[..., :2] + logit[..., :2]).sigmoid()
            z = (raw[..., 4:5] + logit[..., 2:3]).sigmoid()
            states.append(query)
            codes.append(torch.cat([xy, raw[..., 2:4], z, raw[..., 5:]], dim=-1))
            reference = torch.cat([xy, z], dim=-1).detach()
        return states, codes
