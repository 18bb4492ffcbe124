"""Nodes of our own domain, held against the contract: op, inputs, attributes, shapes."""

from __future__ import annotations

import math

from onnx import AttributeProto, NodeProto

from qdbev_deploy.contract import OPS, OpSchema
from qdbev_deploy.graph.index import Graph

_KINDS = {
    "int": AttributeProto.INT,
    "ints": AttributeProto.INTS,
    "float": AttributeProto.FLOAT,
    "floats": AttributeProto.FLOATS,
}


def contract_broken(graph: Graph, node: NodeProto) -> list[str]:
    """What of a node is not as `contract.OPS` has it, in words; nothing where all is."""
    schema = OPS.get(node.op_type)
    if schema is None:
        return [f"{node.op_type} is no op of the domain '{node.domain}', which has {', '.join(OPS)}"]
    broken = _attributes_broken(schema, node)
    if len(node.input) != len(schema.inputs) or not all(node.input) or len(node.output) != 1:
        counts = f"{sum(map(bool, node.input))} inputs and {len(node.output)} outputs"
        return [*broken, f"{counts}: {schema.name} takes {', '.join(schema.inputs)} and makes one"]
    return broken + _shapes_broken(schema, graph, node)


def _attributes_broken(schema: OpSchema, node: NodeProto) -> list[str]:
    known, held = {**schema.attributes, **schema.engine_attributes}, {item.name: item.type for item in node.attribute}
    missing = [name for name in schema.attributes if name not in held]
    strange = [name for name in held if name not in known]
    other = [name for name, kind in known.items() if name in held and held[name] != _KINDS[kind]]
    return [
        *([f"attributes that are not there: {', '.join(missing)}"] if missing else []),
        *([f"attributes that {schema.name} does not have: {', '.join(strange)}"] if strange else []),
        *(f"the attribute {name} is not of the kind '{known[name]}'" for name in other),
    ]


def _shapes_broken(schema: OpSchema, graph: Graph, node: NodeProto) -> list[str]:
    """Shapes that do not fit the schema's symbols; one that is not known fits."""
    rows = [*zip(node.input, schema.inputs.items(), strict=True), (node.output[0], ("the output", schema.output))]
    shapes = [(name, symbols, shape) for tensor, (name, symbols) in rows if (shape := graph.shape(tensor)) is not None]
    for name, symbols, shape in shapes:
        if len(shape) != len(symbols):
            return [f"{name} has {len(shape)} axes, not {len(symbols)}"]
    sizes: dict[str, int] = {}
    for _, symbols, shape in shapes:
        for symbol, size in zip(symbols, shape, strict=True):
            if isinstance(symbol, str) and "*" not in symbol:
                sizes.setdefault(symbol, size)
    broken = []
    for name, symbols, shape in shapes:
        for symbol, size in zip(symbols, shape, strict=True):
            factors = str(symbol).split("*")
            if not all(factor.isdigit() or factor in sizes for factor in factors):
                continue
            needed = math.prod(int(factor) if factor.isdigit() else sizes[factor] for factor in factors)
            if size != needed:
                said = f"{symbol} = {needed}" if isinstance(symbol, str) else str(needed)
                broken.append(f"{name} has the shape {list(shape)}, where {size} should be {said}")
    return broken
