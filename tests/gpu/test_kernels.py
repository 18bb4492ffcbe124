"""The kernels against the same bodies on the CPU: every op, type and variant; largest error, never the mean."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from plugin_cases import BUILDERS, Case, ms_deform_case, sample_case, spatial_case, temporal_case

from qdbev_deploy.contract import VARIANTS
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.plugins import DeviceTensor, PluginLibrary

OPS = tuple(BUILDERS)


def device_tensor(tensor: torch.Tensor) -> DeviceTensor:
    return DeviceTensor(tensor.data_ptr(), tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def place(tensor: torch.Tensor, shift: int = 0) -> torch.Tensor:
    """A copy on the GPU, `shift` elements past an aligned address."""
    room = torch.empty(tensor.numel() + shift, dtype=tensor.dtype, device="cuda")
    room[shift:] = tensor.reshape(-1).cuda()
    return room[shift:].view(tensor.shape)


class OnGpu:
    """A case with its tensors on the GPU and a poisoned output between two guards."""

    GUARD = 64

    def __init__(self, library: PluginLibrary, case: Case, out_dtype: str = "float32", *, shift: int = 0, **attributes):
        self.library, self.case = library, case
        self.attributes = {**case.attributes, **attributes}
        self.inputs = [place(tensor, shift) for tensor in case.inputs]
        dtype = getattr(torch, out_dtype)
        self.poison = 77 if out_dtype == "int8" else float("nan")
        size = int(np.prod(case.out_shape))
        self.room = torch.empty(self.GUARD + shift + size + self.GUARD, dtype=dtype, device="cuda")
        self.out = self.room[self.GUARD + shift :][:size].view(case.out_shape)
        self.fill()

    def fill(self) -> None:
        self.room.fill_(self.poison)

    def launch(self) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        inputs = [device_tensor(tensor) for tensor in self.inputs]
        self.library.launch(self.case.op, inputs, self.attributes, device_tensor(self.out), stream=stream)

    def result(self) -> np.ndarray:
        torch.cuda.synchronize()
        before = self.room[: self.out.storage_offset()]
        after = self.room[self.out.storage_offset() + self.out.numel() :]
        for guard in (before, after):
            untouched = torch.isnan(guard) if guard.is_floating_point() else guard == self.poison
            assert untouched.all(), "the kernel wrote outside its output"
        return self.out.cpu().numpy()


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert np.isfinite(actual.astype(np.float64)).all()
    scale = np.abs(expected).max()
    assert scale > 0
    error = np.abs(actual.astype(np.float64) - expected).max() / scale
    assert error <= 1e-5, f"largest relative error {error:.3g}"


@pytest.mark.parametrize("aux_dtype", ["float32", "float16"])
@pytest.mark.parametrize("value_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("op", OPS)
def test_small_sizes(kernels: PluginLibrary, op: str, value_dtype: str, aux_dtype: str) -> None:
    case = BUILDERS[op](1, value_dtype, aux_dtype)
    gpu = OnGpu(kernels, case)
    gpu.launch()
    assert_same(gpu.result(), case.run(kernels))


VARIANT_OPS = [
    (name, op)
    for op in OPS
    for name in ("micro", "tiny", "small", "base")
    if op != "ModulatedDeformSample" or VARIANTS[name].backbone.dcn_stages
]


def variant_cases(name: str, value_dtype: str) -> dict[str, Callable[[], Case]]:
    spec = VARIANTS[name]
    aux = "float32" if value_dtype == "float32" else "float16"
    sizes = {"heads": spec.heads, "head_dim": spec.head_dim}
    dcn = {"batch": 1, "channels": 256, "height": -(-spec.image_hw[0] // 16), "width": -(-spec.image_hw[1] // 16)}
    return {
        "SpatialCrossAttn": lambda: spatial_case(
            1, value_dtype, aux, shapes=spec.feature_hws, bev_hw=spec.bev_hw, points=spec.spatial_points, **sizes
        ),
        "TemporalSelfAttn": lambda: temporal_case(
            2, value_dtype, aux, bev_hw=spec.bev_hw, points=spec.temporal_points, **sizes
        ),
        "MSDeformAttn": lambda: ms_deform_case(
            3,
            value_dtype,
            aux,
            shapes=(spec.bev_hw,),
            batch=1,
            queries=spec.queries,
            points=spec.decoder_points,
            **sizes,
        ),
        "ModulatedDeformSample": lambda: sample_case(4, value_dtype, aux, **dcn),
    }


@pytest.mark.parametrize("value_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("variant", "op"), VARIANT_OPS)
def test_shapes_of_the_variants(kernels: PluginLibrary, op: str, variant: str, value_dtype: str) -> None:
    case = variant_cases(variant, value_dtype)[op]()
    gpu = OnGpu(kernels, case)
    gpu.launch()
    assert_same(gpu.result(), case.run(kernels, threads=8))


@pytest.mark.parametrize("shift", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("out_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("value_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("op", OPS)
def test_every_alignment(kernels: PluginLibrary, op: str, value_dtype: str, out_dtype: str, shift: int) -> None:
    case = BUILDERS[op](5, value_dtype, "float16")
    attributes = {"output_scale": 0.02} if out_dtype == "int8" else {}
    gpu = OnGpu(kernels, case, out_dtype, shift=shift, **attributes)
    gpu.launch()
    expected = case.run(kernels, out_dtype, **attributes).astype(np.float64)
    # FP16 and int8 may round a last FP32 bit the other way: one step.
    step = {"float32": 1e-5 * np.abs(expected).max(), "float16": np.abs(expected).max() * 2.0**-10, "int8": 1}[
        out_dtype
    ]
    assert np.abs(gpu.result().astype(np.float64) - expected).max() <= step


@pytest.mark.parametrize("op", OPS)
def test_hostile_offsets(kernels: PluginLibrary, op: str) -> None:
    case = BUILDERS[op](6, "int8", "float32")
    flat = case.inputs[1 if op == "ModulatedDeformSample" else 2].view(-1)
    hostile = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 2.0**31, -(2.0**31)])
    chosen = torch.arange(0, flat.numel(), 3)
    flat[chosen] = hostile[torch.arange(len(chosen)) % len(hostile)]
    gpu = OnGpu(kernels, case)
    gpu.launch()
    assert_same(gpu.result(), case.run(kernels))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -1e30])
def test_hostile_matrices(kernels: PluginLibrary, bad: float) -> None:
    case = spatial_case(7, "float16", "float16", bev_hw=(20, 20))
    case.inputs[1][2] = bad
    gpu = OnGpu(kernels, case)
    gpu.launch()
    assert_same(gpu.result(), case.run(kernels))
    case.inputs[1][:] = bad
    blind = OnGpu(kernels, case)
    blind.launch()
    assert (blind.result() == case.run(kernels)).all()


@pytest.mark.parametrize("op", OPS)
def test_graph_capture_and_replay(kernels: PluginLibrary, op: str) -> None:
    case = BUILDERS[op](8, "int8", "float16")
    gpu = OnGpu(kernels, case)
    gpu.launch()
    first = gpu.result().copy()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gpu.launch()
    for _ in range(3):
        gpu.fill()
        graph.replay()
        np.testing.assert_array_equal(gpu.result(), first)  # and so independent of the order of blocks


@pytest.mark.parametrize("op", OPS)
def test_two_streams_at_once(kernels: PluginLibrary, op: str) -> None:
    gpus = [OnGpu(kernels, BUILDERS[op](seed, "float16", "float16")) for seed in (9, 10)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in gpus]
    for _ in range(50):
        for gpu, stream in zip(gpus, streams, strict=True):
            with torch.cuda.stream(stream):
                gpu.launch()
    for gpu in gpus:
        assert_same(gpu.result(), gpu.case.run(kernels))


def test_the_stream_is_honoured(kernels: PluginLibrary) -> None:
    """Work queued behind a long delay on the same stream must not run before it ends."""
    gpu = OnGpu(kernels, temporal_case(11))
    gpu.launch()  # loads the kernel, which may wait for all streams
    gpu.fill()
    stream, watcher = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(2_000_000_000)  # cycles: about a second
        gpu.launch()
    # A kernel that went to another stream, the default one say, has ended when this returns.
    torch.cuda.default_stream().synchronize()
    with torch.cuda.stream(watcher):
        seen = gpu.out.cpu()
    assert not stream.query(), "the launch, or the look at its output, waited for the stream: nothing is proved"
    assert torch.isnan(seen).all(), "the kernel ran before what its stream had queued"
    assert_same(gpu.result(), gpu.case.run(kernels))


def test_a_refused_launch_leaves_the_context_usable(kernels: PluginLibrary) -> None:
    gpu = OnGpu(kernels, temporal_case(12))
    gpu.attributes["bev_h"] = 5
    with pytest.raises(QdbevError, match="TemporalSelfAttn"):
        gpu.launch()
    gpu.attributes["bev_h"] = gpu.case.attributes["bev_h"]
    gpu.launch()
    assert_same(gpu.result(), gpu.case.run(kernels))


@pytest.mark.further_tool
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer(kernels: PluginLibrary, tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("no compute-sanitizer on this machine")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", "-q", __file__]
    command += ["-k", "small_sizes or every_alignment and int8-float32-1", "-p", "no:cacheprovider"]
    # Without torch's cache each tensor is an allocation of its own, whose end the tool knows.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    # The tool writes after pytest does, so the summary may stand anywhere.
    passed = re.search(r"\b(\d+) passed", done.stdout)
    assert passed is not None, done.stdout[-4000:]
    assert int(passed.group(1)) > 0
    assert not re.search(r"\b\d+ skipped", done.stdout), done.stdout[-4000:]


@pytest.mark.parametrize("op", OPS)
def test_capture_of_a_kernel_that_was_never_launched(kernels: PluginLibrary, op: str) -> None:
    """The first launch of a process may be one that is captured: in a process of its own, since kernels load once."""
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "import torch\n"
        "from plugin_cases import BUILDERS\n"
        "from test_kernels import OnGpu, assert_same\n"
        "from qdbev_deploy.plugins import PluginLibrary\n"
        "library = PluginLibrary(sys.argv[3])\n"
        "for value in ('float32', 'float16', 'int8'):\n"
        "    case = BUILDERS[sys.argv[4]](13, value, 'float16')\n"
        "    gpu = OnGpu(library, case)\n"
        "    graph = torch.cuda.CUDAGraph()\n"
        "    with torch.cuda.graph(graph):\n"
        "        gpu.launch()\n"
        "    assert gpu.room.isnan().all(), 'a captured launch ran'\n"
        "    graph.replay()\n"
        "    assert_same(gpu.result(), case.run(library))\n"
        "print('captured')\n"
    )
    here = Path(__file__).resolve().parent
    folders = [str(here), str(here.parent / "plugins")]
    command = [sys.executable, "-c", script, *folders, str(kernels.info.path), op]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.endswith("captured\n")
