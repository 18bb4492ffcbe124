"""Our ops' functions compute in float32; the plugins take float16 as well. This puts the casts between."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from qdbev_deploy.contract import OP_DOMAIN
from qdbev_deploy.graph.half import FLOAT, HALF
from qdbev_deploy.graph.index import Graph


def with_casts_around_plugins(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for ONNX Runtime: float16 into one of our ops is widened, its output narrowed to what it is said to be."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph, nodes = Graph(model), []
    types = {
        name: graph.element_type(name) for node in model.graph.node for name in (*node.input, *node.output) if name
    }
    for node in model.graph.node:
        if node.domain != OP_DOMAIN:
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            if types[name] == HALF:
                wide = f"{node.name}/wide_{index}"
                nodes.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
                node.input[index] = wide
        nodes.append(node)
        if types[node.output[0]] == HALF:
            narrow = node.output[0]
            node.output[0] = f"{narrow}/wide"
            nodes.append(helper.make_node("Cast", [node.output[0]], [narrow], to=TensorProto.FLOAT16))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    assert FLOAT in types.values()
    return model
