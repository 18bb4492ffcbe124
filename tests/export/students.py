"""Small models, float and quantised, and ways to look at a file or to spoil it: what these tests export."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

from qdbev_deploy.contract import BackboneSpec, VariantSpec
from qdbev_deploy.model import BEVFormer, build_model
from qdbev_deploy.quant import Recipe, load_recipe, quantise
from qdbev_deploy.quant.quantise import observing, set_scales
from qdbev_deploy.reference import session_of
from tests.drive import frames
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


@cache
def student(spec: VariantSpec, recipe_name: str = "w4a6") -> tuple[BEVFormer, Recipe]:
    """The same model quantised by a shipped recipe, its scales from a few frames."""
    recipe = load_recipe(recipe_name)
    model = build_model(spec)
    model.load_state_dict(float_model(spec).state_dict())
    model = quantise(model, recipe).eval()
    with observing(model) as histograms:
        session = model.session(all_layers=True)
        for frame in frames(spec, count=3):
            session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
    set_scales(model, histograms, "percentile")
    return model, recipe


def feed(session: onnxruntime.InferenceSession, seed: int = 0) -> dict[str, np.ndarray]:
    """One frame for whatever the session asks."""
    frame = next(frames(PLAIN))
    rng = np.random.default_rng(seed)
    values = {
        "image": frame.image,
        "prev_bev": rng.standard_normal((PLAIN.bev_cells, 1, PLAIN.embed_dim)),
        "use_prev_bev": np.ones(1),
        "can_bus": rng.standard_normal(18) * 0.1,
        "lidar2img": frame.lidar2img,
    }
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    return {
        item.name: np.ascontiguousarray(values[item.name], dtypes[item.type]).reshape(item.shape)
        for item in session.get_inputs()
    }


def at_every_level(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[list[np.ndarray]]:
    """What ONNX Runtime computes with each level of graph optimisation, its fusion of Q/DQ left out."""
    results = []
    for name in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
        level = getattr(onnxruntime.GraphOptimizationLevel, name)
        results.append(session_of(model, settings={"graph_optimization_level": level}).run(None, inputs))
    return results


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
