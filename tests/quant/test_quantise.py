"""Quantising a whole model: folding, calibration, integers, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qdbev_deploy.calibration.recipe import PARTS, part_of, recipe_from_dict
from qdbev_deploy.contract import VARIANTS, stream_inputs
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.evaluate.runner import open_model
from qdbev_deploy.model import BEVFormer, build_model, load_checkpoint
from qdbev_deploy.quant import integers, load_model, load_recipe, quantise, save_student
from qdbev_deploy.quant.fold import fold_batch_norms
from qdbev_deploy.quant.quantise import (
    activation_quantizers,
    enable_parts,
    observing,
    set_scales,
    weight_quantizers,
    without_scale,
)

SPEC = VARIANTS["micro"]


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, bev, use_prev, can_bus, lidar2img = (
        torch.randn(tensor.shape, generator=generator) for tensor in stream_inputs(SPEC)
    )
    lidar2img[:, :, 2] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # depth is y: half of the cells lie ahead
    lidar2img[:, :, :2] *= 40
    return [image, bev, torch.ones_like(use_prev), can_bus * 0.1, lidar2img]


def shaken(seed: int = 0) -> BEVFormer:
    """A float model whose batch norms are not trivial."""
    model = build_model("micro", seed=seed).eval()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias, module.running_var, module.weight):
                assert tensor is not None
                tensor.data.add_(torch.rand(tensor.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(scope="module")
def student() -> BEVFormer:
    model = quantise(shaken(), load_recipe("w4a6")).eval()
    with observing(model) as histograms, torch.inference_mode():
        model.step(*inputs())
    set_scales(model, histograms, "mse")
    return model


@torch.inference_mode()
def test_folding_changes_nothing() -> None:
    reference, folded = shaken(), shaken()
    fold_batch_norms(folded)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    for ours, theirs in zip(folded.step(*inputs()), reference.step(*inputs())):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_folding_deformable_convolutions_changes_nothing() -> None:
    from qdbev_deploy.model.resnet import ResNet

    spec = VARIANTS["base"].backbone
    small = type(spec)("bottleneck", (1, 1, 1, 1), 8, "caffe", (4,), (3, 4))
    torch.manual_seed(0)
    model = build_model("micro").eval()
    model.img_backbone = ResNet(small).eval()
    for module in model.img_backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    images = torch.randn(1, 3, 64, 96)
    before = model.img_backbone(images)[0]
    fold_batch_norms(model)
    torch.testing.assert_close(model.img_backbone(images)[0], before, rtol=1e-4, atol=1e-4)


def test_the_model_computes_with_exactly_the_integers_it_reads_out(student: BEVFormer) -> None:
    read = integers(student)
    assert set(read.weights) == set(weight_quantizers(student))
    for name, weight in read.weights.items():
        module = student.get_submodule(name.removesuffix(".in_proj"))
        used = getattr(module, "in_proj_weight" if name.endswith(".in_proj") else "weight").detach()
        shape = (-1, *[1] * (used.dim() - 1))
        assert torch.equal(weight.integers.float() * weight.scale.reshape(shape), used), name
        assert int(weight.integers.min()) >= weight.grid.qmin
        assert int(weight.integers.max()) <= weight.grid.qmax


def test_activations_lie_on_their_grids(student: BEVFormer) -> None:
    read = integers(student).activations
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
        for name, module in activation_quantizers(student).items()
    ]
    with torch.inference_mode():
        student.step(*inputs())
    for handle in handles:
        handle.remove()
    # A streaming step runs the last decoder layer's class branch alone.
    assert set(read) - set(seen) == {f"pts_bbox_head.cls_branches.{i}.taps.{j}" for i in (0, 1) for j in (0, 3)}
    for name, tensor in seen.items():
        steps = tensor / read[name].scale
        assert float((steps - steps.round()).abs().max()) < 1e-3, name
        assert steps.round().min() >= read[name].grid.qmin
        assert steps.round().max() <= read[name].grid.qmax


def test_parts_switch_on_one_by_one(student: BEVFormer) -> None:
    try:
        with torch.inference_mode():
            reference = shaken().step(*inputs())
            distances = []
            for count in range(len(PARTS) + 1):
                enable_parts(student, set(PARTS[:count]))
                distances.append(float((student.step(*inputs()).bev_embed - reference.bev_embed).abs().mean()))
    finally:
        enable_parts(student, set(PARTS))
    assert distances[0] < 1e-4  # nothing enabled: the float model
    assert distances[1] > 1e-2  # the backbone shows
    assert distances[4] == pytest.approx(distances[3])  # the decoder does not reach the BEV


def test_observing_one_part_leaves_the_others_quantised(student: BEVFormer) -> None:
    with observing(student, {"decoder"}) as histograms, torch.inference_mode():
        bev = student.step(*inputs()).bev_embed
    assert set(map(part_of, histograms)) == {"decoder"}
    assert histograms["pts_bbox_head.transformer.decoder.bev_tap"].largest > 0
    with torch.inference_mode():
        torch.testing.assert_close(student.step(*inputs()).bev_embed, bev)


def test_a_student_comes_back_bit_for_bit(student: BEVFormer, tmp_path: Path) -> None:
    save_student(tmp_path / "student.pt", student, load_recipe("w4a6"), {"steps": 3})
    loaded, recipe = load_model(tmp_path / "student.pt")
    assert recipe == load_recipe("w4a6")
    with torch.inference_mode():
        for ours, theirs in zip(loaded.step(*inputs()), student.step(*inputs())):
            assert torch.equal(ours, theirs)
    with pytest.raises(QdbevError, match="is a quantised student"):
        load_checkpoint(tmp_path / "student.pt")


def test_a_student_without_all_its_scales_is_refused_but_by_who_knows(student: BEVFormer, tmp_path: Path) -> None:
    model, path = quantise(shaken(), load_recipe("w4a6")), tmp_path / "unfinished.pt"
    with observing(model, {"backbone", "neck"}) as histograms, torch.inference_mode():
        model.eval().step(*inputs())
    set_scales(model, histograms, "mse")
    save_student(path, model, load_recipe("w4a6"))
    first = next(name for name in activation_quantizers(model) if part_of(name) not in ("backbone", "neck"))
    for opened in (load_model, open_model):
        with pytest.raises(QdbevError, match=f"the activation '{first}' has no scale yet") as refusal:
            opened(path)
        assert refusal.value.exit_code == ExitCode.BAD_INPUT
    assert without_scale(load_model(path, unfinished=True)[0])[0] == first


def test_integers_are_those_of_enabled_parts_whatever_is_enabled(student: BEVFormer) -> None:
    reference = integers(student)
    try:
        enable_parts(student, {"backbone"})
        read = integers(student)
    finally:
        enable_parts(student, set(PARTS))
    for name, weight in read.weights.items():
        assert torch.equal(weight.integers, reference.weights[name].integers), name
        assert weight.grid.qmin <= int(weight.integers.min()) <= int(weight.integers.max()) <= weight.grid.qmax, name


def test_a_weight_that_is_not_finite_is_named(student: BEVFormer) -> None:
    weight = weight_quantizers(student)["img_neck.lateral_convs.0.conv"][1].data
    kept = weight[0, 0].clone()
    try:
        weight[0, 0] = float("nan")
        with pytest.raises(QdbevError, match=r"numbers of 'img_neck.lateral_convs.0.conv' are not finite"):
            integers(student)
    finally:
        weight[0, 0] = kept


def test_observed_scales_compute_the_same_and_come_back(student: BEVFormer, tmp_path: Path) -> None:
    recipe = recipe_from_dict({**load_recipe("w4a6").to_dict(), "scales": "observed"}, "observed")
    model = quantise(shaken(), recipe).eval()
    model.load_state_dict(student.state_dict())
    save_student(tmp_path / "observed.pt", model, recipe)
    loaded, its_recipe = load_model(tmp_path / "observed.pt")
    assert its_recipe == recipe
    with torch.inference_mode():
        for ours, theirs in zip(loaded.step(*inputs()), student.step(*inputs())):
            assert torch.equal(ours, theirs)
    assert integers(loaded).activations == integers(student).activations
    learning, with_scales = (
        {name for name, parameter in model.named_parameters() if parameter.requires_grad} for model in (loaded, student)
    )
    assert learning == {name for name in with_scales if not name.endswith("log_scale")} != with_scales


# -- one scale where TensorRT wants one --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traffic(student: BEVFormer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(what each module read, what it gave) in one streaming step, the very tensors."""
    read: dict[str, Tensor] = {}
    gave: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            gave[name] = output
            if arguments:
                read[name] = arguments[0]

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in student.named_modules()
        if name and "parametrizations" not in name
    ]
    with torch.inference_mode():
        student.step(*inputs())
    for handle in handles:
        handle.remove()
    return read, gave


Traffic = tuple[dict[str, Tensor], dict[str, Tensor]]


def test_a_blocks_shortcut_has_the_scale_of_its_input(student: BEVFormer, traffic: Traffic) -> None:
    read, gave = traffic
    backbone, before = "img_backbone", "stem_tap"
    shortcuts = set()
    for stage, count in enumerate(SPEC.backbone.blocks):
        for index in range(count):
            block, tapped = f"{backbone}.layer{stage + 1}.{index}", gave[f"{backbone}.{before}"]
            assert f"{backbone}.{before}" in activation_quantizers(student)
            assert read[block] is tapped
            assert read[f"{block}.conv1"] is tapped
            convolved = f"{block}.downsample.0" in read
            if convolved:
                assert read[f"{block}.downsample.0"] is tapped
                assert f"{block}.residual_tap" in activation_quantizers(student)
            else:  # one scale for both, and the addition takes what was rounded
                assert f"{block}.residual_tap" not in activation_quantizers(student)
            other = gave[f"{block}.residual_tap"] if convolved else tapped
            assert torch.equal(gave[block], (gave[f"{block}.conv2"] + other).relu()), block
            shortcuts.add(convolved)
            before = f"output_taps.{stage}.{index}"
            assert read[f"{backbone}.{before}"] is gave[block]
    assert shortcuts == {True, False}
    # The neck reads the same tensors as the next stage.
    for level, stage in enumerate(SPEC.backbone.out_stages):
        tap = f"{backbone}.output_taps.{stage - 1}.{SPEC.backbone.blocks[stage - 1] - 1}"
        assert read[f"img_neck.lateral_convs.{level}.conv"] is gave[tap]


def test_what_is_concatenated_has_one_scale(student: BEVFormer, traffic: Traffic) -> None:
    read, gave = traffic
    transformer = "pts_bbox_head.transformer"
    taps = activation_quantizers(student)
    tokens = gave[f"{transformer}.tokens_tap"]
    assert tokens.shape == (6, sum(height * width for height, width in SPEC.feature_hws), SPEC.embed_dim)
    assert len(SPEC.feature_hws) == 2
    for layer in range(SPEC.encoder_layers):
        temporal, spatial = (f"{transformer}.encoder.layers.{layer}.attentions.{index}" for index in (0, 1))
        # All cameras and levels: one tap, for every layer.
        assert read[f"{spatial}.deformable_attention.value_proj"] is tokens
        # Both frames of temporal attention: one tap before the projection, one behind it.
        assert read[f"{temporal}.value_proj"] is gave[f"{temporal}.frames_tap"]
        assert read[f"{temporal}.value_tap"] is gave[f"{temporal}.value_proj"]
        assert gave[f"{temporal}.frames_tap"].shape == (2, SPEC.bev_cells, SPEC.embed_dim)
        assert {f"{temporal}.frames_tap", f"{temporal}.value_tap"} <= set(taps)
        assert taps[f"{temporal}.frames_tap"].scale.numel() == 1
    bev = gave[f"{transformer}.decoder.bev_tap"]
    for layer in range(SPEC.decoder_layers):
        assert read[f"{transformer}.decoder.layers.{layer}.attentions.1.value_proj"] is bev


def test_uncalibrated_or_float_models_have_no_integers() -> None:
    with pytest.raises(QdbevError, match="a float model"):
        integers(build_model("micro"))
    with pytest.raises(QdbevError, match="has no scale yet"):
        integers(quantise(build_model("micro"), load_recipe("w4a6")))


def test_quantising_twice_is_refused(student: BEVFormer) -> None:
    with pytest.raises(QdbevError, match="quantised already"):
        quantise(student, load_recipe("w4a6"))
