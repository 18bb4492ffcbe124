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


def _int64(number: int, what: str) -> int:
    if not -(2**63) <= number < 2**63:
        raise QdbevError(f"{what} is {number}", "an integer of 64 bits", "correct it")
    return number


def _text(described: Mapping[str, Any], key: str) -> str:
    if not isinstance(described[key], str):
        raise ValueError(f"its description has {key} {described[key]!r}")
    return str(described[key])


def _info(where: Path, described: Any) -> LibraryInfo:
    """The library's description of itself, held against the form that it must have."""
    if not isinstance(described, dict):
        raise ValueError("its description is no JSON object")
    architectures = _text(described, "cuda_architectures") if described["cuda_architectures"] else ""
    ops = {}
    for op in described["ops"]:
        ops[_text(op, "name")] = op
        for item in (*op["inputs"], *op["fields"]):
            _text(item, "name")
        for item in op["fields"]:
            _text(item, "kind")
    return LibraryInfo(
        path=where,
        version=_text(described, "version"),
        abi=int(described["abi"]),
        cuda_architectures=tuple(architectures.split(",")) if architectures else (),
        tensorrt=_text(described, "tensorrt") if described["tensorrt"] else None,
        ops=tuple(ops),
        description=ops,
    )


def _c_string(text: str, what: str) -> bytes:
    if "\0" in text:
        raise QdbevError(f"{what} {text!r} holds a zero byte", "a plain name", "see docs/plugins.md for the names")
    return text.encode()


class PluginLibrary:
    """A loaded plugin library. Its ops run on the CPU, from the code that the GPU runs."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        # Absolute: the loader would search its own folders for a bare file name.
        where = find_library() if path is None else Path(path).expanduser().absolute()
        try:
            self._library = ctypes.CDLL(str(where))
            self._library.qdbev_describe.restype = ctypes.c_char_p
            self._library.qdbev_describe.argtypes = ()
            description = self._library.qdbev_describe()
            if description is None:
                raise ValueError("it describes itself as nothing")
            described = json.loads(description)
            abi = described.get("abi") if isinstance(described, dict) else None
            if isinstance(abi, int) and abi != ABI:  # whose description may be of another form
                raise QdbevError(
                    f"{where} has ABI {abi}",
                    f"ABI {ABI}, which this version of qdbev-deploy speaks",
                    _BUILD_COMMAND,
                )
            self._library.qdbev_host_run.restype = ctypes.c_int32
            self._library.qdbev_cuda_run.restype = ctypes.c_int32
            self.info = _info(where, described)
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            why = f"its description lacks {error}" if isinstance(error, KeyError) else str(error)
            raise QdbevError(
                f"{where} cannot be loaded as a plugin library ({why})",
                "a plugin library for this machine's processor and system",
                _BUILD_COMMAND,
            ) from error

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
            if not isinstance(array, np.ndarray):
                raise QdbevError(
                    f"a tensor is a {type(array).__name__}", "NumPy arrays", "convert it with numpy.asarray"
                )
            if not array.flags.c_contiguous:
                raise QdbevError(
                    f"an array of shape {array.shape} with strides {array.strides}",
                    "contiguous arrays",
                    "convert it with numpy.ascontiguousarray",
                )
        if not out.flags.writeable:
            raise QdbevError(
                f"an output array of shape {out.shape} that is read-only", "one to write into", "pass a copy of it"
            )
        tensors = [self._tensor(array.ctypes.data, array.shape, str(array.dtype)) for array in (*inputs, out)]
        most = os.cpu_count() or 1
        self._call(self._library.qdbev_host_run, op, tensors, attributes, ctypes.c_int32(max(1, min(threads, most))))
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
            _c_string(op, "the op"),
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
        dims = (ctypes.c_int64 * len(shape))(*[_int64(extent, "an extent") for extent in shape])
        return _Tensor(address, dims, len(shape), _DTYPES[dtype])

    def _attribute(self, op: str, name: str, value: Attribute) -> _Attribute:
        what = f"attribute '{name}' of {op}"
        key = _c_string(name, "the attribute")
        kinds = {item["name"]: item["kind"] for item in self.info.description.get(op, {"fields": []})["fields"]}
        values = list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        if any(not isinstance(item, int | float | np.integer | np.floating) for item in values):
            raise QdbevError(f"{what} is {value!r}", "a number or a list of numbers", "correct the attribute")
        # An unknown name is the library's to refuse; until then it travels as what it looks like.
        floats = kinds.get(name, "floats" if any(isinstance(item, float) for item in values) else "ints")
        if floats.startswith("float"):
            try:
                numbers = [float(item) for item in values]
            except OverflowError as error:
                raise QdbevError(f"{what} is {value!r}", "numbers that fit a float", "correct the attribute") from error
            return _Attribute(key, None, (ctypes.c_double * len(numbers))(*numbers), len(numbers), 3)
        if any(not isinstance(item, int | np.integer) for item in values):
            raise QdbevError(f"{what} is {value!r}", "integers", "correct the attribute")
        integers = [_int64(int(item), what) for item in values]
        return _Attribute(key, (ctypes.c_int64 * len(integers))(*integers), None, len(integers), 1)
