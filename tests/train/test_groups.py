"""Groups of object queries: what they say, and that none knows of another."""

from __future__ import annotations

import torch

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.model import build_model
from qdbev_deploy.train.groups import QueryGroups

SPEC = VARIANTS["micro"]


def some_bev() -> torch.Tensor:
    return torch.randn(SPEC.bev_cells, 1, SPEC.embed_dim, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_the_first_group_is_the_models_own() -> None:
    model = build_model("micro", seed=0).eval()
    head, bev = model.pts_bbox_head, some_bev()
    position, query = head.query_embedding.weight[None].chunk(2, dim=-1)
    reference = head.transformer.reference_points(position).sigmoid()
    states, codes = head.transformer.decoder(query, position, bev[None, :, 0], reference, head.reg_branches)
    for extra in (0, 2):
        classes, coords = QueryGroups(SPEC, extra).decode(head, bev)
        assert classes.shape == coords.shape == (SPEC.decoder_layers, 1 + extra, SPEC.queries, 10)
        for layer, (state, code) in enumerate(zip(states, codes)):
            torch.testing.assert_close(classes[layer, :1], head.cls_branches[layer](state), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(coords[layer, :1], head._metres(code), rtol=1e-4, atol=1e-3)


def test_a_group_depends_on_no_other_and_teaches_the_shared_weights() -> None:
    model = build_model("micro", seed=0).eval()
    groups = QueryGroups(SPEC, 2)
    classes, coords = groups.decode(model.pts_bbox_head, some_bev())
    (classes[:, 1].sum() + coords[:, 1].sum()).backward()
    assert groups.embedding.grad is not None
    assert groups.embedding.grad[0].any()
    assert not groups.embedding.grad[1].any()
    own = model.pts_bbox_head.query_embedding.weight.grad
    assert own is None or not own.any()
    assert model.pts_bbox_head.transformer.decoder.layers[0].norms[0].weight.grad.any()


@torch.no_grad()
def test_half_precision_does_not_move_where_queries_begin() -> None:
    """A reference point rounded to bfloat16 would be up to 20 cm off; what is learned on it would not hold later."""
    model = build_model("micro", seed=0).eval()
    head = model.pts_bbox_head
    for layer in head.reg_branches:
        last = [child for name, child in layer.named_children() if name != "taps"][-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    groups = QueryGroups(SPEC, 1)
    _, wanted = groups.decode(head, some_bev())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, found = groups.decode(head, some_bev())
    assert float((found[..., :2] - wanted[..., :2]).abs().max()) < 0.01
