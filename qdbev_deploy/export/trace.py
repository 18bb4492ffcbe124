"""torch's exporter, run with our nodes; and a file cleaned of what only the exporter's authors need."""

from __future__ import annotations

import ast
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from onnx import NodeProto

from qdbev_deploy.export.carriers import DEFERRED_DOMAIN, TAP_ATTRIBUTE
from qdbev_deploy.export.options import ExportOptions
from qdbev_deploy.export.streaming_graph import DTYPES, StreamingGraph, graph_inputs, graph_outputs
from qdbev_deploy.ops.emission import emit_nodes

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_INITIALIZER_SCOPES = re.compile(r"\.parametrizations\.(\w+)\.0\.")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own insides; what a user can act on, it raises."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def trace(
    graph: StreamingGraph, options: ExportOptions, opset: int, *, sample_columns: bool
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """(the exported model, tensor of integers of each activation quantiser).

    Names of the contract, static shapes, nodes named after the modules they come from.

    `sample_columns` writes a deformable convolution as the sampling op and a plain convolution.
    """
    inputs, outputs = graph_inputs(graph.spec, options), graph_outputs(graph.spec, options)
    arguments = tuple(torch.zeros(item.shape, dtype=DTYPES[item.dtype]) for item in inputs)
    with _quiet(), torch.no_grad(), emit_nodes(sample_columns=sample_columns):
        program = torch.onnx.export(
            graph,
            arguments,
            dynamo=True,
            opset_version=opset,
            input_names=[item.name for item in inputs],
            output_names=[item.name for item in outputs],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    taps = _settle_deferred(model)
    _rename_nodes(model)
    _rename_initializers(model)
    _forget_origins(model)
    return model, taps


def _settle_deferred(model: onnx.ModelProto) -> dict[str, str]:
    """Nodes that were hidden from the optimiser become the standard ops they are; those that agree become one.

    -> quantiser's name -> the integers' tensor, which several may share.
    """
    taps: dict[str, str] = {}
    merged: dict[str, str] = {}
    first: dict[tuple[str, ...], str] = {}
    kept = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = merged.get(name, name)
        if node.domain == DEFERRED_DOMAIN:
            node.domain = ""
        if node.op_type not in ("Clip", "QuantizeLinear", "DequantizeLinear"):
            kept.append(node)
            continue
        tap = next((item.s.decode() for item in node.attribute if item.name == TAP_ATTRIBUTE), "")
        attributes = [item for item in node.attribute if item.name != TAP_ATTRIBUTE]
        del node.attribute[:]
        node.attribute.extend(attributes)
        key = (node.op_type, *node.input, *(item.SerializeToString().hex() for item in attributes))
        output = first.setdefault(key, node.output[0])
        if tap:
            taps[tap] = output
        if output == node.output[0]:
            kept.append(node)
        else:
            merged[node.output[0]] = output
    kept = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for index in reversed(range(len(model.opset_import))):
        if model.opset_import[index].domain == DEFERRED_DOMAIN:
            del model.opset_import[index]
    return taps


def _module_of(node: NodeProto) -> str:
    """Dotted name of the module whose forward made the node; "" where the optimiser made it."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES_KEY:
            scopes = ast.literal_eval(entry.value)
            module = str(scopes[-2]) if len(scopes) > 1 else ""
            module = module.partition(".parametrizations.")[0]
            return module.removeprefix("model.").removeprefix("model")
    return ""


def _rename_nodes(model: onnx.ModelProto) -> None:
    used: Counter[str] = Counter()
    for node in model.graph.node:
        module = _module_of(node)
        if node.op_type == "Conv":  # where a batch norm was folded in, the exporter names the norm
            owner, found, _ = node.input[1].removeprefix("model.").rpartition(".weight")
            module = owner if found else module
        name = f"{module}/{node.op_type}" if module else node.op_type
        used[name] += 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"


def _rename_initializers(model: onnx.ModelProto) -> None:
    """Initialisers get the names of the checkpoint's keys, quantised ones with what they hold behind."""
    names: dict[str, str] = {}
    for tensor in model.graph.initializer:
        name = _INITIALIZER_SCOPES.sub(r".\1.", tensor.name).removeprefix("model.")
        if name != tensor.name and name not in names.values():
            names[tensor.name] = tensor.name = name
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


def _forget_origins(model: onnx.ModelProto) -> None:
    """Stack traces and paths of the machine that exported say nothing about the model."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    graph.name = "qdbev"
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
