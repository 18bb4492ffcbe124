"""Layers that encoder and decoder share: feed-forward, self-attention, and how deformable attention starts out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdbev_deploy.model.taps import Tap


class FeedForward(nn.Module):
    """Linear, ReLU, Linear, plus the input."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(hidden, channels),
            nn.Dropout(dropout),
        )
        self.input_tap, self.hidden_tap = Tap(), Tap(nonnegative=True)

    def forward(self, x: Tensor) -> Tensor:
        expand, contract, drop = self.layers
        output: Tensor = x + drop(contract(self.hidden_tap(expand(self.input_tap(x)))))
        return output


class PackedAttention(nn.Module):
    """Dot-product attention with the packed projection, and the parameter names, of torch's MultiheadAttention."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        self.qk_tap, self.value_tap, self.output_tap = Tap(), Tap(), Tap()
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query_and_key: Tensor, value: Tensor) -> Tensor:
        channels = value.shape[-1]
        # Queries and keys have one input: one product serves both.
        query_and_key, value = self.qk_tap(query_and_key), self.value_tap(value)
        weight, bias = self.in_proj_weight, self.in_proj_bias
        qk = F.linear(query_and_key, weight[: 2 * channels], bias[: 2 * channels])
        v = F.linear(value, weight[2 * channels :], bias[2 * channels :])
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in (*qk.split(channels, dim=-1), v)
        )  # [B, H, Q, D]
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        output: Tensor = self.out_proj(self.output_tap(attended.transpose(-2, -3).flatten(-2)))
        return output


class SelfAttention(nn.Module):
    """Object queries attend to one another; positions join queries and keys, not values."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = PackedAttention(channels, heads, dropout)
        self.output_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        output: Tensor = x + self.output_dropout(self.attn(x + position, x))
        return output


def initialise_deformable(module: nn.Module, heads: int, groups: int, points: int) -> None:
    """Offsets start as rays, one direction a head, one step further a point; weights start equal.

    `groups` is levels, or frames times levels: they all start alike.
    """
    angles = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    directions = directions / directions.abs().amax(dim=-1, keepdim=True)
    steps = torch.arange(1, points + 1, dtype=torch.float32)
    rays = (directions[:, None, None] * steps[:, None]).expand(heads, groups, points, 2)
    offsets, logits = module.get_submodule("sampling_offsets"), module.get_submodule("attention_weights")
    assert isinstance(offsets, nn.Linear)
    assert isinstance(logits, nn.Linear)
    for linear in (offsets, logits):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    with torch.no_grad():
        offsets.bias.copy_(rays.flatten())


def initialise_linear(*modules: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every Linear below the given modules."""
    for module in modules:
        for child in module.modules():
            if isinstance(child, nn.Linear):
                nn.init.xavier_uniform_(child.weight)
                nn.init.zeros_(child.bias)
