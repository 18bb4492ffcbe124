"""Small models, float and quantised, drives of noise for them, and ways to spoil a file: what these tests export."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from qdbev_deploy.contract import BackboneSpec, VariantSpec
from qdbev_deploy.data.preprocess import preprocess, scale_lidar2img
from qdbev_deploy.data.stream_frames import StreamFrame
from qdbev_deploy.data.synth.rig import make_rig
from qdbev_deploy.export.options import ExportOptions
from qdbev_deploy.model import BEVFormer, build_model
from qdbev_deploy.quant import Recipe, load_recipe, quantise
from qdbev_deploy.quant.quantise import observing, set_scales
from qdbev_deploy.streaming import EgoState
from tests.model.reference import SPEC as ONE_LEVEL

PLAIN = dataclasses.replace(ONE_LEVEL, name="plain", rotate_center=None)
# One layer of each kind: what an option changes shows there as well, and tracing takes a third of the time.
SHORT = dataclasses.replace(PLAIN, name="short", encoder_layers=1, decoder_layers=1)
DEFORMABLE = dataclasses.replace(
    SHORT,
    name="deformable",
    backbone=BackboneSpec("bottleneck", (1, 1, 1, 1), 8, "caffe", (3, 4), (4,), frozen_stages=0, frozen_norm=False),
    num_levels=3,
)


@cache
def float_model(spec: VariantSpec) -> BEVFormer:
    """Fresh weights, with what starts at zero awake: offsets and attention weights depend on their inputs."""
    model = build_model(spec, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("sampling_offsets.weight", "attention_weights.weight", "conv_offset.weight")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def frames(spec: VariantSpec, options: ExportOptions | None = None, count: int = 20) -> Iterator[StreamFrame]:
    """Noise seen by a nuScenes rig on a curved drive; the second half is another scene."""
    rng = np.random.default_rng(0)
    rig = make_rig(rng)
    native = []
    for camera in rig.cameras:
        matrix = np.eye(4)
        matrix[:3, :3] = camera.intrinsic
        matrix[:2] *= spec.preprocess.source_hw[1] / 1600  # the rig sees 1600 pixels, our frames are smaller
        native.append(matrix @ np.linalg.inv(camera.cam2ego) @ rig.lidar2ego)
    lidar2img = scale_lidar2img(np.stack(native), spec.preprocess)[None]
    for index in range(count):
        pixels = rng.integers(0, 256, (6, *spec.preprocess.source_hw, 3), dtype=np.uint8)
        image = pixels if options is not None and options.image == "uint8" else preprocess(pixels, spec.preprocess)
        yaw = 0.3 + 0.02 * index
        ego = EgoState(
            1_000_000 + 500_000 * index,
            (100.0 + 4 * index, 50.0 + 0.3 * index**2, 0.0),
            (float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))),
        )
        yield StreamFrame(image[None], lidar2img, ego, "first" if index < count // 2 else "second")


@cache
def student(spec: VariantSpec, recipe_name: str = "w4a6") -> tuple[BEVFormer, Recipe]:
    """The same model quantised by a shipped recipe, its scales from a few frames."""
    recipe = load_recipe(recipe_name)
    model = build_model(spec)
    model.load_state_dict(float_model(spec).state_dict())
    model = quantise(model, recipe).eval()
    with observing(model) as histograms:
        session = model.session()
        for frame in frames(spec, count=3):
            session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
    set_scales(model, histograms, "percentile")
    return model, recipe


def spoil(proto: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """A copy of a file that says something else: one of "classes", "sizes", "velocities", or a factor on bev_embed."""
    copy: onnx.ModelProto = onnx.ModelProto.FromString(proto.SerializeToString())
    if what in ("classes", "sizes", "velocities"):
        branch = "cls_branches" if what == "classes" else "reg_branches"
        biases = [item for item in copy.graph.initializer if branch in item.name and item.name.endswith("bias")]
        array = numpy_helper.to_array(biases[-1]).copy()
        columns = {"classes": list(range(len(array))), "sizes": [2, 3, 5], "velocities": [8, 9]}[what]
        array[columns] += 3.0
        biases[-1].CopyFrom(numpy_helper.from_array(array, biases[-1].name))
        return copy
    for node in copy.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = "unspoilt" if name == "bev_embed" else name
    copy.graph.initializer.append(numpy_helper.from_array(np.float32(what), "factor"))
    copy.graph.node.append(helper.make_node("Mul", ["unspoilt", "factor"], ["bev_embed"], name="spoil"))
    return copy
