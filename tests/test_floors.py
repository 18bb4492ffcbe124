"""The floors of the house: a room imports only rooms below it, and the target's rooms never need torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "qdbev_deploy"

# Each room with the rooms of the package that it may import; docs/architecture.md draws the same.
BASE = {"errors", "contract", "files", "boxes", "streaming", "machine", "plugins"}
MAY_IMPORT = {
    "errors": set(),
    "contract": {"errors"},
    "files": {"errors"},
    "boxes": {"errors", "contract"},
    "streaming": {"errors", "contract"},
    "agreement": {"contract", "boxes"},
    "plugins": {"errors", "contract"},
    "machine": {"errors", "plugins"},
    "plugin_build": {"errors", "files", "machine", "plugins"},
    "reference": {"errors", "contract", "streaming"},
    "data": BASE,
    "ops": BASE,
    "model": BASE | {"ops"},
    "calibration": BASE | {"data"},
    "quant": BASE | {"ops", "model", "calibration"},
    "train": BASE | {"ops", "model", "quant", "data", "calibration"},
    "graph": BASE,
    "check": BASE | {"graph"},
    "ptq": BASE | {"graph", "data", "calibration", "reference"},
    "export": BASE | {"agreement", "graph", "ops", "model", "quant", "data", "reference", "evaluate", "calibration"},
    "engine": BASE | {"agreement", "graph", "check", "data", "reference"},
    "evaluate": BASE | {"data", "engine"},
    "bench": BASE | {"graph", "data", "engine"},
    "report": BASE | {"graph", "engine", "bench"},
    "package": BASE | {"graph", "engine"},
    "__main__": {"cli"},
}
NEEDS_TORCH = {"ops", "model", "quant", "train", "export"}


def imports(path: Path, *, top_level_only: bool) -> set[str]:
    """Modules that a file imports. `top_level_only` leaves out what functions import when they are called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) not in ("__init__", "cli")]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room = room_of(path)
    assert room in MAY_IMPORT, f"say in MAY_IMPORT, and in docs/architecture.md, where '{room}' stands"
    own = {name.split(".")[1] for name in imports(path, top_level_only=True) if name.startswith("qdbev_deploy.")}
    assert own - {room} <= MAY_IMPORT[room]
    if room not in NEEDS_TORCH:
        assert not any(name.split(".")[0] == "torch" for name in imports(path, top_level_only=False))


def test_the_page_draws_the_same_house() -> None:
    """The table of docs/architecture.md, from the top floor down: imports go down it, and it marks who needs torch."""
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (T|top|ground)? ?\| ((?:`[a-z_]+(?:/|\.py)`(?:, )?)+) \|", text, re.MULTILINE)
    order = [name for _, cell in rows for name in re.findall(r"`([a-z_]+)", cell)]
    assert sorted(order) == sorted([*MAY_IMPORT, "cli"])
    for room, below in MAY_IMPORT.items():
        above = order[: order.index(room)]
        assert not below & set(above) & real_imports(room), room
    marked = {name for mark, cell in rows if mark == "T" for name in re.findall(r"`([a-z_]+)", cell)}
    assert marked == NEEDS_TORCH


def real_imports(room: str) -> set[str]:
    """Rooms that the files of a room import when they are imported."""
    return {
        name.split(".")[1]
        for path in FILES
        if room_of(path) == room
        for name in imports(path, top_level_only=True)
        if name.startswith("qdbev_deploy.")
    }


def test_the_targets_rooms_import_without_torch() -> None:
    modules = [
        ".".join(("qdbev_deploy", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(PACKAGE.rglob("*.py"))
        if room_of(path) not in NEEDS_TORCH and path.name != "__main__.py"
    ]
    code = (
        "import sys, importlib\n"
        "sys.modules['torch'] = None\n"  # importing it raises
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
