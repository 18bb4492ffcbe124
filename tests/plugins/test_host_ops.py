"""The library's ops on the CPU (the very bodies that the GPU runs) against float64 torch, friendly and hostile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plugin_cases import BUILDERS, Case, ms_deform_case, sample_case, spatial_case, temporal_case

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.plugins import DeviceTensor, PluginLibrary

OPS = tuple(BUILDERS)
ATTENTION = OPS[:3]


def assert_close(actual: np.ndarray, case: Case, relative: float) -> None:
    """Largest difference over the largest magnitude; every element finite, so poison cannot hide."""
    expected = case.expected().numpy()
    assert np.isfinite(actual.astype(np.float64)).all()
    assert np.abs(expected).max() > 0.05, "a case that expects zeros proves nothing"
    error = np.abs(actual.astype(np.float64) - expected).max() / np.abs(expected).max()
    assert error <= relative, f"largest relative error {error:.3g}"


# An int8 sample is interpolated in fixed point: plugins/include/qdbev/bilinear.h bounds its error by 0.012 steps.
INT8_STEPS = 0.012


def assert_matches(library: PluginLibrary, case: Case, value_dtype: str) -> None:
    actual = case.run(library)
    if value_dtype != "int8" or case.op == "ModulatedDeformSample":
        assert_close(actual, case, 1e-5)
        return
    steps = np.abs(actual - case.expected().numpy()).max() / case.value_scale
    assert steps <= INT8_STEPS, f"off by {steps:.3g} int8 steps"


@pytest.mark.parametrize("aux_dtype", ["float32", "float16"])
@pytest.mark.parametrize("value_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("op", OPS)
def test_agrees_with_torch(library: PluginLibrary, op: str, value_dtype: str, aux_dtype: str) -> None:
    assert_matches(library, BUILDERS[op](1, value_dtype, aux_dtype), value_dtype)


@pytest.mark.parametrize("value_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize(
    "case_of",
    [
        lambda dtype: ms_deform_case(2, dtype, shapes=((1, 1),), queries=1, batch=1),
        lambda dtype: ms_deform_case(3, dtype, shapes=((1, 9), (7, 1)), points=3),
        lambda dtype: ms_deform_case(4, dtype, points=1, heads=3, head_dim=16),
        lambda dtype: ms_deform_case(5, dtype, points=12, heads=1, head_dim=64),
        lambda dtype: ms_deform_case(6, dtype, heads=5, head_dim=256, queries=3),
        lambda dtype: temporal_case(7, dtype, bev_hw=(1, 19), points=2),
        lambda dtype: temporal_case(8, dtype, bev_hw=(17, 1), heads=3, head_dim=16),
        lambda dtype: temporal_case(9, dtype, bev_hw=(50, 50), heads=4),
        lambda dtype: spatial_case(10, dtype, shapes=((12, 20),)),
        lambda dtype: spatial_case(11, dtype, shapes=((23, 25), (12, 13), (6, 7), (3, 4)), heads=8),
        lambda dtype: spatial_case(12, dtype, points=6, z_anchors=(-1.0, 0.0, 1.0)),
        lambda dtype: spatial_case(13, dtype, points=8, z_anchors=(0.0,), cameras=1),
        lambda dtype: spatial_case(14, dtype, bev_hw=(1, 7), cameras=9),
        lambda dtype: sample_case(15, dtype, channels=1, kernel=(1, 1), padding=(0, 0)),
        lambda dtype: sample_case(16, dtype, stride=(2, 2)),
        lambda dtype: sample_case(17, dtype, kernel=(5, 3), padding=(2, 0), dilation=(2, 1), stride=(1, 3)),
        lambda dtype: sample_case(18, dtype, channels=64, height=1, width=200),
    ],
)
def test_odd_sizes(library: PluginLibrary, case_of: object, value_dtype: str) -> None:
    assert_matches(library, case_of(value_dtype), value_dtype)  # type: ignore[operator]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("value_dtype", ["float32", "int8"])
def test_output_types(library: PluginLibrary, op: str, value_dtype: str) -> None:
    case = BUILDERS[op](20, value_dtype, "float16")
    full = case.run(library)
    np.testing.assert_array_equal(case.run(library, "float16"), full.astype(np.float16))
    scale = np.float32(np.abs(full).max() / 100)
    quantised = case.run(library, "int8", output_scale=float(scale))
    np.testing.assert_array_equal(quantised, np.clip(np.rint(full / scale), -128, 127).astype(np.int8))
    saturated = case.run(library, "int8", output_scale=float(scale / 4))
    assert {saturated.min(), saturated.max()} == {-128, 127}


@pytest.mark.parametrize("op", OPS)
def test_result_does_not_depend_on_threads_or_alignment(library: PluginLibrary, op: str) -> None:
    case = BUILDERS[op](21, "int8", "float16")
    alone = case.run(library)
    np.testing.assert_array_equal(case.run(library, threads=3), alone)
    # Every address that is a multiple of the element's size, and so the variants that load element by element.
    arrays = [tensor.contiguous().numpy() for tensor in case.inputs]
    for shift in (1, 2, 3, 5):
        moved = []
        for array in arrays:
            room = np.zeros(array.size + 16, dtype=array.dtype)
            first = (-room.ctypes.data // array.itemsize) % (16 // array.itemsize) + shift
            moved.append(room[first : first + array.size].reshape(array.shape))
            moved[-1][...] = array
        out = np.full(case.out_shape, np.nan, np.float32)
        # The order of additions is the same, so the result is the same to the last bit.
        np.testing.assert_array_equal(library.run(op, moved, case.attributes, out), alone)


def test_sampling_exactly_on_pixel_centres_returns_pixels(library: PluginLibrary) -> None:
    case = ms_deform_case(22, shapes=((5, 7),), batch=1, queries=35, heads=1, points=4)
    y, x = np.divmod(np.arange(35), 7)
    case.inputs[1] = torch.tensor(np.stack([(x + 0.5) / 7, (y + 0.5) / 5], -1)[None], dtype=torch.float32)
    case.inputs[2] = torch.zeros_like(case.inputs[2])
    np.testing.assert_allclose(case.run(library)[0], case.inputs[0][0, :, 0].numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value_dtype", ["float32", "float16", "int8"])
def test_borders(library: PluginLibrary, value_dtype: str) -> None:
    """Points on the image's border and half a pixel, one pixel and a hair beyond it."""
    steps = np.array([-1.5, -1.0, -0.999, -0.5, 0.0, 0.5, 0.999, 1.0, 1.5])
    places = np.concatenate([steps, 8 + steps])
    queries = len(places) ** 2
    case = ms_deform_case(23, value_dtype, shapes=((8, 8),), batch=1, queries=queries, heads=1)
    grid = np.stack(np.meshgrid(places, places), -1).reshape(1, queries, 2) / 8
    case.inputs[1] = torch.tensor(grid, dtype=torch.float32)
    case.inputs[2] = torch.zeros_like(case.inputs[2])
    assert_matches(library, case, value_dtype)


HOSTILE = (np.nan, np.inf, -np.inf, 3e38, -3e38, 6e4, -6e4, 2.0**31, -(2.0**31), 1e-40)


@pytest.mark.parametrize("aux_dtype", ["float32", "float16"])
@pytest.mark.parametrize("value_dtype", ["float32", "int8"])
@pytest.mark.parametrize("op", OPS)
def test_hostile_offsets_contribute_zero(library: PluginLibrary, op: str, value_dtype: str, aux_dtype: str) -> None:
    case = BUILDERS[op](24, value_dtype, aux_dtype)
    offsets = case.inputs[1 if op == "ModulatedDeformSample" else 2]
    flat = offsets.view(-1)
    chosen = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))[: flat.numel() // 3]
    flat[chosen] = torch.tensor(HOSTILE)[torch.arange(len(chosen)) % len(HOSTILE)].to(flat.dtype)
    assert_matches(library, case, value_dtype)


@pytest.mark.parametrize("op", ATTENTION)
def test_logits_far_apart_do_not_overflow(library: PluginLibrary, op: str) -> None:
    case = BUILDERS[op](25)
    case.inputs[3] *= 1e4
    assert_close(case.run(library), case, 1e-5)
    case.inputs[3] += 3e38
    assert np.isfinite(case.run(library)).all()


@pytest.mark.parametrize("op", ATTENTION)
@pytest.mark.parametrize("logit", [np.nan, np.inf, -np.inf])
def test_hostile_logits_stay_in_their_head(library: PluginLibrary, op: str, logit: float) -> None:
    """A logit that is no number may spoil its own head of its own query, nothing else."""
    case = BUILDERS[op](26)
    clean = case.run(library)
    case.inputs[3].view(-1)[5] = logit
    spoilt = case.run(library)
    head_dim = case.inputs[0].shape[-1]
    changed = ~np.isclose(spoilt, clean, rtol=0, atol=0)
    assert changed.reshape(-1, head_dim)[1:].sum() == 0


@pytest.mark.parametrize("value_dtype", ["float32", "int8"])
def test_nan_references_contribute_zero(library: PluginLibrary, value_dtype: str) -> None:
    case = ms_deform_case(27, value_dtype)
    case.inputs[1][0, 3] = torch.tensor([np.nan, 0.5])
    case.inputs[1][1, 5] = torch.tensor([0.5, np.inf])
    assert_matches(library, case, value_dtype)
    actual = case.run(library)
    assert (actual[0, 3] == 0).all()
    assert (actual[1, 5] == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, 1e30, -1e30])
def test_spatial_with_matrices_that_are_no_cameras(library: PluginLibrary, bad: float) -> None:
    case = spatial_case(28)
    seen_by_all = case.run(library)
    case.inputs[1][2] = bad
    case.inputs[1][4, 2, 2] = bad
    actual = case.run(library)
    assert_close(actual, case, 1e-5)
    assert np.abs(actual - seen_by_all).max() > 0


def test_spatial_when_no_camera_sees_anything(library: PluginLibrary) -> None:
    case = spatial_case(29)
    case.inputs[1] = torch.zeros_like(case.inputs[1])
    assert (case.run(library) == 0).all()
    case.inputs[1][:] = np.nan
    assert (case.run(library) == 0).all()


@pytest.mark.parametrize("depth", [-1.0, -1e-6, 0.0, 1e-5, 1.1e-5])
def test_spatial_on_the_optical_axis_only_depth_tells_front_from_behind(library: PluginLibrary, depth: float) -> None:
    """u and v are 0.5 by the clamped depth wherever the point is."""
    case = spatial_case(32)
    case.inputs[1][:] = 0.0
    case.inputs[1][:, 0, 3] = 0.5 * 160 * max(depth, 1e-5)
    case.inputs[1][:, 1, 3] = 0.5 * 96 * max(depth, 1e-5)
    case.inputs[1][:, 2, 3] = depth
    if depth > 1e-5:
        assert_close(case.run(library), case, 1e-5)
    else:
        assert (case.run(library) == 0).all()


def test_spatial_cells_that_are_unseen_seen_once_and_seen_twice(library: PluginLibrary) -> None:
    case = spatial_case(30, bev_hw=(20, 20))
    case.inputs[1][3] = 0.0  # nobody looks there
    _, visible = case.extra["pillars"].project(case.inputs[1])
    counts = set(visible.any(-1).sum(0).tolist())
    assert {0, 1, 2} <= counts, f"the rig does not show all three: {counts}"
    assert_close(case.run(library), case, 1e-5)


def test_spatial_samples_every_point_of_a_camera_that_sees_one_anchor(library: PluginLibrary) -> None:
    """An invisible anchor just beside the image still contributes where its offset leads back into it."""
    case = spatial_case(31, bev_hw=(20, 20))
    _, visible = case.extra["pillars"].project(case.inputs[1])
    assert (visible.any(-1) & ~visible.all(-1)).any()
    case.inputs[2] *= 6
    assert_close(case.run(library), case, 1e-5)


def test_refusals_are_sentences(library: PluginLibrary) -> None:
    def refused(case: Case, expected: str, out_dtype: str = "float32", **attributes: object) -> None:
        with pytest.raises(QdbevError, match=expected):
            case.run(library, out_dtype, **attributes)

    refused(ms_deform_case(1, head_dim=6), "head size is 6; for float32 a multiple of 4")
    refused(ms_deform_case(1, "float16", head_dim=4), "for float16 a multiple of 8")
    refused(ms_deform_case(1, "int8", head_dim=8), "for int8 a multiple of 16")
    refused(ms_deform_case(1, "int8"), "it must be a positive number", value_scale=-0.5)
    refused(ms_deform_case(1, "int8"), "it must be float32 or float16|must be int8 where", value_scale=0.0)
    refused(ms_deform_case(1), "must be int8 where value_scale > 0", value_scale=0.1)
    refused(ms_deform_case(1), "'value_scale' holds a number that is not finite", value_scale=float("nan"))
    refused(ms_deform_case(1), "output is int8", "int8")
    refused(ms_deform_case(1), "field 'speling' is unknown", speling=1)
    refused(ms_deform_case(1), r"spatial_shapes.*holds 3 numbers", spatial_shapes=[1, 2, 3])
    refused(ms_deform_case(1), r"holds 0; 1 to 32768", spatial_shapes=[0, 2])
    refused(ms_deform_case(1), r"input 'value' has shape \[2, 310, 8, 32\]", spatial_shapes=[13, 17, 7, 9, 4, 5, 2, 2])
    refused(temporal_case(1), r"input 'value' has shape", bev_h=12)
    refused(spatial_case(1), "8 points on 3 pillar anchors", z_anchors=(0.0, 1.0, 2.0))
    refused(spatial_case(1), "each low end below", pc_range=(1.0, 0.0, 0.0, 0.0, 1.0, 1.0))
    refused(spatial_case(1), "'pc_range' must hold 6", pc_range=(1.0, 0.0))
    refused(spatial_case(1), "must be positive", image_h=0)
    refused(sample_case(1), r"input 'offset' has shape", stride=(2, 1))
    refused(sample_case(1), r"field 'kernel' must hold two", kernel=(3,))
    wrong_aux = ms_deform_case(1)
    wrong_aux.inputs[3] = wrong_aux.inputs[3].half()
    refused(wrong_aux, "the same for all")
    half_points = ms_deform_case(1)
    half_points.inputs[1] = half_points.inputs[1].half()
    refused(half_points, "'reference_points' is float16; it must be float32")
    missing = ms_deform_case(1)
    del missing.attributes["spatial_shapes"]
    refused(missing, "'spatial_shapes' is missing")
    flat = ms_deform_case(1)
    flat.out_shape = (5,)
    refused(flat, r"the output has shape \[5\]; the inputs make \[2, 37, 256\]")


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"value_scale": "0.1"}, "attribute 'value_scale' of MSDeformAttn is '0.1'"),
        ({"value_scale": np.array([0.1])}, "attribute 'value_scale'"),
        ({"value_scale": None}, "attribute 'value_scale'"),
        ({"value_scale": 10**400}, "attribute 'value_scale'"),
        ({"spatial_shapes": [2**63, 1]}, "attribute 'spatial_shapes' of MSDeformAttn is 9223372036854775808"),
        ({"spatial_shapes": [1.5, 1]}, "attribute 'spatial_shapes'"),
        ({"spatial_shapes": "12"}, "attribute 'spatial_shapes'"),
        ({"spatial\0shapes": [1, 1]}, "zero byte"),
    ],
)
def test_attributes_that_are_no_numbers_are_refused(
    library: PluginLibrary, attributes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(QdbevError, match=sentence):
        ms_deform_case(90).run(library, **attributes)


def test_calls_that_would_damage_memory_are_refused(library: PluginLibrary) -> None:
    case = ms_deform_case(91)
    inputs = [tensor.numpy() for tensor in case.inputs]
    out = np.zeros(case.out_shape, np.float32)
    out.flags.writeable = False
    with pytest.raises(QdbevError, match="read-only"):
        library.run(case.op, inputs, case.attributes, out)
    assert not out.any()
    fresh = np.zeros(case.out_shape, np.float32)
    with pytest.raises(QdbevError, match="zero byte"):
        library.run(case.op + "\0", inputs, case.attributes, fresh)
    with pytest.raises(QdbevError, match="a tensor is a list"):
        library.run(case.op, [*inputs[:-1], [1.0]], case.attributes, fresh)  # type: ignore[list-item]
    tensors = [DeviceTensor(0, (2**64,), "float32")] * 4
    with pytest.raises(QdbevError, match="an extent is 18446744073709551616"):
        library.launch(case.op, tensors, case.attributes, tensors[0])


@pytest.mark.parametrize("threads", [-5, 0, 10**6, 2**40])
def test_any_number_of_threads(library: PluginLibrary, threads: int) -> None:
    case = ms_deform_case(92)
    np.testing.assert_array_equal(case.run(library, threads=threads), case.run(library))
