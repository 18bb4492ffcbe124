"""What must hold of a bundle's files before anything in it is loaded; nothing here executes any of them."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qdbev_deploy.contract import CONTRACT_VERSION, IMAGE_CHOICES, IO_CHOICES, VariantSpec
from qdbev_deploy.engine.backends import BACKENDS
from qdbev_deploy.engine.documents import (
    CONTRACT,
    GUARD,
    GUARD_SCHEMA,
    LAYERS,
    LAYERS_SCHEMA,
    MANIFEST,
    PARITY,
    PARITY_SCHEMA,
    SCHEMA,
    SCHEMA_FAMILY,
    contract_document,
    emulates,
    layers_from,
    parity_summary,
    precision_summary,
)
from qdbev_deploy.engine.interface import MAX_THREADS, Layer
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.files import sha256_of

_MAX_JSON_BYTES = 256 << 20
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_COPY_AGAIN = "copy the bundle again from where it was built, or build it again"


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like one of our bundles, whole or damaged: it has a manifest that says so."""
    try:
        manifest = read_json(Path(path), MANIFEST)
    except QdbevError:
        return False
    return isinstance(manifest, dict) and str(manifest.get("schema", "")).startswith(SCHEMA_FAMILY)


def refuse(folder: Path, what: str, needed: str, next_step: str = _COPY_AGAIN) -> QdbevError:
    return QdbevError(f"{folder.name}: {what}", needed, next_step)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def read_json(folder: Path, name: str) -> Any:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        what = "is a link" if path.is_symlink() else "is not there"
        raise refuse(folder, f"{name} {what}", f"a bundle with its own {name}")
    size = path.stat().st_size
    if size > _MAX_JSON_BYTES:
        raise refuse(folder, f"{name} has {size:,} bytes", f"at most {_MAX_JSON_BYTES:,}")
    try:
        return json.loads(path.read_bytes().decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refuse(folder, f"{name} is no JSON ({error})", "a whole JSON document") from error


_MANIFEST_FIELDS: dict[str, type | tuple[type, ...]] = {
    "tool": str, "created": str, "backend": str, "engine_file": str, "extra_files": list, "files": dict,
    "versions": dict, "gpu": (dict, type(None)), "build": dict, "precision": dict, "parity": dict, "provenance": dict,
}  # fmt: skip


def require_schema(folder: Path, manifest: Any) -> None:
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        newer = isinstance(schema, str) and schema.startswith(SCHEMA_FAMILY)
        raise refuse(
            folder,
            f"{MANIFEST} is of schema {schema!r}",
            f"schema '{SCHEMA}', which this qdbev-deploy reads",
            "install the qdbev-deploy that built it, or build it again" if newer else _COPY_AGAIN,
        )
    for name, kind in _MANIFEST_FIELDS.items():
        if name not in manifest or not isinstance(manifest[name], kind):
            raise refuse(folder, f"{MANIFEST} has no usable field '{name}'", "a manifest as build writes it")
    for field, value, holds in _within(manifest):
        if not holds(value):
            raise refuse(folder, f"{MANIFEST} has no usable field '{field}'", "a manifest as build writes it")
    if manifest["backend"] not in BACKENDS:
        raise refuse(folder, f"an engine for the backend {manifest['backend']!r}", "one of " + ", ".join(BACKENDS))


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal would obey


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _CONTROL.search(value)


def _is_build_command(value: Any) -> bool:
    """A command of ours, quoted as build quotes it, as it is printed for people to paste."""
    if not _is_text(value) or "\n" in value:
        return False
    try:
        words = shlex.split(value)
    except ValueError:
        return False
    return words[:2] == ["qdbev-deploy", "build"] and shlex.join(words) == value


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_capability(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(part) is int and 0 <= part < 100 for part in value)


def _is_thread_count(value: Any) -> bool:
    return value is None or (type(value) is int and 1 <= value <= MAX_THREADS)


# Of the options of a build those that decide how its engine is opened and judged.
_OPTIONS: dict[str, Callable[[Any], bool]] = {
    "precision": lambda value: value in ("int8", "fp16", "fp32"),
    "threads": _is_thread_count,
    "fused": _is_flag,
    "version_compatible": _is_flag,
    "hardware_compatible": _is_flag,
}


def _within(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any, Callable[[Any], bool]]]:
    """(field, value, what must hold of it) of what lies deeper; asked one by one, as each presumes those before."""
    build = manifest["build"]
    for name in ("options", "opens_with"):
        yield f"build.{name}", build.get(name), lambda value: isinstance(value, dict)
    yield "build.opens_with", build["opens_with"], lambda value: not set(value) & set(build["options"])
    for name, holds in _OPTIONS.items():
        if name in build["options"]:
            yield f"build.options.{name}", build["options"][name], holds
    if "provider" in build["opens_with"]:
        yield "build.opens_with.provider", build["opens_with"]["provider"], _is_text
    yield "build.command", build.get("command", "qdbev-deploy build"), _is_build_command
    yield "build.notes", build.get("notes", []), _is_text_list
    yield "machine", manifest.get("machine", ""), _is_text
    yield "extra_files", manifest["extra_files"], _is_text_list
    yield "versions", list(manifest["versions"].values()), _is_text_list
    if manifest["gpu"] is not None:
        yield "gpu.compute_capability", manifest["gpu"].get("compute_capability"), _is_capability
        yield "gpu.name", manifest["gpu"].get("name", ""), _is_text


def require_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Every file that the manifest lists is a plain file of the folder, and as it was."""
    listed = manifest["files"]
    for name, entry in listed.items():
        if not _PLAIN_NAME.fullmatch(name) or name == MANIFEST:
            raise refuse(folder, f"{MANIFEST} lists the file {name!r}", "names of files in the bundle's own folder")
        if not isinstance(entry, dict) or not isinstance(entry.get("bytes"), int) \
                or not isinstance(entry.get("sha256"), str):  # fmt: skip
            raise refuse(folder, f"{MANIFEST} does not say size and sha256 of {name}", "both, for every file")
        path = folder / name
        if path.is_symlink():
            raise refuse(folder, f"{name} is a link", "a file in the bundle's own folder")
        if not path.is_file():
            raise refuse(folder, f"{name} is not there", "every file that the manifest lists")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise refuse(folder, f"{name} has {size:,} bytes", f"the {entry['bytes']:,} that were built")
        if sha256_of(path) != entry["sha256"]:
            raise refuse(folder, f"{name} was changed: its sha256 is another", f"sha256 {entry['sha256']}")
    for name in (CONTRACT, LAYERS, GUARD, manifest["engine_file"], *manifest["extra_files"]):
        if name not in listed:
            raise refuse(folder, f"{MANIFEST} does not list {name!r} among its files", "every file that is loaded")
    for name in (manifest["engine_file"], *manifest["extra_files"]):
        if name.endswith(".json"):
            raise refuse(folder, f"{MANIFEST} says that the engine loads {name}", "an engine, which is no JSON")


def require_contract(folder: Path, contract: Any) -> None:
    """The contract is one that this release speaks, and says of inputs and outputs what its own sizes imply."""
    if not isinstance(contract, dict) or contract.get("contract_version") != CONTRACT_VERSION:
        version = contract.get("contract_version") if isinstance(contract, dict) else None
        raise refuse(folder, f"{CONTRACT} is of version {version!r}", f"version {CONTRACT_VERSION}",
                      "install the qdbev-deploy that built it, or build it again")  # fmt: skip
    io, image = contract.get("io"), contract.get("image")
    if io not in IO_CHOICES or image not in IMAGE_CHOICES:
        raise refuse(folder, f"{CONTRACT} says io {io!r} and image {image!r}",
                      f"io one of {', '.join(IO_CHOICES)}; image one of {', '.join(IMAGE_CHOICES)}")  # fmt: skip
    expected = contract_document(VariantSpec.from_dict(contract.get("spec")), io, image)
    for name, value in json.loads(json.dumps(expected)).items():
        if contract.get(name) != value:
            raise refuse(folder, f"{CONTRACT} says of '{name}' what does not follow from its sizes",
                          "a contract as build writes it")  # fmt: skip


def require_reports(folder: Path, manifest: Mapping[str, Any]) -> None:
    """What the manifest says of precision and parity is what its reports say, and both of them passed."""
    guard = _report(folder, GUARD, GUARD_SCHEMA)
    options = manifest["build"]["options"]
    nodes = guard.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise refuse(folder, f"{GUARD} has no list of nodes", "a report as build writes it")
    fell_back = [node.get("node") for node in nodes if not _may_run_so(node)]
    if guard.get("passed") is not True or fell_back:
        raise refuse(folder, f"{GUARD} says that the precision guard did not pass", "a bundle whose guard passed")
    wanted = precision_summary(guard, options.get("precision", ""), emulated=emulates(manifest["backend"], options))
    _agree(folder, "precision", manifest["precision"], wanted, GUARD)
    if PARITY not in manifest["files"]:
        if manifest["parity"].get("passed", "") is not None or not _is_text_list(manifest["parity"].get("not_proved")):
            raise refuse(folder, f"{MANIFEST} speaks of a parity, and there is no {PARITY}",
                         "the report, or a manifest that says what is not proved")  # fmt: skip
        return
    parity = _report(folder, PARITY, PARITY_SCHEMA)
    if parity.get("passed") is not True or parity.get("failures") != []:
        raise refuse(folder, f"{PARITY} says that parity did not pass", "a bundle whose parity passed")
    try:
        told = parity_summary(parity)
    except (KeyError, TypeError) as error:
        raise refuse(folder, f"{PARITY} is not whole ({error})", "a report as build writes it") from error
    _agree(folder, "parity", manifest["parity"], told, PARITY)


def _report(folder: Path, name: str, schema: str) -> dict[str, Any]:
    document = read_json(folder, name)
    if not isinstance(document, dict) or document.get("schema") != schema:
        raise refuse(folder, f"{name} is not of schema '{schema}'", "a report as build writes it")
    return document


def _may_run_so(node: Mapping[str, Any]) -> bool:
    return node.get("ran") in ("int8", "folded") or bool(node.get("allowed"))


def _agree(folder: Path, part: str, said: Mapping[str, Any], wanted: Mapping[str, Any], report: str) -> None:
    for name in sorted(set(said) | set(wanted)):
        if name not in said or name not in wanted or said[name] != wanted[name]:
            raise refuse(folder, f"{MANIFEST} says of '{part}.{name}' what {report} does not", "one story in both")


def layers_of(folder: Path, document: Any) -> tuple[Layer, ...]:
    """The layers that a verified layers.json lists."""
    if not isinstance(document, dict) or document.get("schema") != LAYERS_SCHEMA:
        raise refuse(folder, f"{LAYERS} is not of schema '{LAYERS_SCHEMA}'", "layers as build writes them")
    try:
        return layers_from(document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise refuse(folder, f"{LAYERS} holds a layer that is none ({error})", "layers as build writes them") from error
