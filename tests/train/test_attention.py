"""The compiled attention against the one it stands in for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qdbev_deploy.ops import ms_deform_attn
from qdbev_deploy.ops.deform_attn import _attend
from qdbev_deploy.train.attention import compile_library, compiled_attention

CPU = torch.device("cpu")
SHAPES = ((5, 7), (3, 4))

needs_compiler = pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="no C++ compiler")


def arguments(anchors: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Two batch entries, three heads of eight channels; many samples lie on borders and outside."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 47, 3, 8, generator=generator)
    references = torch.rand(2, 11, anchors, 2, generator=generator) * 1.4 - 0.2
    offsets = torch.randn(2, 11, 3, 2, 4, 2, generator=generator) * 2
    weights = torch.rand(2, 11, 3, 2, 4, generator=generator)
    return [tensor.to(dtype).requires_grad_() for tensor in (value, references, offsets, weights)]


def result_and_gradients(inputs: list[Tensor]) -> list[Tensor]:
    output = _attend(*inputs, SHAPES)  # type: ignore[arg-type]
    (output.float() * torch.arange(output.numel()).reshape(output.shape).sin()).sum().backward()
    return [output.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]


@needs_compiler
@pytest.mark.parametrize("anchors", [1, 4])
def test_it_computes_what_torch_computes_and_all_gradients(anchors: int) -> None:
    theirs = result_and_gradients(arguments(anchors))
    with compiled_attention(CPU):
        ours = result_and_gradients(arguments(anchors))
    assert len(ours) == 5
    for mine, wanted in zip(ours, theirs):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_gradients_have_the_type_of_their_tensors() -> None:
    with compiled_attention(CPU):
        output, *gradients = result_and_gradients(arguments(1, torch.bfloat16))
    assert output.dtype == torch.float32  # the sum is not narrowed again
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16] * 4


@needs_compiler
def test_places_that_are_no_numbers_count_as_outside() -> None:
    value, references, offsets, weights = arguments(1)
    with torch.no_grad():
        offsets[0, 0] = float("nan")
        offsets[0, 1] = 1e30
    with compiled_attention(CPU):
        output = _attend(value, references, offsets, weights, SHAPES)
    assert not output[0, :2].any()
    assert torch.isfinite(output).all()


@needs_compiler
def test_the_ops_use_it_only_while_the_context_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    value, references, offsets, weights = (tensor.detach() for tensor in arguments(1))
    before = ms_deform_attn(value, references[:, :, 0], offsets, weights.flatten(-2), SHAPES)
    with compiled_attention(CPU):
        during = ms_deform_attn(value, references[:, :, 0], offsets, weights.flatten(-2), SHAPES)
    after = ms_deform_attn(value, references[:, :, 0], offsets, weights.flatten(-2), SHAPES)
    assert torch.equal(before, after)
    assert not torch.equal(before, during)  # sums in another order
    torch.testing.assert_close(before, during, rtol=1e-4, atol=1e-4)


def test_without_a_compiler_torch_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_library() is None
    inputs = arguments(1)
    wanted = _attend(*inputs, SHAPES)  # type: ignore[arg-type]
    with compiled_attention(CPU):
        assert torch.equal(_attend(*inputs, SHAPES), wanted)  # type: ignore[arg-type]


def test_a_compiler_that_fails_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert compile_library() is None
