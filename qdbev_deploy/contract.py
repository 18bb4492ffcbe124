"""Names, shapes and dtypes of the streaming graph, the variants, the op schemas: the only place they are written.

Nothing here needs more than the standard library, so every room, on the training machine and in the car, leans on it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from qdbev_deploy.errors import QdbevError

CONTRACT_VERSION = 1

# The order indexes `cams_embeds`; it is the order of nuScenes' info files, not a clockwise walk around the car.
CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)

CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)

# What a raw box code holds, in metres, radians and metres per second; sizes are logarithms, z is the gravity centre.
BOX_CODE = ("cx", "cy", "log_w", "log_l", "cz", "log_h", "sin", "cos", "vx", "vy")

CAN_BUS_SIZE = 18


# ----------------------------------------------------------------------------------------------------------------------
# Preprocessing


@dataclass(frozen=True)
class PreprocessSpec:
    """How a camera frame becomes network input; the definition every implementation is held against.

    1. Take the frame as 8-bit RGB, `source_hw` pixels.
    2. Resize to `resized_hw` in float: bilinear between the two nearest pixels of each axis, pixel centres at half
       integers (`src = (dst + 0.5) * source / resized - 0.5`), coordinates clamped to the image, no antialiasing,
       no rounding of the result. OpenCV's INTER_LINEAR on float32 is the same function.
    3. Order the channels (`channel_order`), subtract `mean`, divide by `std` (both in that order).
    4. Pad with zeros (after normalising) at the bottom and the right to `padded_hw`.
    """

    channel_order: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    padded_hw: tuple[int, int]

    def __post_init__(self) -> None:
        if self.channel_order not in ("rgb", "bgr"):
            raise QdbevError(f"channel order '{self.channel_order}'", "rgb or bgr", "correct the preprocessing")
        if max(*self.source_hw, *self.padded_hw) > 20_000 or min(self.source_hw) < 1:
            raise QdbevError(
                f"images of {self.source_hw} padded to {self.padded_hw}",
                "sides of 1 to 20000",
                "correct the preprocessing",
            )
        for resized, padded in zip(self.resized_hw, self.padded_hw):
            if not 0 < resized <= padded:
                raise QdbevError(
                    f"a resized size of {self.resized_hw} with a padded size of {self.padded_hw}",
                    "0 < resized <= padded on both axes",
                    "correct the preprocessing specification",
                )
        if not (min(self.std) > 0 and all(map(math.isfinite, (*self.mean, *self.std)))):
            raise QdbevError(
                f"mean {self.mean}, std {self.std}",
                "finite means and positive deviations",
                "correct the preprocessing specification",
            )

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Factors by which the resize stretches x and y; `lidar2img` is multiplied by diag(sx, sy, 1, 1)."""
        return self.resized_hw[1] / self.source_hw[1], self.resized_hw[0] / self.source_hw[0]


IMAGENET_RGB_MEAN = (123.675, 116.28, 103.53)
IMAGENET_RGB_STD = (58.395, 57.12, 57.375)
CAFFE_BGR_MEAN = (103.53, 116.28, 123.675)
NUSCENES_HW = (900, 1600)


def _pytorch_style(resized_hw: tuple[int, int], padded_hw: tuple[int, int]) -> PreprocessSpec:
    return PreprocessSpec("rgb", IMAGENET_RGB_MEAN, IMAGENET_RGB_STD, NUSCENES_HW, resized_hw, padded_hw)


def _caffe_style(resized_hw: tuple[int, int], padded_hw: tuple[int, int]) -> PreprocessSpec:
    return PreprocessSpec("bgr", CAFFE_BGR_MEAN, (1.0, 1.0, 1.0), NUSCENES_HW, resized_hw, padded_hw)


# ----------------------------------------------------------------------------------------------------------------------
# Variants


@dataclass(frozen=True)
class BackboneSpec:
    """A ResNet: four stages at strides 4, 8, 16, 32."""

    block: Literal["basic", "bottleneck"]
    blocks: tuple[int, int, int, int]
    width: int  # channels of the stem and of the first stage before expansion
    style: Literal["pytorch", "caffe"]  # which convolution of a bottleneck carries the stride: the 3x3 or the first 1x1
    out_stages: tuple[int, ...]  # 1-based stages handed to the neck
    dcn_stages: tuple[int, ...] = ()  # 1-based stages whose 3x3 convolutions are modulated deformable
    frozen_stages: int = 1  # the stem and that many stages are not trained; 0 trains all
    frozen_norm: bool = True  # batch norm keeps its statistics and its affine parameters in training

    def __post_init__(self) -> None:
        if self.block not in ("basic", "bottleneck") or self.style not in ("pytorch", "caffe"):
            raise QdbevError(
                f"a backbone of block '{self.block}' and style '{self.style}'",
                "block basic or bottleneck, style pytorch or caffe",
                "correct the backbone's specification",
            )
        if not self.out_stages or not {*self.out_stages, *self.dcn_stages} <= {1, 2, 3, 4}:
            raise QdbevError(
                f"a backbone with out_stages {self.out_stages} and dcn_stages {self.dcn_stages}",
                "stages among 1, 2, 3, 4 and at least one handed out",
                "correct the backbone's specification",
            )

    @property
    def expansion(self) -> int:
        return 4 if self.block == "bottleneck" else 1

    def stage_channels(self, stage: int) -> int:
        return (self.width << (stage - 1)) * self.expansion

    @property
    def out_channels(self) -> tuple[int, ...]:
        return tuple(self.stage_channels(stage) for stage in self.out_stages)


@dataclass(frozen=True)
class VariantSpec:
    """Every size of a BEVFormer. The defaults are what tiny, small and base have in common."""

    name: str
    preprocess: PreprocessSpec
    backbone: BackboneSpec
    bev_hw: tuple[int, int]
    encoder_layers: int
    num_levels: int  # feature maps the neck hands on; those beyond the backbone's come from stride-2 convolutions
    embed_dim: int = 256
    heads: int = 8
    ffn_dim: int = 512
    decoder_layers: int = 6
    queries: int = 900
    level_embed_rows: int = 4  # official checkpoints keep four rows whatever num_levels is
    temporal_points: int = 4
    spatial_points: int = 8  # per head and level; a multiple of pillar_points
    pillar_points: int = 4
    decoder_points: int = 4
    pc_range: tuple[float, float, float, float, float, float] = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
    post_center_range: tuple[float, float, float, float, float, float] = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
    # Pixel (x, y) about which the previous BEV is turned. BEVFormer turns about (100, 100) whatever the grid, which is
    # off-centre on tiny and small; published weights were trained so. None means the grid's centre.
    rotate_center: tuple[float, float] | None = (100.0, 100.0)
    max_boxes: int = 300
    dropout: float = 0.1  # in training alone

    def __post_init__(self) -> None:
        def require(condition: bool, found: str, needed: str) -> None:
            if not condition:
                raise QdbevError(f"variant '{self.name}' has {found}", needed, "correct the variant's specification")

        sizes = (self.encoder_layers, self.decoder_layers, self.num_levels, self.temporal_points, self.decoder_points,
                 self.pillar_points, self.embed_dim, self.heads, self.queries, self.ffn_dim, self.max_boxes,
                 *self.bev_hw, *self.backbone.blocks, self.backbone.width)  # fmt: skip
        require(min(sizes) > 0, "a size that is not positive", "positive sizes")
        # Specifications are read from files: what no GPU could hold must not be tried.
        require(max(sizes) <= 100_000 and self.embed_dim <= 8192, "a size beyond reason", "sizes up to 100000")
        layers = (self.encoder_layers, self.decoder_layers, *self.backbone.blocks)
        require(max(layers) <= 64, "over 64 layers in a part or stage", "at most 64 layers")
        require(self.bev_cells <= 1_000_000, f"a BEV of {self.bev_cells} cells", "at most a million cells")
        require(0 <= self.dropout < 1, f"dropout {self.dropout}", "a share of at least 0 and below 1")
        for name in ("pc_range", "post_center_range"):
            limits = getattr(self, name)
            ordered = all(low < high for low, high in zip(limits[:3], limits[3:]))
            require(ordered and all(map(math.isfinite, limits)), f"{name} {limits}", "three rising, finite ranges")
        require(
            self.embed_dim % self.heads == 0,
            f"embed_dim {self.embed_dim} and {self.heads} heads",
            "embed_dim divisible by heads",
        )
        require(self.embed_dim % 2 == 0, f"embed_dim {self.embed_dim}", "an even embed_dim")
        require(
            self.spatial_points % self.pillar_points == 0,
            f"{self.spatial_points} spatial points on {self.pillar_points} pillar anchors",
            "spatial_points divisible by pillar_points",
        )
        require(
            len(self.backbone.out_stages) <= self.num_levels <= self.level_embed_rows,
            f"{self.num_levels} feature levels from {len(self.backbone.out_stages)} backbone stages",
            f"at least one level a stage and at most {self.level_embed_rows} levels",
        )
        require(
            self.max_boxes <= self.queries * len(CLASSES),
            f"max_boxes {self.max_boxes} of {self.queries} queries",
            "no more boxes than queries times classes",
        )

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.heads

    @property
    def image_hw(self) -> tuple[int, int]:
        """Size of the network's input images, padding included; projected points are normalised by it."""
        return self.preprocess.padded_hw

    @property
    def bev_cells(self) -> int:
        return self.bev_hw[0] * self.bev_hw[1]

    @property
    def rotate_center_xy(self) -> tuple[float, float]:
        return self.rotate_center if self.rotate_center else (self.bev_hw[1] / 2, self.bev_hw[0] / 2)

    @property
    def feature_hws(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of each feature level; every stride-2 layer rounds up."""
        height, width = self.image_hw
        hws = [(math.ceil(height / 2 ** (stage + 1)), math.ceil(width / 2 ** (stage + 1)))
               for stage in self.backbone.out_stages]  # fmt: skip
        while len(hws) < self.num_levels:
            hws.append((math.ceil(hws[-1][0] / 2), math.ceil(hws[-1][1] / 2)))
        return tuple(hws)

    @property
    def pillar_heights(self) -> tuple[float, ...]:
        """z in metres of the anchors of a BEV pillar: cell centres, half a metre inside pc_range at either end."""
        low, high = self.pc_range[2], self.pc_range[5]
        if self.pillar_points == 1:
            return (low + 0.5,)
        step = (high - low - 1.0) / (self.pillar_points - 1)
        return tuple(low + 0.5 + step * index for index in range(self.pillar_points))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any) -> VariantSpec:
        """The inverse of `to_dict`, also after a trip through JSON; what is no specification is refused."""
        _require_like(value, VARIANTS["base"].to_dict(), "variant")
        return cls(
            **{
                **{name: _as_tuple(item) for name, item in value.items()},
                "preprocess": PreprocessSpec(**{name: _as_tuple(item) for name, item in value["preprocess"].items()}),
                "backbone": BackboneSpec(**{name: _as_tuple(item) for name, item in value["backbone"].items()}),
            }
        )


def _as_tuple(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item


def _require_like(value: Any, template: Any, where: str) -> None:
    """Refuse what has other fields or other types than the template: specifications are read from files."""

    def refuse(found: str, needed: str) -> QdbevError:
        return QdbevError(
            f"a specification whose field '{where}' is {found}",
            needed,
            "export it again with this release of qdbev-deploy",
        )

    if isinstance(template, dict):
        if not isinstance(value, dict):
            raise refuse(f"a {type(value).__name__}", "a mapping")
        if set(value) != set(template):
            wrong = sorted(map(str, set(value) ^ set(template)))
            raise refuse(f"a mapping that differs in {', '.join(wrong)}", f"exactly the fields {', '.join(template)}")
        for name, item in value.items():
            _require_like(item, template[name], f"{where}.{name}")
    elif isinstance(template, tuple):
        if value is None and where == "variant.rotate_center":
            return
        # Lists of stages vary in length; everything else has as many entries as the template.
        if not isinstance(value, (tuple, list)) or (len(value) != len(template) and not where.endswith("_stages")):
            raise refuse(repr(value), f"{len(template)} entries")
        for item in value:
            _require_like(item, template[0], where)
    elif isinstance(value, bool) is not isinstance(template, bool) or not isinstance(
        value, (int, float) if isinstance(template, float) else type(template)
    ):
        raise refuse(repr(value), f"a {type(template).__name__}")


_R101_DCN: dict[str, Any] = {
    "block": "bottleneck", "blocks": (3, 4, 23, 3), "width": 64, "style": "caffe", "dcn_stages": (3, 4),
}  # fmt: skip

VARIANTS: dict[str, VariantSpec] = {
    spec.name: spec
    for spec in (
        VariantSpec(
            name="micro",
            preprocess=_pytorch_style((180, 320), (192, 320)),
            backbone=BackboneSpec("basic", (2, 2, 2, 2), 32, "pytorch", (3, 4), frozen_stages=0, frozen_norm=False),
            bev_hw=(50, 50),
            encoder_layers=2,
            num_levels=2,
            embed_dim=128,
            heads=4,
            ffn_dim=256,
            decoder_layers=3,
            queries=300,
            rotate_center=None,
            max_boxes=200,
        ),
        VariantSpec(
            name="tiny",
            preprocess=_pytorch_style((450, 800), (480, 800)),
            backbone=BackboneSpec("bottleneck", (3, 4, 6, 3), 64, "pytorch", (4,)),
            bev_hw=(50, 50),
            encoder_layers=3,
            num_levels=1,
        ),
        VariantSpec(
            name="small",
            preprocess=_caffe_style((720, 1280), (736, 1280)),
            backbone=BackboneSpec(**_R101_DCN, out_stages=(4,)),
            bev_hw=(150, 150),
            encoder_layers=3,
            num_levels=1,
        ),
        VariantSpec(
            name="base",
            preprocess=_caffe_style((900, 1600), (928, 1600)),
            backbone=BackboneSpec(**_R101_DCN, out_stages=(2, 3, 4)),
            bev_hw=(200, 200),
            encoder_layers=6,
            num_levels=4,
        ),
    )
}


def variant(name_or_spec: str | VariantSpec) -> VariantSpec:
    """The specification of that name; a specification is returned as it is."""
    if isinstance(name_or_spec, VariantSpec):
        return name_or_spec
    if name_or_spec not in VARIANTS:
        raise QdbevError(
            f"unknown variant '{name_or_spec}'",
            "one of " + ", ".join(VARIANTS),
            "pass --variant with one of these names",
        )
    return VARIANTS[name_or_spec]


# ----------------------------------------------------------------------------------------------------------------------
# The streaming graph


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the streaming graph."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    meaning: str


IO_CHOICES = ("fp32", "fp16", "mlperf")
IMAGE_CHOICES = ("float32", "uint8")
METADATA_PREFIX = "qdbev."  # of what an exported file says of itself


def stream_inputs(spec: VariantSpec, io: str = "fp32", image: str = "float32") -> tuple[TensorSpec, ...]:
    """Inputs of one streaming step, in positional order.

    `io` fp16 makes the state FP16, mlperf is what MLPerf's harness feeds and reads: the flag is a tensor without axes.
    `image` uint8 takes native camera frames.
    """
    height, width = spec.image_hw
    cams = len(CAMERAS)
    frames = TensorSpec(
        "image", "float32", (1, cams, 3, height, width), "normalised, padded camera frames, in CAMERAS order"
    )
    if image == "uint8":
        shape = (1, cams, *spec.preprocess.source_hw, 3)
        frames = TensorSpec("image", "uint8", shape, "native camera frames, RGB, in CAMERAS order")
    state = (spec.bev_cells, 1, spec.embed_dim)
    flag = () if io == "mlperf" else (1,)
    return (
        frames,
        TensorSpec("prev_bev", _state_dtype(io), state, "bev_embed of the last frame"),
        TensorSpec("use_prev_bev", "float32", flag, "0 on the first frame of a scene, else 1"),
        TensorSpec("can_bus", "float32", (CAN_BUS_SIZE,), "ego motion since the last frame"),
        TensorSpec("lidar2img", "float32", (1, cams, 4, 4), "projection to the resized image"),
    )


def _state_dtype(io: str) -> str:
    return "float16" if io == "fp16" else "float32"


def stream_outputs(spec: VariantSpec, io: str = "fp32") -> tuple[TensorSpec, ...]:
    """Outputs of one streaming step, in positional order: the last decoder layer's; under `io` mlperf every layer's."""
    layers = spec.decoder_layers if io == "mlperf" else 1
    return (
        TensorSpec("bev_embed", _state_dtype(io), (spec.bev_cells, 1, spec.embed_dim), "state for the next frame"),
        TensorSpec("outputs_classes", "float32", (layers, 1, spec.queries, len(CLASSES)), "class logits"),
        TensorSpec(
            "outputs_coords", "float32", (layers, 1, spec.queries, len(BOX_CODE)), "box codes, centres in metres"
        ),
    )


# ----------------------------------------------------------------------------------------------------------------------
# The BEV ops

OP_DOMAIN = "qdbev"
OP_VERSION = 1


@dataclass(frozen=True)
class OpSchema:
    """An op of the `qdbev` domain: inputs with symbolic shapes, attributes with their ONNX kinds, the output's shape.

    Symbols: B batch, S tokens of all levels, Q queries, H heads, D channels a head, L levels, P points a head and
    level, N cameras. FP32 unless the op says otherwise; `value` may be int8 where `value_scale` > 0, and so may the
    output of a plugin where `output_scale` > 0.
    """

    name: str
    inputs: dict[str, tuple[str | int, ...]]
    attributes: dict[str, Literal["int", "ints", "float", "floats"]]
    output: tuple[str | int, ...]
    does: str = field(repr=False, default="")
    # Optional (default 0), and only plugins have them: the ONNX functions always write floating point.
    engine_attributes: dict[str, Literal["float"]] = field(default_factory=lambda: {"output_scale": "float"})


OPS: dict[str, OpSchema] = {
    schema.name: schema
    for schema in (
        OpSchema(
            name="MSDeformAttn",
            inputs={
                "value": ("B", "S", "H", "D"),
                "reference_points": ("B", "Q", 2),  # x, y in 0..1, the same for every level
                "sampling_offsets": ("B", "Q", "H", "L", "P", 2),  # in pixels of the level
                "attention_logits": ("B", "Q", "H", "L*P"),
            },
            attributes={"spatial_shapes": "ints", "value_scale": "float"},
            output=("B", "Q", "H*D"),
            does="softmax over levels and points, bilinear gather with zero padding, weighted sum",
        ),
        OpSchema(
            name="TemporalSelfAttn",
            inputs={
                "value": (2, "S", "H", "D"),  # previous, current
                "reference_points": (2, "Q", 2),  # the previous frame's half carries the ego shift
                "sampling_offsets": ("Q", "H", 2, "P", 2),
                "attention_logits": ("Q", "H", 2, "P"),
            },
            attributes={"bev_h": "int", "bev_w": "int", "value_scale": "float"},
            output=("Q", "H*D"),
            does="deformable attention on both frames, softmax per frame, mean of the two",
        ),
        OpSchema(
            name="SpatialCrossAttn",
            inputs={
                "value": ("N", "S", "H", "D"),
                "lidar2img": ("N", 4, 4),
                # P = offsets a pillar anchor x anchors; the anchor varies fastest: point p belongs to anchor p % Z
                "sampling_offsets": ("Q", "H", "L", "P", 2),
                "attention_logits": ("Q", "H", "L*P"),
            },
            attributes={
                "spatial_shapes": "ints",  # h0, w0, h1, w1, ...
                "bev_h": "int",
                "bev_w": "int",
                "pc_range": "floats",
                "z_anchors": "floats",  # metres
                "image_h": "int",
                "image_w": "int",
                "value_scale": "float",
            },
            output=("Q", "H*D"),
            does="project the pillar, test visibility, gather from the cameras that see the query, mean over them",
        ),
        OpSchema(
            name="ModulatedDeformSample",
            # h, w: size of the output; K taps of the kernel; offsets as (dy, dx) per tap; masks already sigmoids
            inputs={"x": ("B", "C", "H", "W"), "offset": ("B", "2*K", "h", "w"), "mask": ("B", "K", "h", "w")},
            attributes={
                "kernel": "ints",
                "stride": "ints",
                "padding": "ints",
                "dilation": "ints",
                "value_scale": "float",
            },
            output=("B", "C*K", "h", "w"),  # channel c under tap k lies in row c * K + k
            does="columns of a modulated deformable convolution: x at each tap's own place, times the tap's mask",
        ),
    )
}
