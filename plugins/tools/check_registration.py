#!/usr/bin/env python3
"""Loads a built plugin library into a real TensorRT and creates each op; with 8.x also through its plan's bytes.

    python plugins/tools/check_registration.py libqdbev_plugins.so

Needs the `tensorrt` Python package of the major version that the library was built against; a GPU is not needed.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorrt as trt

INTS, FLOATS = trt.PluginFieldType.INT32, trt.PluginFieldType.FLOAT32
FIELDS = {
    "MSDeformAttn": {"spatial_shapes": [50, 50], "value_scale": [0.1]},
    "TemporalSelfAttn": {"bev_h": [50], "bev_w": [50]},
    "SpatialCrossAttn": {
        "spatial_shapes": [15, 25], "bev_h": [50], "bev_w": [50], "pc_range": [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0],
        "z_anchors": [-4.5, -2.0, 0.5, 2.5], "image_h": [480], "image_w": [800], "value_scale": [0.1],
    },
    "ModulatedDeformSample": {"kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]},
}  # fmt: skip


def collection(fields: dict[str, list]) -> tuple[trt.PluginFieldCollection, list[np.ndarray]]:
    """The fields, and the arrays that must outlive them."""
    arrays = {
        name: np.array(values, dtype=np.float32 if isinstance(values[0], float) else np.int32)
        for name, values in fields.items()
    }
    made = [trt.PluginField(n, a, FLOATS if a.dtype == np.float32 else INTS) for n, a in arrays.items()]
    return trt.PluginFieldCollection(made), list(arrays.values())


def check_v2(registry: trt.IPluginRegistry, op: str) -> str:
    creator = registry.get_plugin_creator(op, "1", "")
    assert creator is not None, f"{op} is not registered"
    fields, _alive = collection(FIELDS[op])
    plugin = creator.create_plugin(op, fields)
    assert plugin is not None, f"{op} was not created"
    plan = bytes(plugin.serialize())
    reloaded = creator.deserialize_plugin(op, plan)
    assert reloaded is not None, f"{op} did not come back from its plan"
    assert bytes(reloaded.serialize()) == plan, f"{op} came back from its plan as another"
    assert creator.deserialize_plugin(op, plan[:-3]) is None, f"{op} accepted a truncated plan"
    unknown, _alive_too = collection({"nonsense": [1]})
    assert creator.create_plugin(op, unknown) is None, f"{op} accepted an unknown field"
    return "is created, comes back from its plan, and refuses a truncated plan and an unknown field"


def check_v3(registry: trt.IPluginRegistry, op: str) -> str:
    """Creation only: a plan of this interface needs an engine. plugins/tests takes it through one on the double."""
    creator = registry.get_creator(op, "1", "")
    assert creator is not None, f"{op} is not registered"
    fields, _alive = collection(FIELDS[op])
    plugin = creator.create_plugin(op, fields, trt.TensorRTPhase.BUILD)
    assert plugin is not None, f"{op} was not created"
    return "is created"


def main() -> int:
    registry = trt.get_plugin_registry()
    if registry.load_library(sys.argv[1]) is None:
        raise SystemExit(f"TensorRT {trt.__version__} did not load {sys.argv[1]}")
    for op in FIELDS:
        done = (check_v2 if int(trt.__version__.split(".")[0]) < 10 else check_v3)(registry, op)
        print(f"TensorRT {trt.__version__}: {op} is registered and {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
