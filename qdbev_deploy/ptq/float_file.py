"""A float ONNX file of the streaming contract, and the road from it to its quantised copy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from qdbev_deploy import __version__
from qdbev_deploy.calibration.histogram import Histogram, Method
from qdbev_deploy.calibration.recipe import Recipe, Rule, resolve
from qdbev_deploy.contract import (
    IMAGE_CHOICES,
    IO_CHOICES,
    TensorSpec,
    VariantSpec,
    stream_inputs,
    stream_outputs,
    variant,
)
from qdbev_deploy.data.nuscenes import Frame
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.files import content_sha256_of, read_onnx
from qdbev_deploy.graph.index import Graph, all_nodes, standard_opset, with_shapes
from qdbev_deploy.ptq.insertion import activation_grid, insert
from qdbev_deploy.ptq.observe import observe, passes
from qdbev_deploy.ptq.placement import Activation, Placement, find_placement

METADATA_PREFIX = "qdbev."
SMALLEST_OPSET = 13  # DequantizeLinear along an axis
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
              "DynamicQuantizeLinear")  # fmt: skip


@dataclass(frozen=True)
class FloatFile:
    """What a recipe quantises of a file: weights, and activations by groups that are observed together."""

    model: onnx.ModelProto
    spec: VariantSpec
    inputs: tuple[TensorSpec, ...]
    sha256: str
    recipe: Recipe
    placement: Placement
    weight_rules: dict[str, Rule]
    activation_rules: dict[str, Rule]
    groups: list[list[Activation]]

    @classmethod
    def open(cls, path: str | os.PathLike[str], recipe: Recipe, variant_name: str | None = None) -> FloatFile:
        """Read a file and hold the recipe against it. `variant_name` None: the file says which it is."""
        path = Path(path)
        model = read_onnx(path)
        _require_float(model, path)
        spec = _spec_of(model, path, variant_name)
        inputs = _inputs_of(model, spec, path)
        model = with_shapes(model)
        placement = find_placement(model)
        if not placement.weights:
            raise QdbevError(
                f"{path} has no convolution or product with a stored float32 weight",
                "a float32 export of a network",
                "export the checkpoint with: qdbev-deploy export --checkpoint FILE -o float.onnx",
            )
        weight_rules = resolve(
            recipe.weights, sorted({weight.name for weight in placement.weights}), placement.must_stay_float, recipe,
            "weights",
        )  # fmt: skip
        names = [activation.name for activation in placement.activations]
        activation_rules = resolve(recipe.activations, names, [], recipe, "activations")
        chosen = [activation for activation in placement.activations if activation.name in activation_rules]
        return cls(
            model, spec, inputs, content_sha256_of(path), recipe, placement, weight_rules, activation_rules,
            passes(model, chosen),
        )  # fmt: skip

    def observe(
        self, rollouts: Sequence[Sequence[Frame]], on_frame: Callable[[], object] = lambda: None
    ) -> dict[str, Histogram]:
        """Drive the sequences, once a group, and count the activations."""
        return observe(self.model, self.inputs, self.spec, self.groups, rollouts, on_frame)

    def scales(self, histograms: Mapping[str, Histogram], method: Method, percentile: float) -> dict[str, float]:
        """The scale of each activation by the method."""
        return {
            activation.name: histograms[activation.name].scale(
                method, activation_grid(activation, self.activation_rules[activation.name]), percentile
            )
            for activation in self._chosen()
        }

    def _chosen(self) -> list[Activation]:
        return [activation for group in self.groups for activation in group]

    def names(self) -> list[str]:
        """The activations that want a scale."""
        return [activation.name for activation in self._chosen()]

    def weights(self) -> list[str]:
        """The weights that become integers."""
        return [weight.name for weight in self.placement.weights if weight.name in self.weight_rules]

    @property
    def notes(self) -> list[str]:
        """What a user would miss and may want to know of."""
        count = sum(node.op_type == "DeformConv" for node in self.model.graph.node)
        if not count:
            return []
        return [
            f"DeformConv stays in float ({count}): no runtime takes integers there; exported with --opset 18 it is a "
            "sampling and a product, which can be quantised"
        ]

    def quantised(self, scales: Mapping[str, float], said: Mapping[str, Any]) -> onnx.ModelProto:
        """The file with Q/DQ; `said` joins its metadata. This file is spent: its graph becomes the result's."""
        bits = insert(self.model, self.placement, self.weight_rules, self.activation_rules, scales)
        entries = {entry.key: entry.value for entry in self.model.metadata_props}
        own = {
            "tool": f"qdbev-deploy {__version__}",
            "variant": self.spec.to_dict(),
            "bits": bits,
            "recipe": self.recipe.to_dict(),
            "float_sha256": self.sha256,
            **said,
        }
        entries |= {
            METADATA_PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in own.items()
        }
        helper.set_model_props(self.model, entries)
        onnx.checker.check_model(self.model, full_check=True)
        return self.model


def _require_float(model: onnx.ModelProto, path: Path) -> None:
    for node in all_nodes(model.graph.node):
        if node.op_type in _QUANTISED:
            raise QdbevError(
                f"{path} is quantised already: node '{node.name}' is a {node.op_type}",
                "a float file",
                "export the float checkpoint, or build this file as it is",
            )
    if standard_opset(model) < SMALLEST_OPSET:
        raise QdbevError(
            f"{path} has opset {standard_opset(model)}",
            f"opset {SMALLEST_OPSET} or later, which can say one scale a channel",
            "export it again with a newer opset",
        )


def _spec_of(model: onnx.ModelProto, path: Path, variant_name: str | None) -> VariantSpec:
    said = next((entry.value for entry in model.metadata_props if entry.key == f"{METADATA_PREFIX}variant"), None)
    if said is None:
        if variant_name is None:
            raise QdbevError(
                f"{path} does not say which variant it is", "a file of qdbev-deploy export, or --variant",
                "pass --variant micro, tiny, small or base",
            )  # fmt: skip
        return variant(variant_name)
    try:
        spec = VariantSpec.from_dict(json.loads(said))
    except ValueError as error:
        raise QdbevError(
            f"{path} has the variant {said[:40]!r} in its metadata", "the JSON that qdbev-deploy export writes",
            "export it again",
        ) from error  # fmt: skip
    if variant_name is not None and spec.name != variant_name:
        raise QdbevError(f"{path} is a '{spec.name}'", f"a '{variant_name}'", f"leave out --variant {variant_name}")
    return spec


def _inputs_of(model: onnx.ModelProto, spec: VariantSpec, path: Path) -> tuple[TensorSpec, ...]:
    """The form of the contract's inputs that the file has."""
    graph = Graph(model)
    stored = graph.initializers  # old files list their weights among their inputs
    found = {
        value.name: (
            str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
            graph.shape(value.name),
        )
        for value in graph.proto.input
        if value.name not in stored
    }
    for io, image in product(IO_CHOICES, IMAGE_CHOICES):
        form = stream_inputs(spec, io, image)
        if found == {item.name: (item.dtype, item.shape) for item in form}:
            _require_outputs(graph, spec, io, path)
            return form
    wanted = {item.name: (item.dtype, item.shape) for item in stream_inputs(spec)}
    name = next((name for name in (*wanted, *found) if wanted.get(name) != found.get(name)), "")
    raise QdbevError(
        f"{path} has {f'an input {name} {found[name]}' if name in found else f'no input {name}'}",
        f"the inputs of a '{spec.name}': " + ", ".join(f"{key} {shape}" for key, (_, shape) in wanted.items()),
        "pass another --variant, or export the checkpoint with: qdbev-deploy export",
    )


def _require_outputs(graph: Graph, spec: VariantSpec, io: str, path: Path) -> None:
    """What the file gives is what the contract says of files with its inputs."""
    outputs = stream_outputs(spec, io)
    for item in outputs:
        shape = graph.shape(item.name) if item.name in graph.outputs else ()
        if shape not in (None, item.shape):
            raise QdbevError(
                f"{path} has {f'an output {item.name} {shape}' if shape else f'no output {item.name}'}",
                f"the outputs of a '{spec.name}', io {io}: "
                + ", ".join(f"{item.name} {item.shape}" for item in outputs),
                "export the checkpoint with this release's qdbev-deploy export",
            )
