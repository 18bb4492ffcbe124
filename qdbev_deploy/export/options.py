"""What an export can be asked for, and which of it fits together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from qdbev_deploy.contract import IMAGE_CHOICES, IO_CHOICES
from qdbev_deploy.errors import QdbevError

CARRIERS = ("int8", "int4")
CLIPS = ("exact", "relaxed")
OPSETS = range(17, 22)
DEFORM_CONV_OPSET = 19
INT4_OPSET = 21
DEFAULT_OPSET = 18


@dataclass(frozen=True)
class ExportOptions:
    """`opset` None: 18, 19 where a DeformConv is needed, 21 where integers of four bits are.

    `io`: fp16 makes prev_bev and bev_embed FP16; mlperf takes use_prev_bev as a tensor without axes and gives classes
    and boxes of every decoder layer, as that harness has it. `image`: uint8 takes native camera frames [1, 6, height,
    width, 3] (RGB, `source_hw` of the variant's PreprocessSpec) and resizes, normalises and pads them in the graph.
    `clip`: exact keeps every activation within its k bits; relaxed lets int8 alone saturate, which is a wider grid.
    """

    io: Literal["fp32", "fp16", "mlperf"] = "fp32"
    image: Literal["float32", "uint8"] = "float32"
    carrier: Literal["int8", "int4"] = "int8"
    clip: Literal["exact", "relaxed"] = "exact"
    opset: int | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("io", self.io, IO_CHOICES),
            ("image", self.image, IMAGE_CHOICES),
            ("carrier", self.carrier, CARRIERS),
            ("clip", self.clip, CLIPS),
        ):
            if value not in choices:
                raise QdbevError(f"{name} '{value}'", "one of " + ", ".join(choices), f"pass another --{name}")
        if self.opset is not None and self.opset not in OPSETS:
            raise QdbevError(
                f"opset {self.opset}",
                f"{OPSETS.start} to {OPSETS.stop - 1}, which TensorRT's parsers and ONNX Runtime both know",
                "leave --opset out",
            )
        if self.carrier == "int4" and self.opset not in (None, INT4_OPSET):
            raise QdbevError(
                f"--carrier int4 under opset {self.opset}",
                f"opset {INT4_OPSET}, the first with integers of four bits that any runtime takes",
                "leave --opset out, or pass --carrier int8",
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
