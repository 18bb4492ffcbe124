"""Extra groups of object queries, for training alone: each group answers for every object on its own.

A group is matched apart from the others and attends to none of them, and all share the decoder's weights. So a frame
teaches the decoder once a group, while its BEV is computed once (Group DETR). The groups are no part of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.model.head import Head


class QueryGroups(nn.Module):
    """The embeddings of the queries beside the model's own."""

    def __init__(self, spec: VariantSpec, extra: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(extra, spec.queries, 2 * spec.embed_dim))

    def decode(self, head: Head, bev: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box codes of every decoder layer and group, the model's own group first.

        bev [cells, 1, C] -> two of [layers, groups, Q, 10]
        """
        embedding = torch.cat([head.query_embedding.weight[None], self.embedding])
        position, query = embedding.chunk(2, dim=-1)
        # Where a query begins is never rounded to half precision: a reference point in bfloat16 is 20 cm off.
        with torch.autocast(bev.device.type, enabled=False):
            reference = head.transformer.reference_points(position).sigmoid()
        expanded = bev[None, :, 0].expand(len(embedding), -1, -1)
        states, codes = head.transformer.decoder(query, position, expanded, reference, head.reg_branches)
        logits = [branch(state) for branch, state in zip(head.cls_branches, states)]
        return torch.stack(logits), torch.stack([head._metres(code) for code in codes])
