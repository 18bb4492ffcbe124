"""What the proof records of a quantised model: the integers that its own forwards stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qdbev_deploy.export import ExportOptions, debug_copy, export_onnx
from qdbev_deploy.export.debug_copy import recording_integers
from qdbev_deploy.export.streaming_graph import StreamingGraph, graph_inputs
from qdbev_deploy.quant.quantise import activation_quantizers
from qdbev_deploy.quant.quantizers import ActivationQuantizer
from qdbev_deploy.reference import Feeds
from tests.drive import frames
from tests.export.students import PLAIN, student


def step(graph: StreamingGraph) -> list[Tensor]:
    frame = next(frames(PLAIN))
    state = torch.zeros(PLAIN.bev_cells, 1, PLAIN.embed_dim)
    feed = Feeds(graph_inputs(PLAIN, graph.options))(frame.image, state, False, torch.zeros(18), frame.lidar2img)
    with torch.inference_mode():
        return list(graph(*map(torch.from_numpy, feed.values())))


def test_integers_are_those_of_the_models_own_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_copy, "PIECE", 1000)  # so that tensors have whole pieces and a rest
    model, _ = student(PLAIN)
    graph, quantizers = StreamingGraph(model.eval(), ExportOptions()), activation_quantizers(model)
    seen: dict[str, Tensor] = {}
    handles = [
        quantizer.register_forward_hook(lambda module, _, output, name=name: seen.update({name: output / module.scale}))
        for name, quantizer in quantizers.items()
    ]
    plain = step(graph)
    for handle in handles:
        handle.remove()
    assert max(tensor.numel() for tensor in seen.values()) > 2000

    with recording_integers(model) as recorded:
        outputs = step(graph)
        integers = recorded.take({name: name for name in quantizers})
        assert recorded.take({name: name for name in quantizers}) == {}
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, plain, strict=True))
    assert integers.keys() == seen.keys()
    for name, array in integers.items():
        assert torch.equal(torch.from_numpy(array), seen[name].round().to(torch.int8)), name
    assert recorded.unlike == set()
    assert "img_backbone.layer1.0.conv1" in recorded.weights_used
    # Outside of the block the quantisers are as they were.
    assert all("forward" not in vars(quantizer) for quantizer in quantizers.values())


def test_while_paused_nothing_is_kept_and_what_the_file_lacks_is_told() -> None:
    model, _ = student(PLAIN)
    graph = StreamingGraph(model.eval(), ExportOptions())
    names = list(activation_quantizers(model))
    with recording_integers(model) as recorded:
        recorded.paused = True
        step(graph)
        assert recorded.take({name: name for name in names}) == {}
        recorded.paused = False
        step(graph)
        found = recorded.take({name: name for name in names[1:]})
    assert names[0] not in found
    assert recorded.lost == {names[0]}


def floored(quantizer: ActivationQuantizer, x: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mul(x, 1.0 / quantizer.scale, out=out).floor_().clamp_(quantizer.grid.qmin, quantizer.grid.qmax)


def test_a_quantiser_whose_forward_says_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActivationQuantizer, "rounded", floored)
    model, _ = student(PLAIN)
    with recording_integers(model) as recorded:
        step(StreamingGraph(model.eval(), ExportOptions()))
    assert "img_backbone.stem_tap" in recorded.unlike


def test_and_the_proof_fails_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ActivationQuantizer, "rounded", floored)
    model, recipe = student(PLAIN)
    report = export_onnx(model, tmp_path / "m.onnx", recipe=recipe, frames=frames(PLAIN, count=4))
    assert report.parity is not None
    words = "activation 'img_backbone.stem_tap': its quantiser gives other numbers"
    assert any(failure.startswith(words) for failure in report.parity.failures)
