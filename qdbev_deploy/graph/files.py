"""Reading and writing ONNX files: what is broken, too large or reaches outside its folder is refused."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import atomic_output
from qdbev_deploy.graph.index import all_nodes, sort_nodes, subgraphs_of

# Element types of which two or four share a byte.
_PACKED = {number for name, number in TensorProto.DataType.items() if name.endswith(("INT4", "INT2", "FLOAT4E2M1"))}
# Protobuf itself ends at 2 GiB; a file beyond that cannot be one ONNX message.
MAX_PROTOBUF_BYTES = (2 << 30) - 1
_REEXPORT = "export it again, or copy it again from where it was whole"
_SMALLER = "export a smaller variant, or weights in fewer bits: FP16 or int8"
_SAID_CHARACTERS = 300  # of the checker's words


def _external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Files beside `path` that hold weights; a location that leaves the folder is refused before anything is opened."""
    folder = path.parent.resolve()
    found: dict[str, Path] = {}
    for tensor in _all_tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entry = {item.key: item.value for item in tensor.external_data}
        location = entry.get("location", "")
        pure = PurePosixPath(location)
        outside = not location or pure.is_absolute() or PureWindowsPath(location).is_absolute() or ".." in pure.parts
        target = folder / location
        if outside or not target.resolve().is_relative_to(folder):
            raise QdbevError(
                f"{path.name}: the weight '{tensor.name}' lies in '{location}', outside the model's folder",
                "external data in the folder of the ONNX file",
                "move the data file beside the model and export it again",
            )
        if not target.is_file():
            raise QdbevError(
                f"{path.name}: the weight '{tensor.name}' lies in '{location}', which is not there",
                "every external data file beside the model",
                "copy the data file together with the model",
            )
        end = _byte_count(path, tensor, entry, "offset") + _byte_count(path, tensor, entry, "length")
        if end > target.stat().st_size:
            raise QdbevError(
                f"{location} has {target.stat().st_size:,} bytes and the weight '{tensor.name}' ends at byte {end:,}",
                "a whole external data file",
                _REEXPORT,
            )
        found[location] = target
    return list(found.values())


def _byte_count(path: Path, tensor: TensorProto, entry: dict[str, str], key: str) -> int:
    said = entry.get(key) or "0"
    if not (said.isascii() and said.isdigit()):
        raise QdbevError(
            f"{path.name}: the weight '{tensor.name}' has the {key} {said[:40]!r} in its external data file",
            "a number of bytes",
            _REEXPORT,
        )
    return int(said)


def _all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor, those within functions and subgraphs included."""
    yield from model.graph.initializer
    for node in (*all_nodes(model.graph.node), *(item for f in model.functions for item in all_nodes(f.node))):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in subgraphs_of(attribute):
                yield from graph.initializer


def _require_whole(tensor: TensorProto) -> None:
    """The checker asks for enough bytes; more than the shape holds are a broken file, too."""
    if tensor.data_type == TensorProto.STRING:
        return
    if not tensor.HasField("raw_data") or tensor.data_type in _PACKED:
        numpy_helper.to_array(tensor)
        return
    needed = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if len(tensor.raw_data) != needed:
        raise ValueError(f"the weight '{tensor.name}' has {len(tensor.raw_data):,} bytes, its shape {needed:,}")


def checker_says(model: onnx.ModelProto, full: bool = False) -> str:
    """Why ONNX' own checker refuses a model, in a line; nothing where it takes it. `full`: types and shapes as well."""
    try:
        onnx.checker.check_model(model, full_check=full)
        for tensor in _all_tensors(model):
            _require_whole(tensor)
    except Exception as error:  # a broken file can make it raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return " ".join(lines)[:_SAID_CHARACTERS].rstrip(". ") or type(error).__name__
    return ""


def _require_sound(model: onnx.ModelProto, path: Path) -> None:
    """Refuse what the checker refuses: names that nothing makes, loops, wrong numbers of inputs or of bytes."""
    if said := checker_says(model):
        raise QdbevError(
            f"{path.name} is no valid ONNX model: {said}",
            "a model that onnx.checker.check_model accepts",
            _REEXPORT,
        )


def _require_one_message(model: onnx.ModelProto, path: Path, size: int) -> None:
    """Refuse more than one message holds, by what the file says of the weights beside it: none of them is read yet.

    Shape inference, the checker and every pass take a model as one message, wherever its weights lay.
    """
    beside = sum(
        _stored_bytes(tensor, path.parent)
        for tensor in _all_tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
    )
    if size + beside > MAX_PROTOBUF_BYTES:
        raise QdbevError(
            f"{path} and the weights beside it have {size + beside:,} bytes",
            f"at most {MAX_PROTOBUF_BYTES:,}, the end of protobuf: models are checked and rewritten whole",
            _SMALLER,
        )


def _stored_bytes(tensor: TensorProto, folder: Path) -> int:
    """What a weight beside the file takes; all that follows its offset, where no length is said."""
    entry = {item.key: item.value for item in tensor.external_data}
    rest = (folder / entry["location"]).stat().st_size - int(entry.get("offset") or "0")
    return int(entry.get("length") or rest)


def read_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model in a file, with its external data; anything that is not a sound ONNX model is refused."""
    path = Path(path)
    if not path.is_file():
        raise QdbevError(f"there is no file {path}", "an ONNX model", "check the path")
    size = path.stat().st_size
    if size > MAX_PROTOBUF_BYTES:
        raise QdbevError(
            f"{path} has {size:,} bytes",
            f"at most {MAX_PROTOBUF_BYTES:,}, the end of protobuf, with the weights that lie beside it",
            _SMALLER,
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise QdbevError(f"{path} ({size:,} bytes) is no whole ONNX file", "a file as onnx.save writes it", _REEXPORT) \
            from error  # fmt: skip
    if not model.HasField("graph") or not model.graph.node or not model.opset_import:
        raise QdbevError(f"{path} ({size:,} bytes) holds no ONNX graph", "a file as onnx.save writes it", _REEXPORT)
    try:
        if _external_files(model, path):
            _require_one_message(model, path, size)
            onnx.load_external_data_for_model(model, str(path.parent))
        sort_nodes(model)
    except (onnx.checker.ValidationError, ValueError, TypeError) as error:
        raise QdbevError(f"{path.name}: {error}", "weights in whole files beside the model", _REEXPORT) from error
    _require_sound(model, path)
    return model


def write_onnx(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write the model as one file, which appears whole or not at all."""
    size = model.ByteSize()
    if size > MAX_PROTOBUF_BYTES:
        raise QdbevError(
            f"a model of {size:,} bytes",
            f"at most {MAX_PROTOBUF_BYTES:,}, the end of protobuf",
            "export a smaller variant",
        )
    with atomic_output(path) as partial:
        partial.write_bytes(model.SerializeToString(deterministic=True))


def sha256_of(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_sha256_of(path: str | os.PathLike[str]) -> str:
    """The digest of an ONNX file with the weights that lie beside it; of the file alone where there are none."""
    path = Path(path)
    model = onnx.ModelProto.FromString(path.read_bytes())
    beside = sorted(_external_files(model, path))
    if not beside:
        return sha256_of(path)
    digest = hashlib.sha256(sha256_of(path).encode())
    for file in beside:
        digest.update(sha256_of(file).encode())
    return digest.hexdigest()
