"""From the lowered file to TensorRT's network: all complaints of its parser in one error, geometry in float32."""

from __future__ import annotations

import re
from typing import Any

import onnx

from qdbev_deploy.engine.interface import BuildOptions
from qdbev_deploy.engine.tensorrt.log import Log
from qdbev_deploy.engine.tensorrt.options import is_strongly_typed
from qdbev_deploy.engine.tensorrt.releases import Release
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.half import float_nodes, to_half

_SHOWN_ERRORS = 8
# Layers whose arithmetic may be told its type; casts, shapes and plugins have theirs already.
_TYPED_LAYERS = (
    "ACTIVATION", "CONCATENATION", "CONSTANT", "ELEMENTWISE", "GATHER", "GRID_SAMPLE", "MATRIX_MULTIPLY", "REDUCE",
    "SELECT", "SHUFFLE", "SLICE", "UNARY",
)  # fmt: skip


def typed_model(model: onnx.ModelProto, options: BuildOptions, release: Release) -> onnx.ModelProto:
    """The file that the parser gets: a copy with types of mixed precision where the builder takes them from it."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    if options.precision != "fp32" and is_strongly_typed(release, options):
        to_half(model)
    return model


def make_network(trt: Any, builder: Any, options: BuildOptions, release: Release) -> Any:
    flags = trt.NetworkDefinitionCreationFlag
    bits = 0
    if release.major < 10:
        bits |= 1 << int(flags.EXPLICIT_BATCH)
    if is_strongly_typed(release, options):
        bits |= 1 << int(flags.STRONGLY_TYPED)
    return builder.create_network(bits)


def _node_of(error: Any, model: onnx.ModelProto) -> str:
    """The node that an error is about: by name where the parser tells it, else by its place in the file."""
    if hasattr(error, "node_name") and error.node_name():
        return str(error.node_name())
    index = int(error.node())
    if 0 <= index < len(model.graph.node):
        node = model.graph.node[index]
        return node.name or f"{node.op_type} making '{node.output[0]}'"
    return "(file)"


def parse(trt: Any, network: Any, log: Log, model: onnx.ModelProto) -> Any:
    """Fill the network. Returns the parser, whose weights the network borrows: keep it until the plan is built."""
    parser = trt.OnnxParser(network, log.logger)
    if parser.parse(model.SerializeToString()) and parser.num_errors == 0:
        log.take()
        return parser
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [f"'{_node_of(error, model)}': {str(error.desc()).strip().rstrip('.')}" for error in errors]
    if len(lines) > _SHOWN_ERRORS:
        lines[_SHOWN_ERRORS:] = [f"and {len(lines) - _SHOWN_ERRORS} more"]
    what = f"TensorRT {trt.__version__}'s parser refused the file"
    if not lines:
        raise log.failure(what, "a file that it parses", "qdbev-deploy check names what it does not parse")
    log.take()
    raise QdbevError(
        f"{what}: {'; '.join(lines)}", "a file that it parses", "qdbev-deploy check names what it does not parse"
    )


_METADATA = re.compile(r"\[ONNX Layer: ([^\]|]*?)(?: \|[^\]]*)?\]")


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """Names of the ONNX nodes that a layer's metadata lists."""
    return tuple(dict.fromkeys(name.strip() for name in _METADATA.findall(metadata) if name.strip()))


def constrain_geometry(trt: Any, network: Any, model: onnx.ModelProto) -> int:
    """Where flags choose precisions: what must stay in float32 is told so. Returns how many layers were."""
    kept = float_nodes(model)
    names = {node.name for node in model.graph.node if node.output[0] in kept}
    typed = {getattr(trt.LayerType, name) for name in _TYPED_LAYERS}
    count = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        owners = onnx_nodes(layer.metadata) or (layer.name,)
        outputs = range(layer.num_outputs)
        floating = all(layer.get_output(number).dtype == trt.DataType.FLOAT for number in outputs)
        if layer.type not in typed or not floating or not names.intersection(owners):
            continue
        layer.precision = trt.DataType.FLOAT
        for number in outputs:
            layer.set_output_type(number, trt.DataType.FLOAT)
        count += 1
    return count
