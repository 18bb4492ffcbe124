"""Times the attention kernels on a GPU, beside the way others do it, and writes benchmarks/results/kernels.json.

    python benchmarks/kernels.py [--variant base ...] [--dtype int8 ...] [--quick]
    python benchmarks/kernels.py --check-only        no GPU: runs every path on the CPU and compares the results

For each op, variant and value type: median time with a warm and with a flushed L2 cache, the bytes that must move, the
bytes that the samples gather, and the share of this GPU's own copy bandwidth that this is. For SpatialCrossAttn, in the
same run and on the same inputs, two other ways to the same numbers:

  peer     six cameras x all queries: projection, offsets per camera, softmax, mask and mean as separate operations
           around a generic deformable-attention kernel. That kernel is ours too (MSDeformAttn), so the comparison is
           about what is moved and launched, not about whose inner loop is better.
  sample   torch's grid_sample, level by level, on all cameras and queries.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import record
import torch
from torch.nn import functional as F

from qdbev_deploy.contract import VARIANTS, VariantSpec
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
    where, seen = project(case, spec)
    sizes = torch.tensor([[w, h] for h, w in shapes], device=device)
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


def project(case: Case, spec: VariantSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each anchor appears [N, Q, Z, 2], and which camera sees which query [N, Q]."""
    lidar2img = case.inputs[1]
    low, high = torch.tensor(spec.pc_range, device=lidar2img.device).reshape(2, 3)
    ground = cell_centres(spec.bev_hw, str(lidar2img.device)) * (high[:2] - low[:2]) + low[:2]
    z = torch.tensor(spec.pillar_heights, device=lidar2img.device)
    points = torch.cat(
        [ground[:, None].expand(-1, len(z), 2), z[None, :, None].expand(len(ground), -1, 1),
         torch.ones((len(ground), len(z), 1), device=lidar2img.device)], -1
    )  # fmt: skip
    camera = (lidar2img[:, None, None] * points[None, :, :, None]).sum(-1)  # [N, Q, Z, 4]
    depth = camera[..., 2:3]
    uv = camera[..., :2] / depth.clamp(min=1e-5) / torch.tensor(spec.image_hw[::-1], device=lidar2img.device)
    visible = (depth[..., 0] > 1e-5) & (uv > 0).all(-1) & (uv < 1).all(-1)
    return uv.clamp(-2, 3), visible.any(-1)


def locations_of(case: Case, spec: VariantSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Sampling locations [N, Q, H, L, P, 2] of all cameras and queries, and the mask [N, Q]."""
    where, seen = project(case, spec)
    anchor = torch.arange(spec.spatial_points, device=where.device) % spec.pillar_points
    sizes = torch.tensor([[w, h] for h, w in spec.feature_hws], device=where.device)
    offsets = case.inputs[2].float() / sizes[:, None]
    return where[:, :, None, None, anchor] + offsets[None], seen


def mean_over_cameras(per_camera: torch.Tensor, seen: torch.Tensor, dtype: str) -> torch.Tensor:
    total = (per_camera * seen[..., None]).sum(0) / seen.sum(0).clamp(min=1)[:, None]
    return total * SCALE if dtype == "int8" else total


def peer_way(case: Case, spec: VariantSpec, run: Callable[[Case, torch.Tensor], None]) -> torch.Tensor:
    """FP16 (FP32 for float32) through the generic kernel, on all cameras and queries."""
    float_type = torch.float32 if case.dtype == "float32" else torch.float16
    value = case.inputs[0].to(float_type)
    location, seen = locations_of(case, spec)
    weights = case.inputs[3].softmax(-1)
    cells = spec.bev_cells
    sizes = torch.tensor([[w, h] for h, w in spec.feature_hws], device=value.device)
    generic = Case(
        "MSDeformAttn", spec.name, "float32" if float_type is torch.float32 else "float16",
        [
            value,
            torch.full((CAMERAS, cells, 2), 0.5, device=value.device),
            ((location - 0.5) * sizes[:, None]).to(float_type),
            # The generic kernel takes a softmax itself; of logarithms of weights it returns the weights.
            weights.log()[None].expand(CAMERAS, -1, -1, -1).to(float_type).contiguous(),
        ],
        {"spatial_shapes": case.attributes["spatial_shapes"]},
        (CAMERAS, cells, spec.embed_dim),
    )  # fmt: skip
    out = torch.empty(generic.shape, dtype=float_type, device=value.device)
    run(generic, out)
    return mean_over_cameras(out, seen, case.dtype)


def sample_way(case: Case, spec: VariantSpec) -> torch.Tensor:
    float_type = torch.float32 if case.dtype == "float32" or case.inputs[0].device.type == "cpu" else torch.float16
    value = case.inputs[0].to(float_type)
    location, seen = locations_of(case, spec)
    heads, cells = spec.heads, spec.bev_cells
    weights = case.inputs[3].softmax(-1).reshape(cells, heads, len(spec.feature_hws), -1).to(float_type)
    total = torch.zeros((CAMERAS, heads, spec.head_dim, cells), dtype=float_type, device=value.device)
    start = 0
    for level, (height, width) in enumerate(spec.feature_hws):
        plane = value[:, start : start + height * width].permute(0, 2, 3, 1)
        plane = plane.reshape(CAMERAS * heads, spec.head_dim, height, width)
        start += height * width
        grid = (2 * location[:, :, :, level] - 1).transpose(1, 2).reshape(CAMERAS * heads, cells, -1, 2).to(float_type)
        samples = F.grid_sample(plane, grid, align_corners=False).reshape(CAMERAS, heads, spec.head_dim, cells, -1)
        total += (samples * weights[:, :, level].transpose(0, 1)[None, :, None]).sum(-1)
    return mean_over_cameras(total.permute(0, 3, 1, 2).flatten(2), seen, case.dtype)


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


def graph_ms(action: Callable[[], Any], *, runs: int, launches: int) -> float:
    """Median time of `action` from a CUDA graph of `launches` of them: no launch gaps, warm L2."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            action()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(launches):
            action()
    return event_ms(graph.replay, runs=runs) / launches


def event_ms(action: Callable[[], Any], *, runs: int, before: Callable[[], Any] | None = None) -> float:
    """Median time between two events around `action`; `before` runs each time, untimed."""
    times = []
    for _ in range(runs + 3):
        if before is not None:
            before()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        action()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[3:])


def copy_bandwidth() -> float:
    """Bytes read plus bytes written a second by a large copy on this GPU."""
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (event_ms(lambda: target.copy_(source), runs=20) * 1e-3)


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
    for name, way in (("peer", lambda: peer_way(case, spec, runner)), ("sample", lambda: sample_way(case, spec))):
        theirs = way().float()
        difference = (ours - theirs).abs().amax(-1) / theirs.abs().max()
        # A cell whose anchor lies on an image's border to the last bit may be seen in one way and not in the other.
        errors[name] = float(difference.sort().values[int(0.999 * (len(difference) - 1))])
        if not errors[name] <= ALLOWED[case.dtype]:
            raise SystemExit(f"{case.op} {case.variant} {case.dtype}: '{name}' differs by {errors[name]:.3g}")
    return errors


def measure(case: Case, spec: VariantSpec, runner: Runner, bandwidth: float, runs: int) -> dict[str, Any]:
    out_type = torch.float32 if case.dtype == "float32" else torch.float16
    out = torch.full(case.shape, float("nan"), dtype=out_type, device="cuda")
    runner(case, out)
    torch.cuda.synchronize()
    if not torch.isfinite(out).all():
        raise SystemExit(f"{case.op} {case.variant} {case.dtype} left elements unwritten")
    flush = torch.empty(3 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.int8, device="cuda")
    warm = graph_ms(lambda: runner(case, out), runs=runs, launches=10)
    cold = event_ms(lambda: runner(case, out), runs=runs, before=flush.zero_)
    result: dict[str, Any] = {
        "op": case.op, "variant": case.variant, "dtype": case.dtype,
        "warm_us": round(1e3 * warm, 2), "cold_us": round(1e3 * cold, 2),
        "compulsory_mb": round(case.compulsory_bytes / 1e6, 2), "gathered_mb": round(case.gathered_bytes / 1e6, 2),
        "gathered_gb_s_warm": round(case.gathered_bytes / warm / 1e6, 1),
        "floor_us": round(1e6 * case.compulsory_bytes / bandwidth, 2),
        "gather_over_copy_bandwidth": round(case.gathered_bytes / (warm * 1e-3) / bandwidth, 3),
    }  # fmt: skip
    if case.op == "SpatialCrossAttn":
        result["differences"] = compare(case, spec, runner)
        for name, way in (("peer", lambda: peer_way(case, spec, runner)), ("sample", lambda: sample_way(case, spec))):
            torch.cuda.empty_cache()
            time_ms = event_ms(way, runs=max(5, runs // 5))
            result[f"{name}_us"] = round(1e3 * time_ms, 1)
            result[f"{name}_over_ours"] = round(time_ms / warm, 2)
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
    bandwidth = copy_bandwidth()
    runner = Runner(library, "cuda")
    results = []
    for name in args.variant or list(VARIANTS):
        for maker in MAKERS:
            for dtype in dtypes:
                case = maker(VARIANTS[name], dtype, "cuda")
                if case is None:
                    continue
                result = measure(case, VARIANTS[name], runner, bandwidth, 20 if args.quick else 100)
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
