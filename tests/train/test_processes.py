"""Two processes train what one trains with twice the batch."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import torch

from qdbev_deploy.train.processes import World, join_world
from tests.train.runs import ALONE, start, student, trainer

CASES = ("frozen", "student", "norms")


def trained(case: str, dataroot: Path, folder: Path, world: World) -> dict[str, Any]:
    """What a run of that kind has after its last step, and the gradients of each."""
    options: dict[str, Any] = {"queue": 2, "batch": 2 // world.size, "lr": 1e-4, "world": world, "warmup_steps": 1}
    if case == "student":
        run = student(dataroot, folder, distils=True, steps=3, **options)
    elif case == "frozen":
        run = trainer(dataroot, folder, steps=3, freeze_norm_from=0, **options)
    else:
        run = trainer(dataroot, folder, steps=1, **options)
    assert run.model.spec.dropout > 0
    if world.rank == 1:  # what the second begins with does not count
        with torch.no_grad():
            run.model.pts_bbox_head.query_embedding.weight.add_(1.0)
    gradients: list[dict[str, torch.Tensor]] = []
    if world.is_first:
        run.folder.begin(run.config.to_dict())
    run.run(
        on_step=lambda *_: gradients.append(
            {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
        )
    )
    return {"gradients": gradients, "model": run.model.state_dict(), "saved": run.folder.has_state}


def statistics(dataroot: Path, folder: Path, number: int) -> dict[str, torch.Tensor]:
    """What one sample makes of the norms."""
    run = trainer(dataroot, folder, queue=2)
    run.model.train()
    run._loss(run.data.sample(number), run.phases[0])
    return {name: tensor for name, tensor in run.model.state_dict().items() if ".running_" in name}


def work(rank: int, port: int, dataroot: Path, folder: Path) -> None:
    """One of two processes, as torchrun would have started it."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    world = join_world("cpu")
    for case in CASES:
        torch.save(trained(case, dataroot, folder / case, world), folder / f"{case}-{rank}.pt")
    world.close()


def test_two_processes_are_as_one(synthetic_dataroot: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [start(work, rank, port, synthetic_dataroot, tmp_path) for rank in range(2)]
    for worker in workers:
        worker.join(200)
    assert [worker.exitcode for worker in workers] == [0, 0]
    for case in CASES:
        first, second = (torch.load(tmp_path / f"{case}-{rank}.pt", weights_only=True) for rank in range(2))
        assert first["saved"]
        for name, tensor in first["model"].items():  # the norms' statistics among them
            assert torch.equal(tensor, second["model"][name]), (case, name)
    # The norms' statistics are the mean of what each process's sample made of them.
    made = torch.load(tmp_path / "norms-0.pt", weights_only=True)["model"]
    alone_with = [statistics(synthetic_dataroot, tmp_path / "one", number) for number in range(2)]
    for name, of_one in alone_with[0].items():
        torch.testing.assert_close(made[name], (of_one + alone_with[1][name]) / 2, msg=name)
    for case in ("frozen", "student"):
        together = torch.load(tmp_path / f"{case}-0.pt", weights_only=True)
        alone = trained(case, synthetic_dataroot, tmp_path / f"{case}-alone", ALONE)
        for step, (ours, theirs) in enumerate(zip(together["gradients"], alone["gradients"], strict=True)):
            assert set(ours) >= set(theirs)
            for name, gradient in theirs.items():
                difference, size = (ours[name] - gradient).norm(), gradient.norm()
                assert float(difference) <= 1e-4 * float(size) + 1e-6, (case, step, name)
