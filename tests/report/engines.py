"""Layers of an engine that nobody built: a backbone, an encoder with our plugins, a decoder, and reformats between."""

from __future__ import annotations

from qdbev_deploy.engine.interface import Layer, TensorRecord

ATTENTION = "pts_bbox_head.transformer.encoder.layers.0.attentions.1.deformable_attention/SpatialCrossAttn"


def tensor(name: str, dtype: str = "int8", shape: tuple[int, ...] = (6, 64, 12, 20)) -> TensorRecord:
    return TensorRecord(name, dtype, shape, "kCHW32" if dtype == "int8" else "")


def engine_layers(blocks: int = 4) -> tuple[Layer, ...]:
    """A chain of convolutions with skips, then attention by a plugin between reformats, then two branches."""
    layers = []
    last = "image"
    for index in range(blocks):
        name, out = f"img_backbone.layer1.{index}.conv1/Conv", f"c{index}"
        reads = (tensor(last), *((tensor(f"c{index - 2}"),) if index >= 2 else ()))
        layers.append(Layer(name, "CaskConvolution", "int8", (name,), reads, (tensor(out),),
                            "sm80_xmma_fprop_implicit_gemm_<&>", 36_864, 200_000_000, 0.2 + 0.01 * index))  # fmt: skip
        last = out
    layers += [
        Layer("Reformatting CopyNode 1", "Reformat", "", (), (tensor(last),), (tensor("r1", "float16"),)),
        Layer("Shuffle 2", "Shuffle", "", (), (tensor("r1", "float16"),), (tensor("r2", "float16"),), time_ms=0.05),
        Layer(ATTENTION, "PluginV2", "mixed", (ATTENTION,), (tensor("r2", "int8"), tensor("lidar2img", "float32")),
              (tensor("a", "float16"),), time_ms=1.5),
    ]  # fmt: skip
    for index, branch in enumerate(("cls_branches", "reg_branches")):
        name = f"pts_bbox_head.{branch}.2.0/Gemm"
        out = tensor(f"out{index}", "float16", (1, 1, 300, 10))
        layers.append(Layer(name, "MatrixMultiply", "float16", (name,), (tensor("a", "float16"),), (out,),
                            weight_bytes=5000, macs=1_000_000, time_ms=0.01))  # fmt: skip
    return tuple(layers)
