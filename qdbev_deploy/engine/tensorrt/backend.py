"""TensorRT as a backend: what it needs of the machine, how it builds a plan, how it opens one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from qdbev_deploy import machine
from qdbev_deploy.contract import TensorSpec
from qdbev_deploy.engine.interface import Array, BuildOptions, BuildResult, Say
from qdbev_deploy.engine.tensorrt import cuda as seam
from qdbev_deploy.engine.tensorrt import plugin_library, releases
from qdbev_deploy.engine.tensorrt.builder import build_plan
from qdbev_deploy.engine.tensorrt.layers import parse_layers
from qdbev_deploy.engine.tensorrt.log import Log, log_of
from qdbev_deploy.engine.tensorrt.options import refuse_dla_where_there_is_none, refuse_foreign, refuse_unguarded
from qdbev_deploy.engine.tensorrt.runtime import TensorRTEngine, described
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.plugins import LIBRARY_NAME

PLAN_FILE = "engine.plan"


def _lacks(found: str, needed: str, next_step: str) -> QdbevError:
    return QdbevError(found, needed, next_step, exit_code=ExitCode.MISSING)


class TensorRTBackend:
    """Plans for the GPU of this machine, by the TensorRT that is installed."""

    name = "tensorrt"

    def missing(self) -> QdbevError | None:
        driver = machine.cuda_driver()
        if driver is None:
            return _lacks("libcuda.so.1 is not there", "NVIDIA's driver", "install the driver (JetPack has it)")
        if not driver.gpus:
            return _lacks("the driver finds no GPU", "an NVIDIA GPU", "nvidia-smi; is CUDA_VISIBLE_DEVICES empty?")
        try:
            version = releases.installed_version()
            if version is None:
                return _lacks(
                    "the Python package tensorrt is not installed",
                    "TensorRT 8.6, 10.3 or later, or 11, for this Python",
                    "pip install 'qdbev-deploy[trt]' (JetPack: apt-get install python3-libnvinfer)",
                )
            releases.release_of(version)
            if seam.package() is None:
                return _lacks(
                    "neither PyCUDA nor cuda-python is installed",
                    "one of them, for memory and streams on the GPU",
                    "pip install 'qdbev-deploy[trt]', or pip install cuda-python",
                )
            plugin_library.usable()
        except QdbevError as error:
            return error
        return None

    def target(self) -> str:
        version = releases.installed_version()
        if version is None:
            raise _lacks("the Python package tensorrt is not installed", "TensorRT", "pip install 'qdbev-deploy[trt]'")
        return releases.release_of(version).target

    def build(self, model: onnx.ModelProto, folder: Path, options: BuildOptions, say: Say) -> BuildResult:
        refuse_foreign(options)
        refuse_unguarded(options, quantised=any(node.op_type == "QuantizeLinear" for node in model.graph.node))
        refuse_dla_where_there_is_none(options, releases.release())
        say("loading TensorRT and the plugins", None, None)
        trt, release = releases.load(), releases.release()
        log, cuda, library = log_of(trt), seam.cuda(), plugin_library.usable()
        plugin_library.load(trt, log, library.path)
        plan = build_plan(trt, release, log, model, options, say)
        (folder / PLAN_FILE).write_bytes(plan.content)
        shutil.copyfile(library.path, folder / LIBRARY_NAME)
        say("asking what is in the engine", None, None)
        with cuda.current():
            layers = parse_layers(described(trt, _deserialised(trt, log, plan.content, _given(options))), model)
        driver = machine.cuda_driver()
        assert driver is not None
        gpu = driver.gpus[0]
        return BuildResult(
            engine_file=PLAN_FILE,
            layers=layers,
            versions={
                "tensorrt": str(trt.__version__),
                "cuda_driver": ".".join(map(str, driver.cuda_version)),
                "cuda_from_python": cuda.name,
                "plugins": library.version,
                "plugins_abi": str(library.abi),
            },
            gpu={"name": gpu.name, "compute_capability": list(gpu.compute_capability)},
            notes=plan.notes,
            extra_files=(LIBRARY_NAME,),
        )

    def open(
        self, engine_file: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], options: dict[str, Any]
    ) -> TensorRTEngine:
        trt, log, cuda = releases.load(), log_of(releases.load()), seam.cuda()
        releases.release_of(str(trt.__version__))
        library = engine_file.parent / LIBRARY_NAME
        if LIBRARY_NAME in options.get("extra_files", ()):
            plugin_library.usable(library)
            plugin_library.load(trt, log, library)
        with cuda.current():
            engine = _deserialised(trt, log, engine_file.read_bytes(), options)
        return TensorRTEngine(trt, cuda, log, engine, inputs, outputs)

    def outputs_of(self, model: onnx.ModelProto, options: BuildOptions, feeds: dict[str, Array]) -> dict[str, Array]:
        """All outputs of a lowered model, built for this one run: what a bisection asks for."""
        from polygraphy.backend.trt import TrtRunner

        trt, release = releases.load(), releases.release()
        log, cuda = log_of(trt), seam.cuda()
        plugin_library.load(trt, log, plugin_library.usable().path)
        plan = build_plan(trt, release, log, model, options, lambda phase, done, total: None)
        with cuda.current():
            engine = _deserialised(trt, log, plan.content, _given(options))
            # An input that leads to none of the outputs asked for is no tensor of the engine.
            tensors = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
            with TrtRunner(engine) as runner:
                fed = {name: array for name, array in feeds.items() if name in tensors}
                return dict(runner.infer(fed, copy_outputs_to_host=True))


def _given(options: BuildOptions) -> dict[str, Any]:
    return {"dla_core": options.dla_core, "version_compatible": options.version_compatible}


def _deserialised(trt: Any, log: Log, plan: bytes, options: dict[str, Any]) -> Any:
    runtime = log.made("runtime", lambda: trt.Runtime(log.logger))
    if options.get("version_compatible"):
        runtime.engine_host_code_allowed = True  # such a plan brings the runtime that it was built with
    if options.get("dla_core") is not None:
        runtime.DLA_core = options["dla_core"]
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise log.failure(
            f"TensorRT {trt.__version__} did not take the plan ({len(plan):,} bytes)",
            "a plan that this TensorRT built on a GPU like this one",
            "build the bundle again on this machine: qdbev-deploy build",
        )
    return engine
