"""Reading and writing ONNX files: what is broken, too large or reaches outside its folder is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import atomic_output

# Protobuf itself ends at 2 GiB; a file beyond that cannot be one ONNX message.
MAX_PROTOBUF_BYTES = (2 << 30) - 1
_REEXPORT = "export it again, or copy it again from where it was whole"


def _external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Files beside `path` that hold weights; a location that leaves the folder is refused before anything is opened."""
    folder = path.parent.resolve()
    found: dict[str, Path] = {}
    for tensor in _all_tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
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
        end = int(entry.get("offset", 0) or 0) + int(entry.get("length", 0) or 0)
        if end > target.stat().st_size:
            raise QdbevError(
                f"{location} has {target.stat().st_size:,} bytes and the weight '{tensor.name}' ends at byte {end:,}",
                "a whole external data file",
                _REEXPORT,
            )
        found[location] = target
    return list(found.values())


def _all_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    tensors = list(model.graph.initializer)
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            tensors.extend(attribute.tensors)
    return tensors


def read_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model in a file, with its external data; anything that is not a sound ONNX model is refused."""
    path = Path(path)
    if not path.is_file():
        raise QdbevError(f"there is no file {path}", "an ONNX model", "check the path")
    size = path.stat().st_size
    if size > MAX_PROTOBUF_BYTES:
        raise QdbevError(
            f"{path} has {size:,} bytes",
            f"at most {MAX_PROTOBUF_BYTES:,}, the end of protobuf",
            "save the weights beside the model: onnx.save(model, path, save_as_external_data=True)",
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise QdbevError(f"{path} ({size:,} bytes) is no whole ONNX file", "a file as onnx.save writes it", _REEXPORT) \
            from error  # fmt: skip
    if not model.HasField("graph") or not model.graph.node or not model.opset_import:
        raise QdbevError(f"{path} ({size:,} bytes) holds no ONNX graph", "a file as onnx.save writes it", _REEXPORT)
    if _external_files(model, path):
        onnx.load_external_data_for_model(model, str(path.parent))
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
