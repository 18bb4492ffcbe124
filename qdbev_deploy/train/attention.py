"""Deformable attention compiled for training on a CPU, where torch's own ops take most of a step for it.

`attention.cpp` is compiled when a run begins, for the processor that it runs on. Without a C++ compiler training is
slower and computes the same, up to the order of float additions.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qdbev_deploy.ops.deform_attn import Shapes, attending_with

_FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fopenmp", "-shared", "-fPIC")


def compile_library() -> ctypes.CDLL | None:
    """The compiled functions; None without a compiler, or where it fails."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler:
        return None
    with tempfile.TemporaryDirectory(prefix="qdbev-attention-") as folder:
        library = Path(folder) / "attention.so"
        source = Path(__file__).with_suffix(".cpp")
        done = subprocess.run([compiler, *_FLAGS, str(source), "-o", str(library)], capture_output=True, check=False)
        return ctypes.CDLL(str(library)) if done.returncode == 0 else None


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class _Attend(torch.autograd.Function):
    """`ops.deform_attn`'s weighted sum; the compiled functions take contiguous float32."""

    @staticmethod
    def forward(ctx: Any, library: Any, shapes: Tensor, *tensors: Tensor) -> Tensor:
        value, references, offsets, weights = (tensor.detach().float().contiguous() for tensor in tensors)
        batch, tokens, heads, channels = value.shape
        queries, anchors = references.shape[1:3]
        levels, points = offsets.shape[3:5]
        ctx.library = library
        ctx.sizes = [batch, tokens, heads, channels, queries, levels, points, anchors, torch.get_num_threads()]
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        ctx.save_for_backward(shapes, value, references, offsets, weights)
        output = value.new_empty(batch, queries, heads * channels)
        addresses = map(_address, (value, references, offsets, weights, shapes, output))
        library.attend_forward(*addresses, *map(ctypes.c_int64, ctx.sizes))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        shapes, value, references, offsets, weights = ctx.saved_tensors
        incoming = gradients[0].float().contiguous()
        of_value, of_offsets, of_weights = torch.zeros_like(value), torch.empty_like(offsets), torch.empty_like(weights)
        addresses = map(
            _address, (value, references, offsets, weights, shapes, incoming, of_value, of_offsets, of_weights)
        )
        ctx.library.attend_backward(*addresses, *map(ctypes.c_int64, ctx.sizes))
        of_references = None
        if ctx.needs_input_grad[3]:
            # Offsets are in pixels of a level, references in fractions of it.
            pixels = shapes.flip(1).to(of_offsets.dtype)[:, None]  # [L, 1, 2] as width, height
            of_references = (of_offsets * pixels).sum(dim=(2, 3))  # [N, Q, P, 2]
            if references.shape[2] == 1:
                of_references = of_references.sum(dim=2, keepdim=True)
        found = (of_value, of_references, of_offsets, of_weights)
        return None, None, *(None if grad is None else grad.to(dtype) for grad, dtype in zip(found, ctx.dtypes))


@contextmanager
def _attending_with_library(library: ctypes.CDLL) -> Iterator[None]:
    def attend(value: Tensor, references: Tensor, offsets: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
        tensors = (torch.tensor(shapes), value, references, offsets, weights)
        output: Tensor = _Attend.apply(library, *tensors)  # type: ignore[no-untyped-call]
        return output

    with attending_with(attend):
        yield


def compiled_attention(device: torch.device) -> Any:
    """While the context is open, deformable attention runs compiled, where that is possible: on a CPU."""
    library = compile_library() if device.type == "cpu" else None
    return nullcontext() if library is None else _attending_with_library(library)
