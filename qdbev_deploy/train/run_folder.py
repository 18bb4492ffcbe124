"""The folder of a training run: configuration, state, metrics. A run killed at any moment goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import atomic_output, write_json


class RunFolder:
    """`config.json`, `state.pt`, `metrics.jsonl`, TensorBoard's events, and at the end `model.pt`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics: Any = None
        self._board: Any = None

    def begin(self, config: dict[str, Any]) -> None:
        """A fresh run; a folder that holds one already is refused."""
        if (self.path / "config.json").exists():
            raise QdbevError(f"{self.path} holds a training run", "a new folder", "pass --resume, or another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", config)

    def saved_config(self) -> dict[str, Any]:
        try:
            config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise QdbevError(
                f"{self.path} holds no training run that can be resumed ({error})",
                "the --out folder of an earlier run",
                "leave out --resume to begin one",
            ) from error
        if not isinstance(config, dict):
            raise QdbevError(f"{self.path}/config.json is no mapping", "a run's configuration", "begin a new run")
        return config

    def save_state(self, state: dict[str, Any]) -> None:
        with atomic_output(self.path / "state.pt") as partial:
            torch.save(state, partial)

    def require_state(self) -> dict[str, Any]:
        """The last state, of a run that another begins from."""
        if not (self.path / "state.pt").is_file():
            raise QdbevError(
                f"{self.path} holds no state of a training run",
                "the --out folder of a run that saved one",
                "pass a checkpoint or another folder as --init",
            )
        state = self.load_state()
        assert state is not None
        return state

    def load_state(self) -> dict[str, Any] | None:
        """The last state saved; None where the run was killed before its first."""
        if not (self.path / "state.pt").exists():
            return None
        state = torch.load(self.path / "state.pt", map_location="cpu", weights_only=True)
        assert isinstance(state, dict)
        return state

    def open_logs(self, from_step: int) -> None:
        """Go on logging at `from_step`: what a killed run logged beyond its last state is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        path = self.path / "metrics.jsonl"
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # the line a kill cut short
                    continue
                if row["step"] < from_step:
                    kept.append(line + "\n")
        with atomic_output(path) as partial:
            partial.write_text("".join(kept), encoding="utf-8")
        self._metrics = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(self.path / "tensorboard", purge_step=from_step)

    def log(self, step: int, row: dict[str, float | str]) -> None:
        self._metrics.write(json.dumps({"step": step, **row}) + "\n")
        self._metrics.flush()
        for name, value in row.items():
            if not isinstance(value, str):
                self._board.add_scalar(name, value, step)

    def close_logs(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._board.close()
