"""Bundles: a folder NAME.qdbev with an engine and all that is known of it, verified before anything in it is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qdbev_deploy.contract import (
    TensorSpec,
    VariantSpec,
    stream_inputs,
    stream_outputs,
)
from qdbev_deploy.engine.backends import backend_named
from qdbev_deploy.engine.documents import CONTRACT, LAYERS, MANIFEST, SUFFIX
from qdbev_deploy.engine.interface import Array, Engine, Float, Layer, Stream, StreamOptions
from qdbev_deploy.engine.verification import (
    layers_of,
    read_json,
    require_contract,
    require_files,
    require_reports,
    require_schema,
)
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.graph.files import sha256_of
from qdbev_deploy.streaming import MAX_GAP_S, EgoState, StreamingSession, StreamOutput


class BundleSession:
    """Frames of a sequence through an engine: `StreamingSession` with its stream. A context manager."""

    def __init__(self, engine: Engine, options: StreamOptions, max_gap_s: float, *, closes: bool) -> None:
        self._engine, self._closes = engine, closes
        self.stream: Stream = engine.stream(options)
        self._session = StreamingSession(self._run, max_gap_s=max_gap_s)

    def step(self, images: Array, lidar2img: Float, ego: EgoState, scene: str) -> StreamOutput[Any, Array]:
        """Run one frame. `bev_embed` of the output is a handle, for `stream.read_state`.

        Outputs that are no numbers are refused, and leave the session as it was: in the state they would spread from
        frame to frame.
        """
        return self._session.step(images, lidar2img, ego, scene)

    def _run(self, *arguments: Any) -> tuple[Any, Array, Array]:
        state, classes, coords = self.stream.step(*arguments)
        if np.isnan(classes).any() or np.isnan(coords).any():
            raise QdbevError(
                "outputs that are no numbers",
                "images and projections that the network can compute with",
                "look at the frame's images; qdbev-deploy inspect BUNDLE shows what the network is",
                exit_code=ExitCode.GUARD,
            )
        return state, classes, coords

    def reset(self) -> None:
        """Forget the past: the next frame is a first frame."""
        self._session.reset()

    def close(self) -> None:
        self.stream.close()
        if self._closes:
            self._engine.close()

    def __enter__(self) -> BundleSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were verified."""

    path: Path
    manifest: dict[str, Any]
    contract: dict[str, Any] = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    manifest_sha256: str

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, to_run: bool = True) -> Bundle:
        """Verify a bundle; nothing in it is loaded or executed.

        `to_run` False: it is only read, so that it may be for another machine.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise QdbevError(
                f"there is no folder {folder}" if not folder.exists() else f"{folder} is a file",
                f"a bundle, a folder NAME{SUFFIX}",
                "check the path, or make one: qdbev-deploy build --onnx student.onnx --int8",
            )
        manifest = read_json(folder, MANIFEST)
        require_schema(folder, manifest)
        require_files(folder, manifest)
        contract = read_json(folder, CONTRACT)
        require_contract(folder, contract)
        layers = layers_of(folder, read_json(folder, LAYERS))
        require_reports(folder, manifest)
        bundle = cls(folder, manifest, contract, layers, sha256_of(folder / MANIFEST))
        if to_run:
            bundle.require_machine()
        return bundle

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def backend(self) -> str:
        return str(self.manifest["backend"])

    @property
    def spec(self) -> VariantSpec:
        return VariantSpec.from_dict(self.contract["spec"])

    @property
    def precision(self) -> str:
        """As people are told it: int8 that is carried out in floating point says so."""
        found = self.manifest["precision"]
        emulated = ", emulated in floating point" if found.get("emulated") else ""
        return f"{found.get('precision', 'precision not stated')}{emulated}"

    @property
    def io(self) -> str:
        return str(self.contract["io"])

    @property
    def image(self) -> str:
        return str(self.contract["image"])

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return stream_inputs(self.spec, self.io, self.image)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return stream_outputs(self.spec, self.io)

    @property
    def engine_path(self) -> Path:
        return self.path / str(self.manifest["engine_file"])

    def require_machine(self) -> None:
        """Refuse, with exit code 4, what this machine cannot run: a plan is for one GPU and one TensorRT."""
        from qdbev_deploy.engine.compatibility import why_not_here

        if error := why_not_here(self.manifest):
            raise error

    def engine(self) -> Engine:
        """Load the engine. Its files are verified once more: they may have changed since the bundle was opened."""
        self.require_machine()
        require_files(self.path, self.manifest)
        build, backend = self.manifest["build"], backend_named(self.backend)
        options = {**build["options"], **build["opens_with"], "extra_files": self.manifest["extra_files"]}
        return backend.open(self.engine_path, self.inputs, self.outputs, options)

    def session(
        self, options: StreamOptions = StreamOptions(), max_gap_s: float = MAX_GAP_S, *, engine: Engine | None = None
    ) -> BundleSession:
        """A sequence of frames. `engine` None: one is loaded for it, and closed with it."""
        return BundleSession(engine or self.engine(), options, max_gap_s, closes=engine is None)
