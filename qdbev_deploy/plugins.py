"""The plugin library: where it lies, what it was built with, and its ops on the CPU. Needs neither torch nor a GPU."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qdbev_deploy.errors import ExitCode, QdbevError

LIBRARY_NAME = "libqdbev_plugins.so"
LIBRARY_VARIABLE = "QDBEV_PLUGIN_LIBRARY"
ABI = 1  # the one that this package speaks; plugins/include/qdbev/version.h has the library's

_BUILD_COMMAND = "qdbev-deploy plugins build"
Array: TypeAlias = npt.NDArray[Any]
Attribute: TypeAlias = int | float | Sequence[int] | Sequence[float]


@dataclass(frozen=True)
class LibraryInfo:
    """What a plugin library says of itself."""

    path: Path
    version: str
    abi: int
    cuda_architectures: tuple[str, ...]  # empty: built without CUDA
    tensorrt: str | None  # version of the headers it was built against; None: no TensorRT plugins in it
    ops: tuple[str, ...]
    description: dict[str, Any] = field(repr=False)  # inputs and fields of each op

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "version": self.version,
            "abi": self.abi,
            "cuda_architectures": list(self.cuda_architectures),
            "tensorrt": self.tensorrt,
            "ops": list(self.ops),
        }


def source_folder() -> Path | None:
    """The CMake project: beside the package in a checkout, inside it in an installation that carries the sources."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "plugins", package / "plugins_source"):
        if (folder / "CMakeLists.txt").is_file():
            return folder
    return None


def build_folder() -> Path:
    """Where `qdbev-deploy plugins build` puts the library: in the checkout, else in the user's cache."""
    package = Path(__file__).resolve().parent
    if (package.parent / "plugins" / "CMakeLists.txt").is_file():
        return package.parent / "build" / "plugins"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "qdbev-deploy" / "plugins"


def library_candidates() -> list[Path]:
    """Where the library is looked for when the environment does not name it, best first."""
    package = Path(__file__).resolve().parent
    return [folder / LIBRARY_NAME for folder in (package / "lib", build_folder())]


def find_library() -> Path:
    """The plugin library of this machine: the environment's choice, the package's own, or one built in the checkout."""
    chosen = os.environ.get(LIBRARY_VARIABLE)
    if chosen:
        path = Path(chosen).expanduser()
        if not path.is_file():
            raise QdbevError(
                f"{LIBRARY_VARIABLE} names {chosen}, which is not a file",
                "the path of a built plugin library",
                f"unset {LIBRARY_VARIABLE}, or {_BUILD_COMMAND}",
                exit_code=ExitCode.MISSING,
            )
        return path.resolve()
    candidates = library_candidates()
    for path in candidates:
        if path.is_file():
            return path
    raise QdbevError(
        "no plugin library at " + ", ".join(map(str, candidates)),
        f"{LIBRARY_NAME}, built on or for this machine",
        _BUILD_COMMAND,
        exit_code=ExitCode.MISSING,
    )


def library_info(path: str | os.PathLike[str] | None = None) -> LibraryInfo:
    """What the library at `path` says of itself; None means the one `find_library` finds."""
    return PluginLibrary(path).info


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("ints", ctypes.POINTER(ctypes.c_int64)),
        ("floats", ctypes.POINTER(ctypes.c_double)),
        ("count", ctypes.c_int32),
        ("kind", ctypes.c_int32),
    )


_DTYPES = {"float32": 0, "float16": 1, "int8": 2}
_REFUSED = 1
_ERROR_SIZE = 1024


@dataclass(frozen=True)
class DeviceTensor:
    """A dense, row-major tensor in GPU memory that somebody else owns."""

    address: int
    shape: tuple[int, ...]
    dtype: str  # float32, float16 or int8


class PluginLibrary:
    """A loaded plugin library. Its ops run on the CPU, from the code that the GPU runs."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        where = find_library() if path is None else Path(path)
        try:
            self._library = ctypes.CDLL(str(where))
            self._library.qdbev_describe.restype = ctypes.c_char_p
            self._library.qdbev_describe.argtypes = ()
            described = json.loads(self._library.qdbev_describe())
        except (OSError, AttributeError, ValueError) as error:
            raise QdbevError(
                f"{where} cannot be loaded as a plugin library ({error})",
                "a plugin library for this machine's processor and system",
                _BUILD_COMMAND,
            ) from error
        if described["abi"] != ABI:
            raise QdbevError(
                f"{where} has ABI {described['abi']}",
                f"ABI {ABI}, which this version of qdbev-deploy speaks",
                _BUILD_COMMAND,
            )
        self._library.qdbev_host_run.restype = ctypes.c_int32
        self._library.qdbev_cuda_run.restype = ctypes.c_int32
        architectures = described["cuda_architectures"]
        self.info = LibraryInfo(
            path=where,
            version=described["version"],
            abi=described["abi"],
            cuda_architectures=tuple(architectures.split(",")) if architectures else (),
            tensorrt=described["tensorrt"],
            ops=tuple(op["name"] for op in described["ops"]),
            description={op["name"]: op for op in described["ops"]},
        )

    def run(
        self,
        op: str,
        inputs: Sequence[Array],
        attributes: Mapping[str, Attribute],
        out: Array,
        *,
        threads: int = 1,
    ) -> Array:
        """Run `op` on the CPU into `out`, whose shape must be the op's and whose dtype decides the output's type."""
        for array in (*inputs, out):
            if not array.flags.c_contiguous:
                raise QdbevError(
                    f"an array of shape {array.shape} with strides {array.strides}",
                    "contiguous arrays",
                    "convert it with numpy.ascontiguousarray",
                )
        tensors = [self._tensor(array.ctypes.data, array.shape, str(array.dtype)) for array in (*inputs, out)]
        self._call(self._library.qdbev_host_run, op, tensors, attributes, ctypes.c_int32(threads))
        return out

    def launch(
        self,
        op: str,
        inputs: Sequence[DeviceTensor],
        attributes: Mapping[str, Attribute],
        out: DeviceTensor,
        *,
        stream: int = 0,
    ) -> None:
        """Enqueue `op`'s kernel on `stream` (a cudaStream_t as a number) of the current CUDA context, and return."""
        tensors = [self._tensor(tensor.address, tensor.shape, tensor.dtype) for tensor in (*inputs, out)]
        self._call(self._library.qdbev_cuda_run, op, tensors, attributes, ctypes.c_void_p(stream))

    def _call(
        self, function: Any, op: str, tensors: list[_Tensor], attributes: Mapping[str, Attribute], where: Any
    ) -> None:
        inputs = (_Tensor * (len(tensors) - 1))(*tensors[:-1])
        fields = (_Attribute * len(attributes))(*[self._attribute(op, *item) for item in attributes.items()])
        message = ctypes.create_string_buffer(_ERROR_SIZE)
        status = function(
            op.encode(),
            inputs,
            ctypes.c_int32(len(inputs)),
            ctypes.byref(tensors[-1]),
            fields,
            ctypes.c_int32(len(attributes)),
            where,
            message,
            ctypes.c_size_t(_ERROR_SIZE),
        )
        if status != 0:
            sentence = message.value.decode(errors="replace").rstrip(".")
            raise QdbevError(
                sentence,
                "inputs that fit the op" if status == _REFUSED else "an op that runs",
                "see docs/plugins.md for the op's shapes and fields",
            )

    @staticmethod
    def _tensor(address: int, shape: Sequence[int], dtype: str) -> _Tensor:
        if dtype not in _DTYPES:
            raise QdbevError(f"a tensor of dtype {dtype}", "float32, float16 or int8", "convert it first")
        # The structure keeps `dims` alive; the caller keeps the tensor.
        dims = (ctypes.c_int64 * len(shape))(*shape)
        return _Tensor(address, dims, len(shape), _DTYPES[dtype])

    def _attribute(self, op: str, name: str, value: Attribute) -> _Attribute:
        kinds = {item["name"]: item["kind"] for item in self.info.description.get(op, {"fields": []})["fields"]}
        values = list(value) if isinstance(value, Sequence) else [value]
        # An unknown name is the library's to refuse; until then it travels as what it looks like.
        floats = kinds.get(name, "floats" if any(isinstance(item, float) for item in values) else "ints")
        if floats.startswith("float"):
            return _Attribute(name.encode(), None, (ctypes.c_double * len(values))(*values), len(values), 3)
        if any(not isinstance(item, int | np.integer) for item in values):
            raise QdbevError(f"attribute '{name}' of {op} is {value!r}", "integers", "correct the attribute")
        return _Attribute(
            name.encode(), (ctypes.c_int64 * len(values))(*[int(item) for item in values]), None, len(values), 1
        )
