"""The C interface of the runtime's shared library against the C++ one, on a bundle and on one whose runs can fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.engine import Bundle, build
from tests.engine.students import SPEC, Students
from tests.runtime.programs import program, run, saved

VELOCITY = 13  # in can_bus, after translation, rotation, acceleration and rotation rate


def fragile(students: Students, folder: Path) -> Bundle:
    """The students' bundle, looking its speed up in a table that ends at 64 m/s: what is faster breaks the run off."""
    model = onnx.load(students.onnx)
    for node in model.graph.node:
        node.output[:] = ["calm_coords" if name == "outputs_coords" else name for name in node.output]
    constants = {"first_velocity": np.array(VELOCITY), "speeds_known": np.zeros(64, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["can_bus", "first_velocity"], ["speed"]),
            helper.make_node("Cast", ["speed"], ["whole_speed"], to=TensorProto.INT64),
            helper.make_node("Gather", ["speeds_known", "whole_speed"], ["nothing"], name="speeds"),
            helper.make_node("Add", ["calm_coords", "nothing"], ["outputs_coords"]),
        ]
    )
    onnx.save(model, folder / "fragile.onnx")
    return build(folder / "fragile.onnx", folder / "fragile.qdbev", backend="onnxruntime", verify=False)


def test_c_does_what_cpp_does(students: Students, tmp_path: Path) -> None:
    program("c_against_cpp")
    rng = np.random.default_rng(2)
    drive = students.drive[:2]
    native = [
        dataclasses.replace(frame, image=rng.integers(0, 256, (1, 6, *SPEC.preprocess.source_hw, 3), dtype=np.uint8))
        for frame in drive
    ]
    done = run(
        "c_against_cpp",
        students.bundle.path,
        saved(tmp_path / "drive", drive),
        saved(tmp_path / "native", native, native=True),
        fragile(students, tmp_path).path,
        env={"MALLOC_PERTURB_": "165"},  # memory that is given back changes at once
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" checks, 0 failures\n")
