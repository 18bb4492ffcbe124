"""The fifteen things a re-implementation of BEVFormer must copy, each with the deviation that breaking it would cause.

The reference is a recording of the official head's inputs, weights and outputs (`official_head_dev.npz`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdbev_deploy.boxes import decode, decode_raw, network_rotation
from qdbev_deploy.contract import CAMERAS, VARIANTS
from qdbev_deploy.model import decoder, encoder, head
from qdbev_deploy.model.fpn import FPN
from qdbev_deploy.ops import project_pillars, rotate_nearest
from qdbev_deploy.streaming import EgoState, can_bus_vector
from tests.model.reference import SPEC, deviation, official_model, recording, run

TOLERANCE = 1e-4  # what the project promises
BROKEN = 1e-2  # a broken rule is at least this far off


@pytest.mark.parametrize("kind", ["prev", "noprev"])
def test_outputs_are_the_official_ones(kind: str) -> None:
    assert deviation(run(official_model(), kind == "prev"), kind) <= TOLERANCE


def deviation_when(broken: Callable[[], Any], kind: str = "prev", model: nn.Module | None = None) -> float:
    broken()
    return deviation(run(model or official_model(), kind == "prev"), kind)


def test_rule_01_image_pipeline() -> None:
    tiny, small, base = (VARIANTS[name].preprocess for name in ("tiny", "small", "base"))
    assert (tiny.channel_order, tiny.mean, tiny.std) == ("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    for caffe in (small, base):
        assert (caffe.channel_order, caffe.mean, caffe.std) == ("bgr", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
    assert [spec.resized_hw for spec in (tiny, small, base)] == [(450, 800), (720, 1280), (900, 1600)]
    assert [spec.padded_hw for spec in (tiny, small, base)] == [(480, 800), (736, 1280), (928, 1600)]
    assert [spec.scale_xy for spec in (tiny, small, base)] == [(0.5, 0.5), (0.8, 0.8), (1.0, 1.0)]
    # Projected points are normalised by the padded size.
    assert tuple(recording().arrays["img_hw"]) == SPEC.image_hw == SPEC.preprocess.padded_hw
    unpadded = dataclasses.replace(
        SPEC, preprocess=dataclasses.replace(SPEC.preprocess, resized_hw=(90, 160), padded_hw=(90, 160))
    )
    assert SPEC.feature_hws == unpadded.feature_hws
    assert deviation(run(official_model(unpadded), True), "prev") > BROKEN


def test_rule_02_camera_order() -> None:
    assert CAMERAS == (
        "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT",
    )  # fmt: skip
    # The order matters because each camera has an embedding.
    model = official_model()
    with torch.no_grad():
        model.pts_bbox_head.transformer.cams_embeds.copy_(model.pts_bbox_head.transformer.cams_embeds.roll(1, 0))
    assert deviation(run(model, True), "prev") > BROKEN


def test_rule_03_feature_pyramid() -> None:
    spec = dataclasses.replace(SPEC, backbone=dataclasses.replace(SPEC.backbone, out_stages=(3, 4)), num_levels=4)
    torch.manual_seed(0)
    neck = FPN(spec)
    low, high = torch.randn(1, 32, 6, 10), torch.randn(1, 64, 3, 5)
    outputs = neck([low, high])
    lateral = [conv.conv for conv in neck.lateral_convs]
    conv = [conv.conv for conv in neck.fpn_convs]
    merged = lateral[0](low) + lateral[1](high).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(outputs[0], conv[0](merged))
    torch.testing.assert_close(outputs[1], conv[1](lateral[1](high)))
    extra = F.conv2d(outputs[1], conv[2].weight, conv[2].bias, stride=2, padding=1)
    torch.testing.assert_close(outputs[2], extra)  # no ReLU before the first extra level ...
    torch.testing.assert_close(
        outputs[3], F.conv2d(extra.relu(), conv[3].weight, conv[3].bias, stride=2, padding=1)
    )  # ... but before the second
    assert (extra < 0).any()
    assert VARIANTS["base"].feature_hws == ((116, 200), (58, 100), (29, 50), (15, 25))
    assert VARIANTS["tiny"].feature_hws == ((15, 25),)
    assert VARIANTS["small"].feature_hws == ((23, 40),)


def test_rule_04_bev_queries_and_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = official_model()
    height, width = SPEC.bev_hw
    position = model.pts_bbox_head.positional_encoding()
    rows = model.pts_bbox_head.positional_encoding.row_embed.weight
    cols = model.pts_bbox_head.positional_encoding.col_embed.weight
    for y, x in ((0, 0), (3, 5), (height - 1, width - 1)):
        assert torch.equal(position[y * width + x], torch.cat([cols[x], rows[y]]))

    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(SPEC.embed_dim)

    model.pts_bbox_head.transformer.can_bus_mlp = Silent()
    assert deviation(run(model, True), "prev") > BROKEN


def test_rule_05_token_embeddings() -> None:
    for name in VARIANTS:
        assert VARIANTS[name].level_embed_rows == 4
    model = official_model()
    with torch.no_grad():
        model.pts_bbox_head.transformer.level_embeds[1:] = 1e3  # rows without a level are there and unused
    assert deviation(run(model, True), "prev") <= TOLERANCE
    with torch.no_grad():
        model.pts_bbox_head.transformer.level_embeds[0] = 0
    assert deviation(run(model, True), "prev") > BROKEN


def test_rule_05_each_level_has_its_own_row() -> None:
    spec = dataclasses.replace(SPEC, num_levels=3)
    transformer = head.Transformer(spec)
    levels = [torch.zeros(1, 6, spec.embed_dim, *hw) for hw in spec.feature_hws]
    tokens = transformer.tokens(levels)
    start = 0
    for level, (height, width) in enumerate(spec.feature_hws):
        expected = transformer.cams_embeds[:, None] + transformer.level_embeds[level]
        part = tokens[:, start : start + height * width]
        torch.testing.assert_close(part, expected.expand_as(part))
        start += height * width
    assert start == tokens.shape[1]


def quaternion(yaw: float) -> tuple[float, float, float, float]:
    return math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)


def test_rule_06_can_bus() -> None:
    before = EgoState(0, (100.0, 200.0, 1.0), quaternion(math.radians(350)))
    now = EgoState(
        500_000, (103.0, 198.5, 1.5), quaternion(math.radians(20)), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (7.0, 8.0, 9.0)
    )
    vector = can_bus_vector(now, before)
    np.testing.assert_allclose(vector[:3], [3.0, -1.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(vector[3:7], quaternion(math.radians(20)), rtol=1e-6)
    np.testing.assert_allclose(vector[7:16], [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert vector[-2] == pytest.approx(math.radians(20))  # absolute, radians
    assert vector[-1] == pytest.approx(30.0, abs=1e-4)  # change, degrees, wrapped: not -330
    first = can_bus_vector(now, None)
    assert not first[:3].any()
    assert first[-1] == 0
    np.testing.assert_array_equal(first[3:17], vector[3:17])
    # Headings lie in 0..2 pi, the range the network was trained with.
    assert can_bus_vector(before, None)[-2] == pytest.approx(math.radians(350))


def official_shift(can_bus: Tensor) -> list[float]:
    """The rule as the official code states it, with angles in degrees and an arc tangent."""
    dx, dy = float(can_bus[0]), float(can_bus[1])
    height, width = SPEC.bev_hw
    grid_y = (SPEC.pc_range[4] - SPEC.pc_range[1]) / height
    grid_x = (SPEC.pc_range[3] - SPEC.pc_range[0]) / width
    angle = math.degrees(float(can_bus[-2])) - math.degrees(math.atan2(dy, dx))
    length = math.hypot(dx, dy)
    return [
        length * math.sin(math.radians(angle)) / grid_x / width,
        length * math.cos(math.radians(angle)) / grid_y / height,
    ]


@pytest.mark.parametrize("motion", [(3.0, 0.0), (-2.0, 5.0), (0.0, -4.0), (0.0, 0.0)])
def test_rule_07_shift(motion: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    can_bus = recording().can_bus.clone()
    can_bus[:2] = torch.tensor(motion)
    np.testing.assert_allclose(head.ego_shift(can_bus, SPEC).numpy(), official_shift(can_bus), atol=1e-6)
    assert deviation_when(lambda: monkeypatch.setattr(head, "ego_shift", lambda *_: torch.zeros(2))) > BROKEN


def test_rule_07_shift_knows_width_from_height() -> None:
    # At yaw 0, 3 m along x and 4 m along y: length * cos(yaw - angle) is 3, length * sin(yaw - angle) is -4.
    wide = dataclasses.replace(SPEC, pc_range=(-40.0, -10.0, -5.0, 40.0, 10.0, 3.0))  # 80 m wide, 20 m high
    can_bus = torch.zeros(18)
    can_bus[0], can_bus[1] = 3.0, 4.0
    np.testing.assert_allclose(head.ego_shift(can_bus, wide).numpy(), [-4.0 / 80.0, 3.0 / 20.0], rtol=1e-6)


def test_rule_07_shift_moves_only_the_previous_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = encoder.TemporalSelfAttention.forward

    def both(self: Any, query: Tensor, position: Tensor, memory: encoder.Memory) -> Tensor:
        return forward(self, query, position, memory._replace(references=memory.references[:1].expand(2, -1, -1)))

    broken = deviation_when(lambda: monkeypatch.setattr(encoder.TemporalSelfAttention, "forward", both))
    assert broken > BROKEN


def test_rule_08_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    record = recording()
    previous = record.prev_bev[:, 0].T.reshape(SPEC.embed_dim, *SPEC.bev_hw)
    official = record.arrays["rotated_prev_bev"]
    np.testing.assert_array_equal(rotate_nearest(previous, record.can_bus[-1], (100.0, 100.0)).numpy(), official)
    centred = rotate_nearest(previous, record.can_bus[-1], (SPEC.bev_hw[1] / 2, SPEC.bev_hw[0] / 2))
    assert np.abs(centred.numpy() - official).max() > BROKEN
    # Off-centre on every published size; an option for those who train anew.
    assert {VARIANTS[name].rotate_center for name in ("tiny", "small", "base")} == {(100.0, 100.0)}
    assert VARIANTS["micro"].rotate_center_xy == (25.0, 25.0)


@pytest.mark.parametrize("angle", [0.0, 17.0, -33.3, 180.0])
def test_rule_08_rotation_is_counter_clockwise_and_leaves_holes_empty(angle: float) -> None:
    image = torch.arange(1.0, 36.0).reshape(1, 5, 7)
    rotated = rotate_nearest(image, torch.tensor(angle), (3.5, 2.5))
    expected = torch.zeros_like(image)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for y in range(5):
        for x in range(7):
            source_x = 3.5 + cos * (x - 3) - sin * (y - 2) - 0.5
            source_y = 2.5 + sin * (x - 3) + cos * (y - 2) - 0.5
            column, row = round(source_x), round(source_y)
            if 0 <= column < 7 and 0 <= row < 5:
                expected[0, y, x] = image[0, row, column]
    assert torch.equal(rotated, expected)


def test_rule_09_post_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    def pre_norm(self: Any, query: Tensor, position: Tensor, memory: Any, tokens: Tensor, lidar2img: Tensor) -> Tensor:
        query = self.attentions[0](self.norms[0](query), position, memory)
        query = self.attentions[1](self.norms[1](query), tokens, lidar2img)
        return self.ffns[0](self.norms[2](query))

    assert deviation_when(lambda: monkeypatch.setattr(encoder.EncoderLayer, "forward", pre_norm)) > BROKEN


def test_rule_10_the_current_half_is_not_refreshed(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = encoder.TemporalSelfAttention.forward

    def refreshed(self: Any, query: Tensor, position: Tensor, memory: encoder.Memory) -> Tensor:
        return forward(self, query, position, memory._replace(frames=torch.stack([memory.frames[0], query])))

    assert deviation_when(lambda: monkeypatch.setattr(encoder.TemporalSelfAttention, "forward", refreshed)) > BROKEN


def test_rule_10_without_a_past_both_halves_are_this_layers_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = encoder.TemporalSelfAttention.forward

    def initial(self: Any, query: Tensor, position: Tensor, memory: encoder.Memory) -> Tensor:
        frames = memory.frames[1:].expand(2, -1, -1)
        return forward(self, query, position, memory._replace(frames=frames, use_prev=torch.tensor(True)))

    broken = deviation_when(lambda: monkeypatch.setattr(encoder.TemporalSelfAttention, "forward", initial), "noprev")
    assert broken > BROKEN


def test_rule_10_a_past_that_is_not_used_may_be_anything() -> None:
    model = official_model()
    garbage = torch.full_like(recording().prev_bev, float("nan"))
    assert deviation(run(model, False, prev_bev=garbage), "noprev") <= TOLERANCE


def test_rule_11_projection_and_visibility() -> None:
    record = recording()
    uv, visible = project_pillars(record.lidar2img[0], SPEC.bev_hw, SPEC.pc_range, SPEC.pillar_heights, SPEC.image_hw)
    np.testing.assert_allclose(SPEC.pillar_heights, [-4.5, -4.5 + 7 / 3, -4.5 + 14 / 3, 2.5], rtol=1e-12)
    np.testing.assert_array_equal(visible.numpy(), record.arrays["bev_mask"][:, 0] > 0)
    np.testing.assert_allclose(uv.numpy(), record.arrays["reference_points_cam"][:, 0], rtol=1e-5, atol=1e-4)


def test_rule_11_borders_are_outside() -> None:
    # One cell whose single anchor projects exactly to (u, v): depth 1, so that u and v are the matrix's entries.
    for u, v, depth, inside in (
        (0.5, 0.5, 1.0, True), (0.0, 0.5, 1.0, False), (1.0, 0.5, 1.0, False), (0.5, 0.0, 1.0, False),
        (0.5, 1.0, 1.0, False), (0.5, 0.5, 1e-5, False), (0.5, 0.5, -1.0, False),
    ):  # fmt: skip
        matrix = torch.zeros(1, 4, 4)
        matrix[0, :3, 3] = torch.tensor([u * depth, v * depth, depth])
        _, visible = project_pillars(matrix, (1, 1), SPEC.pc_range, (0.0,), (1, 1))
        assert bool(visible) is inside, (u, v, depth)


def test_rule_11_the_anchor_varies_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    op = encoder.spatial_cross_attn

    def slowest(value: Tensor, matrix: Tensor, offsets: Tensor, logits: Tensor, *rest: Any) -> Tensor:
        order = torch.arange(8).reshape(4, 2).T.flatten()
        return op(value, matrix, offsets[:, :, :, order], logits[:, :, order], *rest)

    assert deviation_when(lambda: monkeypatch.setattr(encoder, "spatial_cross_attn", slowest)) > BROKEN


def test_rule_11_the_mean_is_over_the_cameras_that_see(monkeypatch: pytest.MonkeyPatch) -> None:
    op = encoder.spatial_cross_attn
    record = recording()
    _, visible = project_pillars(record.lidar2img[0], SPEC.bev_hw, SPEC.pc_range, SPEC.pillar_heights, SPEC.image_hw)
    count = visible.any(-1).sum(0)
    assert (count > 1).any()  # the recording has overlaps

    def summed(*arguments: Any) -> Tensor:
        return op(*arguments) * count.clamp(min=1)[:, None]

    assert deviation_when(lambda: monkeypatch.setattr(encoder, "spatial_cross_attn", summed)) > BROKEN


def test_rule_12_decoder_refinement(monkeypatch: pytest.MonkeyPatch) -> None:
    epsilon = torch.tensor([0.0, 1.0, 0.5, -3.0, 4.0])
    bound = math.log(1e-5)
    torch.testing.assert_close(
        decoder.inverse_sigmoid(epsilon), torch.tensor([bound, -bound, 0.0, bound, -bound]), rtol=1e-5, atol=1e-6
    )
    model = official_model()
    with torch.no_grad():  # query first, position second: the wrong way round
        weight = model.pts_bbox_head.query_embedding.weight
        weight.copy_(weight.roll(SPEC.embed_dim, dims=1))
    assert deviation(run(model, True), "prev") > BROKEN
    logit = decoder.inverse_sigmoid
    broken = lambda: monkeypatch.setattr(decoder, "inverse_sigmoid", lambda x: logit(x) * 0)  # noqa: E731
    assert deviation_when(broken) > BROKEN


def test_rule_13_box_code_and_one_regression_a_layer() -> None:
    model = official_model()
    calls: list[int] = []
    for index, branch in enumerate(model.pts_bbox_head.reg_branches):
        branch.register_forward_hook(lambda *_, index=index: calls.append(index))
    outputs = run(model, True)
    assert calls == [0, 1]
    coords = outputs.coords
    low, high = torch.tensor(SPEC.pc_range[:3]), torch.tensor(SPEC.pc_range[3:])
    centres = coords[..., [0, 1, 4]]
    assert ((centres >= low) & (centres <= high)).all()
    # Exchanging z and log h would pass the range check; the recording decides.
    swapped = outputs._replace(coords=coords[..., [0, 1, 2, 3, 5, 4, 6, 7, 8, 9]])
    assert deviation(outputs, "prev") <= TOLERANCE
    assert deviation(swapped, "prev") > BROKEN


def test_rule_14_decoding() -> None:
    arrays = recording().arrays
    classes, coords = arrays["cls_prev"][-1, 0], arrays["bbox_prev"][-1, 0]
    boxes, scores, labels = decode_raw(classes, coords, SPEC)
    np.testing.assert_array_equal(labels, arrays["dec_labels"])
    np.testing.assert_allclose(scores, arrays["dec_scores"], atol=1e-6)
    # The official result names the bottom's centre; ours the gravity centre, as nuScenes does.
    bottom = boxes.copy()
    bottom[:, 2] -= boxes[:, 5] / 2
    np.testing.assert_allclose(bottom, arrays["dec_boxes"], atol=TOLERANCE)
    assert np.abs(boxes - arrays["dec_boxes"]).max() > BROKEN
    decoded = decode(arrays["cls_prev"], arrays["bbox_prev"], SPEC)
    np.testing.assert_allclose(decoded.center, boxes[:, :3])
    np.testing.assert_allclose(network_rotation(decoded.yaw), boxes[:, 6], atol=1e-5)


def test_rule_14_centres_outside_the_range_are_dropped() -> None:
    arrays = recording().arrays
    coords = arrays["bbox_prev"][-1, 0].copy()
    coords[:8, 0] = 61.3
    boxes, scores, _ = decode_raw(arrays["cls_prev"][-1, 0], coords, SPEC)
    assert 0 < len(boxes) == len(scores) < SPEC.max_boxes
    assert (boxes[:, 0] <= 61.2).all()


def test_rule_15_projection_stays_in_fp32() -> None:
    matrix = recording().lidar2img[0]
    arguments = (SPEC.bev_hw, SPEC.pc_range, SPEC.pillar_heights, SPEC.image_hw)
    plain, _ = project_pillars(matrix, *arguments)
    assert plain.abs().max() > torch.finfo(torch.float16).max  # what half precision could not hold
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast, _ = project_pillars(matrix, *arguments)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(plain, under_autocast)


def test_rule_15_a_half_precision_matrix_is_widened_first() -> None:
    # In half precision the products alone would overflow at these sizes.
    matrix = torch.zeros(1, 4, 4, dtype=torch.float16)
    matrix[0, 0] = torch.tensor([2000.0, 0.0, 0.0, 30000.0])
    matrix[0, 2] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    uv, _ = project_pillars(matrix, (1, 2), SPEC.pc_range, (0.0,), (1, 1))
    assert uv[0, :, 0, 0].tolist() == [2000 * -25.6 + 30000, 2000 * 25.6 + 30000]


def test_rule_15_references_are_clamped_before_offsets_are_added() -> None:
    # One cell with two anchors: one lies in the image, the other behind the camera, where dividing by the least depth
    # throws it a million images away. An offset of a few pixels must find it at the clamp, not beyond all numbers.
    matrix = torch.zeros(1, 4, 4)
    matrix[0, 0, 2], matrix[0, 0, 3] = 10.0, 0.0  # u = 10 z / depth
    matrix[0, 1, 2], matrix[0, 1, 3] = 0.25, 0.25  # v = (z + 1) / 4 depth: 0, the map's upper edge, behind the camera
    matrix[0, 2, 2] = 1.0  # depth = z
    geometry = encoder.PillarGeometry((1, 1), SPEC.pc_range, (1.0, -1.0), (1, 20))
    value = torch.ones(1, 8, 1, 4)
    # The map is 8 wide: the clamp at -2 is 16 pixels to the left; 20 pixels to the right of it lies inside, and counts
    # half for the edge. Unclamped it would lie outside and count nothing.
    offsets = torch.tensor([0.0, 20.0]).reshape(1, 1, 1, 2, 1) * torch.tensor([1.0, 0.0])
    output = encoder.spatial_cross_attn(value, matrix, offsets, torch.zeros(1, 1, 2), [(1, 8)], geometry)
    torch.testing.assert_close(output, torch.full((1, 4), 0.5 + 0.5 * 0.5))


def test_rule_15_half_precision_values_stay_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(6, 60, SPEC.heads, SPEC.head_dim, generator=generator)
    offsets = torch.randn(SPEC.bev_cells, SPEC.heads, 1, 8, 2, generator=generator)
    logits = torch.randn(SPEC.bev_cells, SPEC.heads, 8, generator=generator)
    arguments = (recording().lidar2img[0], offsets, logits, SPEC.feature_hws, encoder.PillarGeometry.of(SPEC))
    half = encoder.spatial_cross_attn(value.half(), *arguments)
    torch.testing.assert_close(half.float(), encoder.spatial_cross_attn(value, *arguments), rtol=0.02, atol=0.02)
