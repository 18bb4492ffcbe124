"""Which backend: the one that was named, or the best that this machine has."""

from __future__ import annotations

from qdbev_deploy.engine.interface import Backend, BackendChoice
from qdbev_deploy.errors import ExitCode, QdbevError

BACKENDS = ("tensorrt", "onnxruntime")
CHOICES = ("auto", *BACKENDS)


def backend_named(name: str) -> Backend:
    """The backend of that name, whether this machine can use it or not; nothing heavy is imported."""
    if name == "tensorrt":
        from qdbev_deploy.engine.tensorrt.backend import TensorRTBackend

        return TensorRTBackend()
    if name == "onnxruntime":
        from qdbev_deploy.engine.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend()
    raise QdbevError(
        f"unknown backend '{name}'", "one of " + ", ".join(CHOICES), "pass --backend auto", exit_code=ExitCode.USAGE
    )


def choose(name: str = "auto") -> BackendChoice:
    """The backend to build with. A named one that this machine lacks is an error; `auto` takes what there is."""
    if name != "auto":
        backend = backend_named(name)
        if error := backend.missing():
            raise error
        return BackendChoice(backend, f"backend {name}, as asked for")
    tensorrt = backend_named("tensorrt")
    error = tensorrt.missing()
    if error is None:
        return BackendChoice(tensorrt, "backend tensorrt: a GPU and TensorRT are here")
    fallback = backend_named("onnxruntime")
    if lacking := fallback.missing():
        raise lacking
    return BackendChoice(fallback, f"backend onnxruntime, as TensorRT cannot be used: {error.found}")
