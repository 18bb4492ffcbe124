"""The file to build from: read with guards, held against the contract, its provenance told."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from qdbev_deploy.contract import (
    IMAGE_CHOICES,
    IO_CHOICES,
    METADATA_PREFIX,
    TensorSpec,
    VariantSpec,
    stream_inputs,
    stream_outputs,
    variant,
)
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.files import content_sha256_of, read_onnx

_PROVENANCE = (
    "tool", "weights_sha256", "checkpoint_sha256", "float_sha256", "recipe", "bits", "io", "image", "clip", "carrier",
    "opset", "calibration",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """An ONNX file that is a streaming graph: what it holds, and the contract it keeps."""

    path: Path
    model: onnx.ModelProto
    sha256: str
    spec: VariantSpec
    io: str
    image: str
    metadata: dict[str, Any]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return stream_inputs(self.spec, self.io, self.image)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return stream_outputs(self.spec, self.io)

    @property
    def is_quantised(self) -> bool:
        return any(node.op_type == "QuantizeLinear" for node in self.model.graph.node)

    def provenance(self) -> dict[str, Any]:
        """Where the weights come from, as the file says it; no paths of the machine that built."""
        told = {name: self.metadata[name] for name in _PROVENANCE if name in self.metadata}
        return {"onnx": {"name": self.path.name, "sha256": self.sha256, "bytes": self.path.stat().st_size}, **told}


def read_source(path: str | os.PathLike[str], variant_name: str | None = None) -> Source:
    """The file, if it is the streaming graph of its variant: what `variant_name` says, or its own metadata."""
    path = Path(path)
    model = read_onnx(path)
    metadata = _metadata(path, model)
    spec = _spec(path, metadata, variant_name)
    io, image = _forms(path, model, metadata)
    source = Source(path, model, content_sha256_of(path), spec, io, image, metadata)
    _require_contract(source)
    return source


def _metadata(path: Path, model: onnx.ModelProto) -> dict[str, Any]:
    """What our exporter wrote into the file; empty for files of others."""
    found: dict[str, Any] = {}
    for entry in model.metadata_props:
        if not entry.key.startswith(METADATA_PREFIX):
            continue
        name = entry.key.removeprefix(METADATA_PREFIX)
        try:
            found[name] = json.loads(entry.value)
        except (ValueError, RecursionError):
            found[name] = entry.value
    if "variant" in found and not isinstance(found["variant"], dict):
        raise QdbevError(
            f"{path.name}: its metadata {METADATA_PREFIX}variant is no specification",
            "metadata as export writes it",
            "export it again, or pass --variant",
        )
    return found


def _spec(path: Path, metadata: dict[str, Any], name: str | None) -> VariantSpec:
    own = VariantSpec.from_dict(metadata["variant"]) if "variant" in metadata else None
    if name is None:
        if own is None:
            raise QdbevError(
                f"{path.name} does not say which variant it is",
                "an ONNX file that qdbev-deploy exported, or the variant's name",
                "pass --variant, such as --variant tiny",
            )
        return own
    asked = variant(name)
    if own is not None and own.name != asked.name:
        raise QdbevError(
            f"{path.name} is a '{own.name}'", f"a '{asked.name}', as --variant says", "leave --variant out"
        )
    return own or asked


def _forms(path: Path, model: onnx.ModelProto, metadata: dict[str, Any]) -> tuple[str, str]:
    """(io, image) as the file says, or as its inputs show."""
    io, image = metadata.get("io"), metadata.get("image")
    inputs = {value.name: value.type.tensor_type for value in model.graph.input}
    if io is None and "prev_bev" in inputs and "use_prev_bev" in inputs:
        half = inputs["prev_bev"].elem_type == onnx.TensorProto.FLOAT16
        io = "fp16" if half else "fp32" if inputs["use_prev_bev"].shape.dim else "mlperf"
    if image is None and "image" in inputs:
        image = "uint8" if inputs["image"].elem_type == onnx.TensorProto.UINT8 else "float32"
    io, image = io or "fp32", image or "float32"
    if io not in IO_CHOICES or image not in IMAGE_CHOICES:
        raise QdbevError(
            f"{path.name}: io {io!r} and image {image!r}",
            f"io one of {', '.join(IO_CHOICES)}; image one of {', '.join(IMAGE_CHOICES)}",
            "export it again with this release of qdbev-deploy",
        )
    return io, image


def _require_contract(source: Source) -> None:
    """Names, order, types and shapes are the contract's; the first difference is named."""
    graph = source.model.graph
    constants = {tensor.name for tensor in graph.initializer}  # older files list them among the inputs
    inputs = [value for value in graph.input if value.name not in constants]
    for kind, expected, found in (("input", source.inputs, inputs), ("output", source.outputs, graph.output)):
        for index, spec in enumerate(expected):
            needed = f"{kind} {index + 1} '{spec.name}', {spec.dtype} {list(spec.shape)}: {spec.meaning}"
            if index >= len(found):
                raise _differs(source, f"has {len(found)} {kind}s", needed)
            says = _described(found[index])
            if says != (spec.name, spec.dtype, list(spec.shape)):
                raise _differs(source, f"has as {kind} {index + 1} '{says[0]}', {says[1]} {says[2]}", needed)
        if len(found) > len(expected):
            raise _differs(source, f"has a further {kind} '{found[len(expected)].name}'", f"{len(expected)} {kind}s")


def _differs(source: Source, found: str, needed: str) -> QdbevError:
    return QdbevError(
        f"{source.path.name} {found}",
        f"{needed} (variant '{source.spec.name}', io {source.io}, image {source.image})",
        "export it with this release's qdbev-deploy export, or pass the --variant that it is",
    )


def _described(value: onnx.ValueInfoProto) -> tuple[str, str, list[int | str]]:
    type_ = value.type.tensor_type
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(type_.elem_type))
    except KeyError:
        dtype = "of unknown type"
    shape: list[int | str] = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in type_.shape.dim
    ]
    return value.name, dtype, shape
