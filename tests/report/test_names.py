"""Names of layers in little room keep what tells them apart."""

from __future__ import annotations

import pytest

from qdbev_deploy.report.names import short_layer, shortened

HEAD = "pts_bbox_head.transformer"
NAMES = [
    *(f"{HEAD}.encoder.layers.{layer}.attentions.{place}.deformable_attention.{what}/MatMul/MatMulAddFusion"
      for layer in range(6) for place in range(2) for what in ("value_proj", "output_proj")),
    *(f"{HEAD}.decoder.layers.{layer}.ffns.0.layers.{place}/Gemm" for layer in range(6) for place in range(2)),
    *(f"{HEAD}.encoder.layers.{layer}.attentions.1.value_tap/{op}" for layer in range(6)
      for op in ("QuantizeLinear", "DequantizeLinear")),
    *(f"img_backbone.layer{stage}.{block}.middle_tap/DequantizeLinear" for stage in range(1, 5) for block in range(2)),
]  # fmt: skip


@pytest.mark.parametrize("letters", [32, 48])
def test_layers_stay_apart(letters: int) -> None:
    short = {short_layer(name, letters) for name in NAMES}
    assert len(short) == len(NAMES)
    assert max(map(len, short)) <= letters


@pytest.mark.parametrize(
    ("letters", "said"),
    [(80, f"{HEAD}.encoder.layers.3.ffns.0.layers.1/Gemm"), (40, "encoder.layers.3.ffns.0.layers.1/Gemm"),
     (30, "encoder.l3.f0.l1/Gemm"), (20, "encode…l3.f0.l1/Gemm")],
)  # fmt: skip
def test_no_shorter_than_it_must_be(letters: int, said: str) -> None:
    assert short_layer(f"{HEAD}.encoder.layers.3.ffns.0.layers.1/Gemm", letters) == said


def test_any_other_text_loses_its_middle() -> None:
    assert short_layer("a" * 20 + "b" * 20, 10) == shortened("a" * 20 + "b" * 20, 10) == "aaa…bbbbbb"
    assert shortened("short", 10) == "short"
