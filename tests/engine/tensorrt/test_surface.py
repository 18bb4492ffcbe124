"""The double has no name that TensorRT lacks, and surface.json says what the installed TensorRT says."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import qdbev_deploy.engine.tensorrt as package
from qdbev_deploy.engine.tensorrt.network import _TYPED_LAYERS
from qdbev_deploy.engine.tensorrt.options import _VERBOSITY
from tests.engine.tensorrt.double import RELEASES, SURFACE, Device, module
from tests.engine.tensorrt.make_surface import installed

SOURCES = sorted(path for path in Path(package.__file__).parent.glob("*.py") if not path.name.startswith("cuda"))


@pytest.mark.parametrize("version", RELEASES)
def test_the_double_has_no_name_that_the_real_one_lacks(version: str) -> None:
    trt = module(version, Device())
    assert len(trt.classes) == 13
    for cls in trt.classes:
        own = {name for name in vars(cls) if not name.startswith("_") and name != "real"}
        assert own <= set(SURFACE[version][cls.real]), cls.real


def test_the_file_is_what_the_installed_tensorrt_says() -> None:
    pytest.importorskip("tensorrt", reason="no TensorRT here to hold surface.json against")
    version, names = installed()
    if version not in SURFACE:
        pytest.skip(f"surface.json has {', '.join(RELEASES)}, and TensorRT {version} is here")
    for cls, found in names.items():
        assert set(SURFACE[version][cls]) <= set(found), cls


@pytest.mark.parametrize("version", RELEASES)
def test_every_enum_member_that_the_code_names_is_there(version: str) -> None:
    """`trt.Enum.MEMBER` in the sources: a member that a release lacks must be one that only others are asked for."""
    absent = {
        "8.6.0": {"NetworkDefinitionCreationFlag.STRONGLY_TYPED", "EngineStat.TOTAL_WEIGHTS_SIZE"},
        "10.3.0": {"EngineStat.TOTAL_WEIGHTS_SIZE"},
        "11.1.0": {"NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "BuilderFlag.FP16", "BuilderFlag.INT8",
                   "BuilderFlag.OBEY_PRECISION_CONSTRAINTS"},
    }  # fmt: skip
    surface, missing, found = SURFACE[version], set(), 0
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alias = {"flags": "BuilderFlag" if path.name == "options.py" else "NetworkDefinitionCreationFlag"}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not node.attr.isupper():
                continue
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else alias.get(getattr(owner, "id", ""))
            if name in {*surface, "EngineStat"}:
                found += 1
                if node.attr not in surface.get(name, ()):
                    missing.add(f"{name}.{node.attr}")
    assert found > 15
    assert missing == absent[version]
    assert set(_TYPED_LAYERS) <= set(surface["LayerType"])
    assert set(_VERBOSITY.values()) <= set(surface["ProfilingVerbosity"])


def test_the_file_is_json_that_a_reader_can_follow() -> None:
    text = Path(__file__).with_name("surface.json").read_text(encoding="utf-8")
    assert json.loads(text) == SURFACE
    assert len(text.splitlines()) < 100
