"""The page that lies beside a model repository, for whoever operates the server."""

from __future__ import annotations

from collections.abc import Sequence

from qdbev_deploy import __version__
from qdbev_deploy.contract import TensorSpec
from qdbev_deploy.engine.bundle import Bundle


def operator_readme(bundle: Bundle, name: str, plugins: Sequence[str], max_idle_s: float) -> str:
    """What it is, how to start it, what to send, what can go wrong."""
    gpu = bundle.backend == "tensorrt"
    inputs = [spec for spec in bundle.inputs if spec.name not in ("prev_bev", "use_prev_bev")]
    return f"""\
# {name}

A Triton Inference Server model repository, made from the bundle {bundle.name} by qdbev-deploy {__version__}. It was
written to Triton's documentation and sources and has not been run on a server yet: start with a test.

## Start it

{_needs(bundle)}

    TRITON=26.07          # the release that you chose
    docker run --rm {"--gpus=all " if gpu else ""}--shm-size=1g -p 8000:8000 -p 8001:8001 -p 8002:8002 \\
      -v "$PWD":/models:ro nvcr.io/nvidia/tritonserver:$TRITON-py3 \\
      tritonserver --model-repository=/models --disable-auto-complete-config{_plugin_option(name, plugins)}

Run it in this folder. `--disable-auto-complete-config` makes the server take config.pbtxt as it is written.
{_plugin_note(name, plugins)}
    curl -fs localhost:8000/v2/models/{name}/ready && echo ready

## What a client sends

One request a frame, with a sequence id that is not 0 and is the vehicle's own. The first frame of a drive has
sequence_start; Triton then gives the model use_prev_bev = 0, and on every later frame 1 with the last frame's BEV. The
last frame may have sequence_end. After {max_idle_s:g} s without a request, by the server's clock, the sequence is
forgotten: the next request is refused ("must specify the START flag") until a frame starts it anew. Frames that are
replayed more slowly than that lose their state each time; package with a longer --max-idle for them.

| input | type | shape | meaning |
|---|---|---|---|
{_rows(inputs)}

| output | type | shape | meaning |
|---|---|---|---|
{_rows(bundle.outputs[1:])}

contract.json says how images are prepared, what can_bus holds (motion since the last frame of the same sequence: the
client keeps the last pose), and how boxes are decoded; `qdbev_deploy.streaming` and `qdbev_deploy.boxes` do both in
Python, and docs/triton.md of qdbev-deploy has a client.

## Where it came from

| | |
|---|---|
| bundle manifest, sha256 | {bundle.manifest_sha256} |
| variant | {bundle.spec.name}, {bundle.precision} |
| built | {bundle.manifest["created"]} by {bundle.manifest["tool"]} |
| versions | {", ".join(f"{key} {value}" for key, value in bundle.manifest["versions"].items()) or "not stated"} |
"""


def _rows(specs: Sequence[TensorSpec]) -> str:
    return "\n".join(
        f"| {spec.name} | {spec.dtype} | {'x'.join(map(str, spec.shape))} | {spec.meaning} |" for spec in specs
    )


def _needs(bundle: Bundle) -> str:
    versions = bundle.manifest["versions"]
    if bundle.backend == "tensorrt":
        gpu = bundle.manifest["gpu"] or {}
        capability = ".".join(map(str, gpu.get("compute_capability", ()))) or "not stated"
        compatible = bundle.manifest["build"]["options"].get("version_compatible")
        exact = "or a later one of that line, as the plan is version compatible" if compatible else "and no other"
        version = versions.get("tensorrt", "of a version that was not stated")
        return f"""\
The plan was built with TensorRT {version} for {gpu.get("name", "a GPU")} (compute capability {capability}).
Choose the Triton release whose container has that TensorRT, {exact}
(https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html), and run it on such a GPU."""
    how = ""
    if bundle.manifest["precision"].get("precision") == "int8":
        how = (
            "The bundle lets ONNX Runtime fuse Q/DQ into integer arithmetic, and so does the server."
            if not bundle.manifest["precision"].get("emulated")
            else "int8 is emulated in floating point, as in the bundle: its speed is not the speed of int8. Graph\n"
            "level 2 in config.pbtxt keeps ONNX Runtime from rewriting Q/DQ, and from every other optimisation.\n"
            "Sums are then of another order than in the bundle, and what rounds differently behind them differs\n"
            "by whole steps: docs/triton.md of qdbev-deploy says by how much."
        )
    version = versions.get("onnxruntime", "of a version that was not stated")
    return f"""\
The bundle was built with ONNX Runtime {version}. Choose a Triton release with that one or a later one, or prove the
model on the older one first
(https://github.com/triton-inference-server/server/blob/main/docs/introduction/compatibility.md).
ONNX Runtime may gather usage data: ORT_DISABLE_TELEMETRY=1 in the server's environment makes sure that it does not.
{how}"""


def _plugin_option(name: str, plugins: Sequence[str]) -> str:
    paths = ";".join(f"/models/{name}/1/{plugin}" for plugin in plugins)
    return f" \\\n      --backend-config='tensorrt,plugins={paths}'" if plugins else ""


def _plugin_note(name: str, plugins: Sequence[str]) -> str:
    if not plugins:
        return ""
    return f"""\
The plugin library is loaded by that backend option. Where it does not load, the server only logs an error and then
refuses the plan for a plugin that it does not know; `LD_PRELOAD=/models/{name}/1/{plugins[0]}` is the other way.
"""
