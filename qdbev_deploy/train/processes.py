"""One process or many: started by torchrun, agreeing on gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import distributed, nn


@dataclass(frozen=True)
class World:
    """This process among the others."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The mean over processes; a parameter that one process did not use counts as zero there."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                distributed.all_reduce(parameter.grad)
                parameter.grad /= self.size

    def average_statistics(self, module: nn.Module) -> None:
        """The mean over processes of what batch norms have learned of their inputs: each saw other samples."""
        if self.size == 1:
            return
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.training:
                for statistics in (norm.running_mean, norm.running_var):
                    if statistics is not None:
                        distributed.all_reduce(statistics)
                        statistics /= self.size

    def share_state(self, module: nn.Module) -> None:
        """Everyone continues with the first process's parameters and statistics."""
        if self.size > 1:
            for tensor in [*module.parameters(), *module.buffers()]:
                distributed.broadcast(tensor.detach(), src=0)

    def close(self) -> None:
        if self.size > 1:
            distributed.destroy_process_group()


def join_world(device: str | None = None) -> World:
    """Join the group that torchrun describes in the environment; without one, be alone."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    where = torch.device(device or (f"cuda:{local}" if torch.cuda.is_available() else "cpu"))
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if size > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    return World(rank, size, where)
