#!/usr/bin/env python3
"""Writes surface.json: which names TensorRT's Python classes have in each release, so that the double has no others.

python make_surface.py                         # adds the installed tensorrt, as its classes say
python make_surface.py 10.3.0 BINDINGS_DIR     # adds a release from the sources of its bindings (python/src)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

FILE = Path(__file__).with_name("surface.json")
CLASSES = (
    "Builder", "IBuilderConfig", "INetworkDefinition", "ILayer", "ITensor", "OnnxParser", "ParserError", "Runtime",
    "ICudaEngine", "IExecutionContext", "EngineInspector", "IPluginRegistry", "ITimingCache", "IProfiler", "ILogger",
    "IProgressMonitor",
)  # fmt: skip
ENUMS = (
    "BuilderFlag", "NetworkDefinitionCreationFlag", "TacticSource", "ProfilingVerbosity", "MemoryPoolType",
    "DeviceType", "HardwareCompatibilityLevel", "TensorIOMode", "DataType", "LayerInformationFormat", "LayerType",
    "EngineStat",
)  # fmt: skip


def installed() -> tuple[str, dict[str, list[str]]]:
    import tensorrt as trt

    names = {
        name: sorted(item for item in dir(getattr(trt, name)) if not item.startswith("_"))
        for name in CLASSES
        if hasattr(trt, name)
    }
    names |= {name: sorted(getattr(trt, name).__members__) for name in ENUMS if hasattr(trt, name)}
    return str(trt.__version__), names


def of_sources(folder: Path) -> dict[str, list[str]]:
    """Names by the definitions that follow each class or enum; a variable that names a class stands for it."""
    names: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.cpp")):
        text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
        pattern = r"""(?x) py::(?:class_|enum_)<[^;{]*?>\s*(?:\w+)?\s*[({]\s*m\s*,\s*"(?P<open>\w+)"
                    | \bpy::enum_<[^>]*>\s*\(\s*\w+\s*,\s*"(?P<inner>\w+)"
                    | (?<!\w)(?P<variable>\w+Binding)\.def
                    | (?<!\bm)\.(?:def(?:_\w+)?|value)\(\s*"(?P<name>\w+)" """
        current = ""
        for match in re.finditer(pattern, text):
            if match["open"] or match["inner"]:
                current = match["open"] or match["inner"]
            elif match["variable"] == "baseLoggerBinding":
                current = "ILogger"
            elif match["name"] and not match["name"].startswith("_"):
                names.setdefault(current, set()).add(match["name"])
    return {name: sorted(names[name]) for name in (*CLASSES, *ENUMS) if name in names}


def main(arguments: list[str]) -> None:
    surface = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    version, names = (arguments[0], of_sources(Path(arguments[1]))) if len(arguments) == 2 else installed()
    surface[version] = names
    ordered = dict(sorted(surface.items(), key=lambda item: [int(part) for part in item[0].split(".")]))
    lines = ",\n".join(
        f' "{release}": {{\n'
        + ",\n".join(f'  "{name}": {json.dumps(items)}' for name, items in classes.items())
        + "\n }"
        for release, classes in ordered.items()
    )
    FILE.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
