"""Times the attention kernels on a GPU, beside the way others do it, and writes benchmarks/results/kernels.json.

    python benchmarks/kernels.py [--variant base ...] [--dtype int8 ...] [--quick]
    python benchmarks/kernels.py --check-only        no GPU: runs every path on the CPU and compares the results

For each op, variant and value type: the bytes that must move, the bytes and operations of the samples, and the median
time with a warm and with a flushed L2 cache, as shares of two speeds measured in the same run: a large copy, and random
reads of 64 bytes from as much memory as the op's value has, which is what the op can hope for. Reads of neighbouring
queries meet in the caches, so the second share may exceed one.

For SpatialCrossAttn, in the same run and on the same inputs, two other ways to the same numbers:

  peer     six cameras x all queries through a generic deformable-attention kernel. That kernel is ours too
           (MSDeformAttn), so the comparison is about what is moved and launched, not about whose inner loop is better.
           peer_kernel_us is the kernel alone; peer_prepare_us is the least that must surround it: the projection, one
           pass that writes the offsets of all cameras, one that copies the logits to them, and the masked mean.
  sample   torch's grid_sample, level by level, on all cameras and queries.

All ways are timed alike, as replays of a CUDA graph, so that no launch from Python is in any number: warm is one of ten
in a graph, cold a graph of one after the cache was flushed, with the GPU kept busy until the graph is queued. Values of
the other ways are FP16 (FP32 for float32) and were converted before, untimed; so were constants of the geometry.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from torch.nn import functional as F

from qdbev_deploy.contract import VARIANTS, VariantSpec
from qdbev_deploy.machine import nvcc
from qdbev_deploy.plugins import DeviceTensor, PluginLibrary

TORCH = {"float32": torch.float32, "float16": torch.float16}
CAMERAS = 6
SCALE = 0.02  # of int8 values


@dataclass
class Case:
    """One call of one op; `shape` is the output's."""

    op: str
    variant: str
    dtype: str
    inputs: list[torch.Tensor]
    attributes: dict[str, Any]
    shape: tuple[int, ...]
    gathered_bytes: int = 0  # what the samples inside the images read, corner by corner

    @property
    def compulsory_bytes(self) -> int:
        """Each input read once, the output written once (FP16)."""
        return sum(t.numel() * t.element_size() for t in self.inputs) + 2 * int(np.prod(self.shape))

    @property
    def operations(self) -> int:
        """One multiplication and one addition for each number gathered; the rest is small beside them."""
        return 2 * self.gathered_bytes // self.inputs[0].element_size()


def values(shape: Sequence[int], dtype: str, device: str) -> torch.Tensor:
    if dtype == "int8":
        return torch.randint(-128, 128, tuple(shape), dtype=torch.int8, device=device)
    return torch.randn(tuple(shape), device=device).to(TORCH[dtype])


def aux_type(dtype: str) -> torch.dtype:
    """Offsets and logits: FP16 wherever anything is narrower than FP32."""
    return torch.float32 if dtype == "float32" else torch.float16


def scale_of(dtype: str) -> dict[str, float]:
    return {"value_scale": SCALE} if dtype == "int8" else {}


def rig(image_hw: tuple[int, int], device: str) -> torch.Tensor:
    """lidar2img of six cameras looking outwards as on nuScenes cars: 70 degrees wide each, the rear one wider."""
    height, width = image_hw
    matrices = []
    for yaw_deg, view_deg in ((90, 70), (35, 70), (145, 70), (-90, 110), (-160, 70), (-20, 70)):
        yaw = np.radians(yaw_deg)
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        rotation = np.stack([[np.sin(yaw), -np.cos(yaw), 0.0], [0.0, 0.0, -1.0], forward])
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = rotation
        extrinsic[:3, 3] = -rotation @ (0.9 * forward + np.array([0.0, 0.0, -0.3]))
        focal = width / 2 / np.tan(np.radians(view_deg / 2))
        intrinsic = np.array([[focal, 0, width / 2, 0], [0, focal, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        matrices.append(intrinsic @ extrinsic)
    return torch.tensor(np.stack(matrices), dtype=torch.float32, device=device)


def cell_centres(bev_hw: tuple[int, int], device: str) -> torch.Tensor:
    height, width = bev_hw
    y, x = torch.meshgrid(
        (torch.arange(height, device=device) + 0.5) / height, (torch.arange(width, device=device) + 0.5) / width,
        indexing="ij",
    )  # fmt: skip
    return torch.stack([x, y], -1).reshape(-1, 2)


def count_gathered(location: torch.Tensor, shapes: Sequence[tuple[int, int]], bytes_a_corner: int) -> int:
    """Bytes of all corners inside, for locations [..., L, P, 2] as fractions."""
    corners = 0
    for level, (height, width) in enumerate(shapes):
        at = location[..., level, :, :].float() * torch.tensor([width, height], device=location.device) - 0.5
        low = at.floor()
        size = torch.tensor([width, height], device=location.device)
        inside = ((low >= 0) & (low < size)).int() + ((low + 1 >= 0) & (low + 1 < size)).int()  # per axis: 0, 1, 2
        corners += int((inside[..., 0].long() * inside[..., 1]).sum())
    return corners * bytes_a_corner


def spatial(spec: VariantSpec, dtype: str, device: str) -> Case:
    shapes = spec.feature_hws
    tokens = sum(h * w for h, w in shapes)
    cells, heads, points = spec.bev_cells, spec.heads, spec.spatial_points
    aux = aux_type(dtype)
    case = Case(
        "SpatialCrossAttn", spec.name, dtype,
        [
            values((CAMERAS, tokens, heads, spec.head_dim), dtype, device),
            rig(spec.image_hw, device),
            # Trained offsets start as a ring of one to `points` pixels and stay a few pixels wide.
            (torch.randn((cells, heads, len(shapes), points, 2), device=device) * 2.5).to(aux),
            torch.randn((cells, heads, len(shapes) * points), device=device).to(aux),
        ],
        {
            "spatial_shapes": [extent for shape in shapes for extent in shape],
            "bev_h": spec.bev_hw[0], "bev_w": spec.bev_hw[1],
            "pc_range": spec.pc_range, "z_anchors": spec.pillar_heights,
            "image_h": spec.image_hw[0], "image_w": spec.image_hw[1], **scale_of(dtype),
        },
        (cells, spec.embed_dim),
    )  # fmt: skip
    geometry = Geometry(spec, device)
    where, seen = geometry.project(case.inputs[1])
    sizes = geometry.sizes
    for camera in range(CAMERAS):
        hit = seen[camera].nonzero().flatten()
        anchor = torch.arange(points, device=device) % spec.pillar_points
        location = where[camera, hit][:, None, None, anchor] + case.inputs[2][hit].float() / sizes[:, None]
        case.gathered_bytes += count_gathered(location, shapes, spec.head_dim * case.inputs[0].element_size())
    return case


def temporal(spec: VariantSpec, dtype: str, device: str) -> Case:
    cells, heads, points = spec.bev_cells, spec.heads, spec.temporal_points
    aux = aux_type(dtype)
    centres = cell_centres(spec.bev_hw, device)
    case = Case(
        "TemporalSelfAttn", spec.name, dtype,
        [
            values((2, cells, heads, spec.head_dim), dtype, device),
            torch.stack([centres + torch.tensor([0.01, -0.02], device=device), centres]).float(),
            (torch.randn((cells, heads, 2, points, 2), device=device) * 2).to(aux),
            torch.randn((cells, heads, 2, points), device=device).to(aux),
        ],
        {"bev_h": spec.bev_hw[0], "bev_w": spec.bev_hw[1], **scale_of(dtype)},
        (cells, spec.embed_dim),
    )  # fmt: skip
    size = torch.tensor([spec.bev_hw[1], spec.bev_hw[0]], device=device)
    for frame in (0, 1):
        location = case.inputs[1][frame][:, None, None, None] + case.inputs[2][:, :, frame, None].float() / size
        corner = spec.head_dim * case.inputs[0].element_size()
        case.gathered_bytes += count_gathered(location, [spec.bev_hw], corner)
    return case


def decoder(spec: VariantSpec, dtype: str, device: str) -> Case:
    heads, points = spec.heads, spec.decoder_points
    aux = aux_type(dtype)
    case = Case(
        "MSDeformAttn", spec.name, dtype,
        [
            values((1, spec.bev_cells, heads, spec.head_dim), dtype, device),
            torch.rand((1, spec.queries, 2), device=device),
            (torch.randn((1, spec.queries, heads, 1, points, 2), device=device) * 2).to(aux),
            torch.randn((1, spec.queries, heads, points), device=device).to(aux),
        ],
        {"spatial_shapes": list(spec.bev_hw), **scale_of(dtype)},
        (1, spec.queries, spec.embed_dim),
    )  # fmt: skip
    size = torch.tensor([spec.bev_hw[1], spec.bev_hw[0]], device=device)
    location = case.inputs[1][:, :, None, None, None] + case.inputs[2].float() / size
    corner = spec.head_dim * case.inputs[0].element_size()
    case.gathered_bytes = count_gathered(location, [spec.bev_hw], corner)
    return case


def deform_sample(spec: VariantSpec, dtype: str, device: str) -> Case | None:
    """The deformable convolutions of stage 3, where most of them are."""
    if not spec.backbone.dcn_stages:
        return None
    channels = spec.backbone.width * 4
    height, width = -(-spec.image_hw[0] // 16), -(-spec.image_hw[1] // 16)
    aux = aux_type(dtype)
    square = {"kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}
    x = values((CAMERAS, channels, height, width), dtype, device)
    case = Case(
        "ModulatedDeformSample", spec.name, dtype,
        [
            x,
            torch.randn((CAMERAS, 18, height, width), device=device).to(aux),
            torch.rand((CAMERAS, 9, height, width), device=device).to(aux),
        ],
        {**square, **scale_of(dtype)},
        (CAMERAS, channels * 9, height, width),
    )  # fmt: skip
    case.gathered_bytes = (
        CAMERAS * channels * 9 * height * width * 4 * x.element_size()
    )  # nearly all corners are inside
    return case


MAKERS: tuple[Callable[[VariantSpec, str, str], Case | None], ...] = (spatial, temporal, decoder, deform_sample)


# ----------------------------------------------------------------------------------------------------------------------
# The other ways to SpatialCrossAttn


class Geometry:
    """What does not change from frame to frame: made once, untimed."""

    def __init__(self, spec: VariantSpec, device: str) -> None:
        low, high = torch.tensor(spec.pc_range, device=device).reshape(2, 3)
        ground = cell_centres(spec.bev_hw, device) * (high[:2] - low[:2]) + low[:2]
        z = torch.tensor(spec.pillar_heights, device=device)
        cells, anchors = len(ground), len(z)
        self.anchors = anchors
        self.points = torch.cat(
            [ground[:, None].expand(-1, anchors, 2), z[None, :, None].expand(cells, -1, 1),
             torch.ones((cells, anchors, 1), device=device)], -1
        ).reshape(-1, 4)  # fmt: skip
        self.image_wh = torch.tensor(spec.image_hw[::-1], device=device, dtype=torch.float32)
        self.sizes = torch.tensor([[w, h] for h, w in spec.feature_hws], device=device, dtype=torch.float32)

    def project(self, lidar2img: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each anchor appears [N, Q, Z, 2], and which camera sees which query [N, Q]."""
        camera = (self.points @ lidar2img.transpose(1, 2)).unflatten(1, (-1, self.anchors))  # [N, Q, Z, 4]
        depth = camera[..., 2:3]
        uv = camera[..., :2] / depth.clamp(min=1e-5) / self.image_wh
        visible = (depth[..., 0] > 1e-5) & (uv > 0).all(-1) & (uv < 1).all(-1)
        return uv.clamp(-2, 3), visible.any(-1)


def mean_over_cameras(per_camera: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    return (per_camera * seen[..., None]).sum(0) / seen.sum(0).clamp(min=1)[:, None]


class OtherWay:
    """A way to SpatialCrossAttn other than its kernel; calling it gives the output."""

    def __init__(self, case: Case, spec: VariantSpec, float_type: torch.dtype) -> None:
        self.case, self.spec, self.float_type = case, spec, float_type
        self.geometry = Geometry(spec, str(case.inputs[0].device))
        scale = SCALE if case.dtype == "int8" else 1.0
        self.value = (case.inputs[0].float() * scale).to(float_type)


class PeerWay(OtherWay):
    """Through the generic kernel, on all cameras and queries, in three steps."""

    def __init__(self, case: Case, spec: VariantSpec, run: Callable[[Case, torch.Tensor], None]) -> None:
        super().__init__(case, spec, torch.float32 if case.dtype == "float32" else torch.float16)
        self.run = run
        device = self.value.device
        self.middle = torch.full((CAMERAS, spec.bev_cells, 2), 0.5, device=device)
        self.offsets = torch.empty((CAMERAS, *case.inputs[2].shape), dtype=self.float_type, device=device)
        self.out = torch.empty((CAMERAS, spec.bev_cells, spec.embed_dim), dtype=self.float_type, device=device)
        self.prepare()

    def prepare(self) -> None:
        where, self.seen = self.geometry.project(self.case.inputs[1])
        # Pixels from the middle of each level: (where - 0.5) * size + offset; point p belongs to anchor p % Z.
        folded = (-1, self.geometry.anchors)
        torch.addcmul(
            self.case.inputs[2].unflatten(3, folded)[None],
            (where - 0.5)[:, :, None, None, None],
            self.geometry.sizes[:, None, None],
            out=self.offsets.unflatten(4, folded),
        )
        logits = self.case.inputs[3].to(self.float_type)[None].expand(CAMERAS, -1, -1, -1).contiguous()
        self.generic = Case(
            "MSDeformAttn", self.spec.name, "float32" if self.float_type is torch.float32 else "float16",
            [self.value, self.middle, self.offsets, logits],
            {"spatial_shapes": self.case.attributes["spatial_shapes"]},
            tuple(self.out.shape),
        )  # fmt: skip

    def kernel(self) -> None:
        self.run(self.generic, self.out)

    def finish(self) -> torch.Tensor:
        return mean_over_cameras(self.out, self.seen)

    def around(self) -> torch.Tensor:
        """All but the kernel."""
        self.prepare()
        return self.finish()

    def __call__(self) -> torch.Tensor:
        self.prepare()
        self.kernel()
        return self.finish()


class SampleWay(OtherWay):
    """torch's grid_sample, level by level."""

    def __init__(self, case: Case, spec: VariantSpec) -> None:
        on_cpu = case.inputs[0].device.type == "cpu"
        super().__init__(case, spec, torch.float32 if case.dtype == "float32" or on_cpu else torch.float16)
        # Head by head, level by level as images: a layout that this way may choose for itself.
        self.planes = []
        start = 0
        for height, width in spec.feature_hws:
            plane = self.value[:, start : start + height * width].permute(0, 2, 3, 1)
            self.planes.append(plane.reshape(CAMERAS * spec.heads, spec.head_dim, height, width).contiguous())
            start += height * width

    def __call__(self) -> torch.Tensor:
        spec, levels = self.spec, len(self.planes)
        heads, cells, folded = spec.heads, spec.bev_cells, (-1, self.geometry.anchors)
        where, seen = self.geometry.project(self.case.inputs[1])
        offsets = self.case.inputs[2].unflatten(3, folded)
        weights = self.case.inputs[3].softmax(-1).reshape(cells, heads, levels, -1).to(self.float_type)
        total = torch.zeros((CAMERAS, heads, spec.head_dim, cells), dtype=self.float_type, device=self.value.device)
        for level, plane in enumerate(self.planes):
            location = where[:, :, None, None] + offsets[None, :, :, level] / self.geometry.sizes[level]
            grid = (2 * location - 1).transpose(1, 2).reshape(CAMERAS * heads, cells, -1, 2).to(self.float_type)
            samples = F.grid_sample(plane, grid, align_corners=False).reshape(CAMERAS, heads, spec.head_dim, cells, -1)
            total += (samples * weights[:, :, level].transpose(0, 1)[None, :, None]).sum(-1)
        return mean_over_cameras(total.permute(0, 3, 1, 2).flatten(2), seen)


# ----------------------------------------------------------------------------------------------------------------------
# Running and timing


class Runner:
    """Runs a case's kernel on the GPU, or its body on the CPU."""

    def __init__(self, library: PluginLibrary, device: str) -> None:
        self.library = library
        self.device = device

    def __call__(self, case: Case, out: torch.Tensor) -> None:
        if self.device == "cpu":
            inputs = [tensor.contiguous().numpy() for tensor in case.inputs]
            self.library.run(case.op, inputs, case.attributes, out.numpy(), threads=2)
            return
        tensors = [DeviceTensor(t.data_ptr(), tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in case.inputs]
        where = DeviceTensor(out.data_ptr(), tuple(out.shape), str(out.dtype).removeprefix("torch."))
        stream = torch.cuda.current_stream().cuda_stream
        self.library.launch(case.op, tensors, case.attributes, where, stream=stream)


LAUNCHES = 10  # in a graph that is timed with a warm cache


def captured(action: Callable[[], Any], launches: int) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            action()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(launches):
            action()
    return graph


def replay_ms(graph: torch.cuda.CUDAGraph, *, runs: int, before: Callable[[], Any] | None = None) -> float:
    """Median time of a replay; `before` runs each time, untimed."""
    times = []
    for _ in range(runs + 3):
        if before is not None:
            before()
        # The GPU waits (about a tenth of a millisecond) until all that follows is queued.
        torch.cuda._sleep(200_000)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[3:])


def warm_ms(action: Callable[[], Any], runs: int) -> float:
    return replay_ms(captured(action, LAUNCHES), runs=runs) / LAUNCHES


def cold_ms(action: Callable[[], Any], runs: int) -> float:
    flush = torch.empty(3 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.int8, device="cuda")
    return replay_ms(captured(action, 1), runs=runs, before=flush.zero_)


def copy_bandwidth() -> float:
    """Bytes read plus bytes written a second by a large copy on this GPU."""
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (warm_ms(lambda: target.copy_(source), 5) * 1e-3)


# Four threads read one row of 64 bytes, 16 bytes each as in the kernels, eight rows in flight; rows come from a random
# number generator in registers, so nothing but the rows is read.
GATHER_SOURCE = r"""
#include <cuda_runtime.h>

__global__ void __launch_bounds__(128) gather(const uint4* rows, unsigned count, int loads, uint4* out)
{
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned state = (thread / 4U) * 2654435761U + 12345U;
    uint4 sum = make_uint4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = 0; i < loads; ++i) {
        state = state * 1664525U + 1013904223U;
        const uint4 v = __ldg(rows + 4ULL * __umulhi(state, count) + thread % 4U);
        sum.x ^= v.x;
        sum.y ^= v.y;
        sum.z ^= v.z;
        sum.w ^= v.w;
    }
    out[thread] = sum;
}

extern "C" int run(const void* rows, unsigned count, int loads, void* out, int blocks, void* stream)
{
    gather<<<blocks, 128, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const uint4*>(rows), count, loads, static_cast<uint4*>(out));
    return cudaGetLastError();
}
"""


def compile_gather(folder: Path, compiler: Path, architecture: str) -> Path:
    (folder / "gather.cu").write_text(GATHER_SOURCE, encoding="utf-8")
    made = folder / "libgather.so"
    command = [str(compiler), "-O3", "-shared", "-Xcompiler=-fPIC", f"-arch=sm_{architecture}", "-o", str(made)]
    subprocess.run([*command, str(folder / "gather.cu")], check=True)
    return made


class RandomGather:
    """Bytes a second of random 64-byte reads, by how much memory they are spread over."""

    LOADS = 64

    def __init__(self, compiler: Path) -> None:
        gpu = torch.cuda.get_device_properties(0)
        with tempfile.TemporaryDirectory() as folder:  # once loaded, the file may go
            self._run = ctypes.CDLL(str(compile_gather(Path(folder), compiler, f"{gpu.major}{gpu.minor}"))).run
        self._blocks = 64 * gpu.multi_processor_count
        self._known: dict[int, float] = {}

    def bandwidth(self, size: int) -> float:
        """For `size` bytes, rounded up to a power of two from a megabyte on."""
        size = 1 << max(20, (size - 1).bit_length())
        if size not in self._known:
            rows = torch.zeros(size, dtype=torch.int8, device="cuda")
            out = torch.empty(16 * 128 * self._blocks, dtype=torch.int8, device="cuda")

            def action() -> None:
                stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
                arguments = ctypes.c_void_p(rows.data_ptr()), ctypes.c_uint32(size // 64), self.LOADS
                error = self._run(*arguments, ctypes.c_void_p(out.data_ptr()), self._blocks, stream)
                if error != 0:
                    raise SystemExit(f"the gather kernel did not start: CUDA error {error}")

            read = 16 * 128 * self._blocks * self.LOADS
            self._known[size] = read / (warm_ms(action, 10) * 1e-3)
        return self._known[size]


def driver_version() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"  # Jetson has no nvidia-smi; its driver is the L4T release


# FP16 outputs and locations round; a camera that two ways disagree to see moves a cell by far more than that.
ALLOWED = {"float32": 1e-3, "float16": 5e-2, "int8": 5e-2}


def compare(case: Case, spec: VariantSpec, runner: Runner) -> dict[str, float]:
    """The largest differences, relative to the largest output, between the ways; a few cells on borders aside."""
    ours = torch.empty(case.shape, dtype=torch.float32, device=case.inputs[0].device)
    runner(case, ours)
    errors = {}
    for name, way in (("peer", PeerWay(case, spec, runner)), ("sample", SampleWay(case, spec))):
        theirs = way().float()
        difference = (ours - theirs).abs().amax(-1) / theirs.abs().max()
        # A cell whose anchor lies on an image's border to the last bit may be seen in one way and not in the other.
        errors[name] = float(difference.sort().values[int(0.999 * (len(difference) - 1))])
        if not errors[name] <= ALLOWED[case.dtype]:
            raise SystemExit(f"{case.op} {case.variant} {case.dtype}: '{name}' differs by {errors[name]:.3g}")
    return errors


def others(case: Case, spec: VariantSpec, runner: Runner, runs: int) -> dict[str, float]:
    """Warm and cold times of the other ways, in microseconds."""
    peer = PeerWay(case, spec, runner)  # leaves the kernel's inputs prepared
    times = {
        "peer_kernel_us": warm_ms(peer.kernel, runs),
        "peer_prepare_us": warm_ms(peer.around, runs),
        "peer_us": warm_ms(peer, runs),
        "peer_cold_us": cold_ms(peer, runs),
    }
    del peer
    torch.cuda.empty_cache()
    sample = SampleWay(case, spec)
    times |= {"sample_us": warm_ms(sample, runs), "sample_cold_us": cold_ms(sample, runs)}
    return {name: round(1e3 * time, 2) for name, time in times.items()}


def measure(
    case: Case, spec: VariantSpec, runner: Runner, copy_speed: float, gather: RandomGather, runs: int
) -> dict[str, Any]:
    out_type = torch.float32 if case.dtype == "float32" else torch.float16
    out = torch.full(case.shape, float("nan"), dtype=out_type, device="cuda")
    runner(case, out)
    torch.cuda.synchronize()
    if not torch.isfinite(out).all():
        raise SystemExit(f"{case.op} {case.variant} {case.dtype} left elements unwritten")
    warm = warm_ms(lambda: runner(case, out), runs)
    cold = cold_ms(lambda: runner(case, out), runs)
    value = case.inputs[0]
    gather_speed = gather.bandwidth(value.numel() * value.element_size())
    gathered_speed = case.gathered_bytes / (warm * 1e-3)
    result: dict[str, Any] = {
        "op": case.op, "variant": case.variant, "dtype": case.dtype,
        "warm_us": round(1e3 * warm, 2), "cold_us": round(1e3 * cold, 2),
        "compulsory_mb": round(case.compulsory_bytes / 1e6, 2), "gathered_mb": round(case.gathered_bytes / 1e6, 2),
        "operations_m": round(case.operations / 1e6, 2), "gops_warm": round(case.operations / warm / 1e6, 1),
        "gathered_gb_s_warm": round(gathered_speed / 1e9, 1),
        "floor_us": round(1e6 * case.compulsory_bytes / copy_speed, 2),
        "floor_over_cold": round(1e3 * case.compulsory_bytes / copy_speed / cold, 3),
        "random_gather_gb_s": round(gather_speed / 1e9, 1),
        "gather_over_random_gather": round(gathered_speed / gather_speed, 3),
        "gather_over_copy_bandwidth": round(gathered_speed / copy_speed, 3),
    }  # fmt: skip
    if case.op == "SpatialCrossAttn":
        result["differences"] = compare(case, spec, runner)
        torch.cuda.empty_cache()
        times = others(case, spec, runner, max(5, runs // 5))
        result |= times
        result["peer_over_ours"] = round(times["peer_us"] / (1e3 * warm), 2)
        result["peer_over_ours_cold"] = round(times["peer_cold_us"] / (1e3 * cold), 2)
        result["peer_kernel_over_ours"] = round(times["peer_kernel_us"] / (1e3 * warm), 2)
        result["sample_over_ours"] = round(times["sample_us"] / (1e3 * warm), 2)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", choices=tuple(VARIANTS))
    parser.add_argument("--dtype", action="append", choices=("float32", "float16", "int8"))
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--check-only", action="store_true", help="compare the ways on the CPU; time nothing")
    args = parser.parse_args(arguments)
    library = PluginLibrary()
    torch.manual_seed(0)
    dtypes = args.dtype or ["float16", "int8", "float32"]
    if args.check_only:
        for name in args.variant or ["micro"]:
            for dtype in dtypes:
                case = spatial(VARIANTS[name], dtype, "cpu")
                print(name, dtype, compare(case, VARIANTS[name], Runner(library, "cpu")))
        return 0
    if not torch.cuda.is_available() or not library.info.cuda_architectures:
        print("error: needs a GPU, torch with CUDA, and a plugin library built with CUDA", file=sys.stderr)
        return 4
    compiler = nvcc()
    if compiler is None:
        print("error: needs nvcc, to compile the measurement of random reads", file=sys.stderr)
        return 4
    bandwidth = copy_bandwidth()
    gather = RandomGather(compiler[0])
    runner = Runner(library, "cuda")
    results = []
    for name in args.variant or list(VARIANTS):
        for maker in MAKERS:
            for dtype in dtypes:
                case = maker(VARIANTS[name], dtype, "cuda")
                if case is None:
                    continue
                result = measure(case, VARIANTS[name], runner, bandwidth, gather, 20 if args.quick else 100)
                results.append(result)
                print(" ".join(f"{key}={value}" for key, value in result.items()), flush=True)
                del case
                torch.cuda.empty_cache()
    gpu = torch.cuda.get_device_properties(0)
    record.write(
        "kernels",
        {
            "gpu": gpu.name,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "driver": driver_version(),
            "cuda": torch.version.cuda,
            "library": {key: value for key, value in library.info.to_dict().items() if key != "path"},
            "copy_gb_s": round(bandwidth / 1e9, 1),
            "kernels": results,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
