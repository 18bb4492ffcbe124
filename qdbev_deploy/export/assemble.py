"""From what torch's exporter wrote to the file we ship: passes, functions, metadata, checks."""

from __future__ import annotations

import json
from typing import Any

import onnx
from onnx import helper

from qdbev_deploy import __version__
from qdbev_deploy.contract import CAMERAS, CONTRACT_VERSION, METADATA_PREFIX, OP_DOMAIN, OP_VERSION
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.export.options import ExportOptions
from qdbev_deploy.export.streaming_graph import StreamingGraph, graph_inputs, graph_outputs
from qdbev_deploy.export.trace import trace
from qdbev_deploy.graph.constants import name_constants, share_broadcasts
from qdbev_deploy.graph.index import Graph, attributes, standard_opset
from qdbev_deploy.graph.opset import to_opset17
from qdbev_deploy.graph.quantised import feed_values_as_integers, fold_weight_views, pack_int4
from qdbev_deploy.ops.functions import op_function

IR_VERSION = 10


def assemble(
    graph: StreamingGraph, options: ExportOptions, opset: int, metadata: dict[str, Any], *, sample_columns: bool
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """(the finished model, checked in full, tensor of integers of each activation quantiser)."""
    model, taps = trace(graph, options, max(opset, 18), sample_columns=sample_columns)
    fold_weight_views(model)
    feed_values_as_integers(model)
    share_broadcasts(model)
    name_constants(model)
    if options.carrier == "int4":
        pack_int4(model)
    if opset == 17:
        to_opset17(model)
    attach_functions(model)
    _describe(model, {**metadata, **options.to_dict(), "opset": opset})
    _require_contract(model, graph, options)
    onnx.checker.check_model(model, full_check=True)
    return model, taps


def attach_functions(model: onnx.ModelProto) -> None:
    """One function for each BEV op that the graph uses, so that any runtime runs the file."""
    del model.functions[:]
    levels: dict[str, int] = {}
    for node in Graph(model).bev_nodes():
        count = len(attributes(node).get("spatial_shapes", (0, 0))) // 2
        if levels.setdefault(node.op_type, count) != count:
            raise QdbevError(
                f"{node.op_type} nodes with {levels[node.op_type]} and with {count} feature levels in one graph",
                "the same number of levels in all of them, as one function serves them",
                "export the model in two files",
            )
    model.functions.extend(
        op_function(name, standard_opset(model), levels=count, cameras=len(CAMERAS)) for name, count in levels.items()
    )
    if levels and not any(entry.domain == OP_DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(OP_DOMAIN, OP_VERSION))


def _describe(model: onnx.ModelProto, metadata: dict[str, Any]) -> None:
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "qdbev-deploy", __version__
    entries = {"contract_version": CONTRACT_VERSION, "tool": f"qdbev-deploy {__version__}", **metadata}
    helper.set_model_props(
        model,
        {
            METADATA_PREFIX + key: value if isinstance(value, str) else json.dumps(value)
            for key, value in entries.items()
        },
    )


def _require_contract(model: onnx.ModelProto, graph: StreamingGraph, options: ExportOptions) -> None:
    """Names, order, shapes and types of inputs and outputs are the contract's, or nothing is written."""
    names = [node.name for node in model.graph.node]
    if len(set(names)) != len(names):
        raise AssertionError("two nodes of one name")  # ours to mend, not the user's; ONNX Runtime would refuse it
    expected = (*graph_inputs(graph.spec, options), *graph_outputs(graph.spec, options))
    found = (*model.graph.input, *model.graph.output)
    for spec, value in zip(expected, found, strict=True):
        type_ = value.type.tensor_type
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in type_.shape.dim)
        dtype = str(helper.tensor_dtype_to_np_dtype(type_.elem_type))
        if (value.name, dtype, shape) != (spec.name, spec.dtype, spec.shape):
            raise QdbevError(
                f"the exported graph has '{value.name}' {dtype} {shape}",
                f"'{spec.name}' {spec.dtype} {spec.shape}",
                "use the torch version of constraints.txt: this one's exporter wrote another graph",
                exit_code=ExitCode.GUARD,
            )
