"""What must hold of a bundle's files before anything in it is loaded; nothing here executes any of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdbev_deploy.contract import CONTRACT_VERSION, IMAGE_CHOICES, IO_CHOICES, VariantSpec
from qdbev_deploy.engine.backends import BACKENDS
from qdbev_deploy.engine.documents import (
    CONTRACT,
    LAYERS,
    LAYERS_SCHEMA,
    MANIFEST,
    SCHEMA,
    SCHEMA_FAMILY,
    contract_document,
    layers_from,
)
from qdbev_deploy.engine.interface import Layer
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
        if not isinstance(manifest.get(name), kind):
            raise refuse(folder, f"{MANIFEST} has no usable field '{name}'", "a manifest as build writes it")
    for part, name, kind in (("build", "options", dict), ("build", "opens_with", dict)):
        if not isinstance(manifest[part].get(name), kind):
            raise refuse(folder, f"{MANIFEST} has no usable field '{part}.{name}'", "a manifest as build writes it")
    if manifest["backend"] not in BACKENDS:
        raise refuse(folder, f"an engine for the backend {manifest['backend']!r}", "one of " + ", ".join(BACKENDS))


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
    for name in (CONTRACT, LAYERS, manifest["engine_file"], *manifest["extra_files"]):
        if name not in listed:
            raise refuse(folder, f"{MANIFEST} does not list {name!r} among its files", "every file that is loaded")


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


def layers_of(folder: Path, document: Any) -> tuple[Layer, ...]:
    """The layers that a verified layers.json lists."""
    if not isinstance(document, dict) or document.get("schema") != LAYERS_SCHEMA:
        raise refuse(folder, f"{LAYERS} is not of schema '{LAYERS_SCHEMA}'", "layers as build writes them")
    try:
        return layers_from(document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise refuse(folder, f"{LAYERS} holds a layer that is none ({error})", "layers as build writes them") from error
