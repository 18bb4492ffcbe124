"""The folder of a training run: configuration, state, metrics. A run killed at any moment goes on from it."""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import atomic_output, write_json

# What of a run is saved; see Trainer.state.
STATE_KEYS = frozenset({"step", "model", "helpers", "optimizer", "scaler", "scales"})


class RunFolder:
    """`config.json`, `state.pt`, `metrics.jsonl`, TensorBoard's events, and at the end `model.pt`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics: Any = None
        self._board: Any = None

    def require_new(self) -> None:
        """A folder that holds a run already is refused, and so is what is no folder."""
        self._require_folder()
        if (self.path / "config.json").exists() or (self.path / "state.pt").exists():
            raise QdbevError(f"{self.path} holds a training run", "a new folder", "pass --resume, or another --out")

    def _require_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise QdbevError(f"{self.path} is a file", "a folder for the run", "pass another --out")

    def begin(self, config: dict[str, Any]) -> None:
        """Of a fresh run. From here on it can be resumed."""
        self.require_new()
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", config)

    def saved_config(self) -> dict[str, Any]:
        self._require_folder()
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
        state = self.load_state()
        if state is None:
            raise QdbevError(
                f"{self.path} holds no state of a training run",
                "the --out folder of a run that saved one",
                "pass a checkpoint or another folder as --init",
            )
        return state

    @property
    def has_state(self) -> bool:
        return (self.path / "state.pt").exists()

    def load_state(self) -> dict[str, Any] | None:
        """The last state saved; None where the run was killed before its first."""
        if not self.has_state:
            return None
        path = self.path / "state.pt"
        try:
            with zipfile.ZipFile(path) as archive:  # torch does not compare checksums
                damaged = archive.testzip()
            state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
        except (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
            state = None
        if not isinstance(state, dict) or not set(state) >= STATE_KEYS:
            raise QdbevError(
                f"{path} cannot be read as the state of a training run",
                "the file as the run saved it",
                "begin a new run with another --out",
            )
        return state

    def sweep(self) -> None:
        """Remove what a run that was killed had begun to write."""
        for partial in self.path.glob(".*.partial"):
            partial.unlink(missing_ok=True)

    def last_row(self) -> dict[str, float]:
        """What the log says of the last step that it holds, numbers alone."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        row = json.loads(lines[-1]) if lines else {}
        return {name: value for name, value in row.items() if name not in ("step", "phase")}

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
