"""Engines on a real GPU: micro in every precision built, guarded and proved; reopened elsewhere; replayed as graphs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from qdbev_deploy.engine import Bundle, build
from qdbev_deploy.engine.interface import StreamOptions
from tests.drive import frames
from tests.gpu.engines import FRAMES, OPTIONS, SPEC, Engines


def outputs(bundle: Bundle, options: StreamOptions = StreamOptions()) -> list[list[np.ndarray]]:
    results = []
    with bundle.session(options) as session:
        for frame in frames(SPEC, count=FRAMES):
            output = session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
            results.append([session.stream.read_state(output.bev_embed), output.classes.copy(), output.coords.copy()])
    return results


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_it_is_built_guarded_and_proved(engines: Engines, precision: str) -> None:
    bundle = engines.bundle(precision)
    manifest = bundle.manifest
    assert manifest["parity"]["passed"]
    assert manifest["precision"]["passed"]
    assert manifest["gpu"]["compute_capability"]
    kinds = {layer.precision for layer in bundle.layers}
    assert {"fp32": "float32", "fp16": "float16", "int8": "int8"}[precision] in kinds
    if precision == "int8":
        assert manifest["precision"]["ran_int8"] > 0
    plugins = [layer for layer in bundle.layers if "plugin" in layer.kind.lower()]
    assert len(plugins) >= 2 * SPEC.encoder_layers + SPEC.decoder_layers
    timed = [layer.time_ms for layer in bundle.layers if layer.time_ms is not None]
    assert sum(timed) > 0


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_graph_computes_the_same(engines: Engines, precision: str) -> None:
    bundle = engines.bundle(precision)
    for ours, theirs in zip(outputs(bundle, StreamOptions(cuda_graph=True)), outputs(bundle), strict=True):
        for left, right in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(left, right)


def test_spinning_computes_the_same_and_stages_are_timed(engines: Engines) -> None:
    bundle = engines.bundle("int8")
    options = StreamOptions(wait="spin", timed=True)
    for ours, theirs in zip(outputs(bundle, options), outputs(bundle), strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])
    with bundle.session(options) as session:
        for frame in frames(SPEC, count=FRAMES):
            session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
        times = session.stream.times
    for name in ("host_prep", "h2d", "enqueue", "compute", "d2h"):
        assert getattr(times, name) > 0, name


def test_a_fresh_process_computes_the_same(engines: Engines) -> None:
    bundle = engines.bundle("int8")
    code = textwrap.dedent(f"""
        import json
        from qdbev_deploy.engine import Bundle
        from tests.gpu.test_engine import outputs
        results = outputs(Bundle.open({str(bundle.path)!r}))
        print(json.dumps([[float(array.astype("float64").sum()) for array in frame] for frame in results]))
    """)
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    ).stdout
    here = [[float(array.astype(np.float64).sum()) for array in frame] for frame in outputs(bundle)]
    np.testing.assert_allclose(json.loads(printed.splitlines()[-1]), here, rtol=1e-6)


def test_a_rebuild_with_the_timing_cache_chooses_the_same_tactics(engines: Engines, tmp_path: Path) -> None:
    first = engines.bundle("int8")
    again = build(
        engines.onnx_file(True), tmp_path / "again.qdbev", backend="tensorrt", precision="int8", verify=False,
        timing_cache=engines.timing_cache, **OPTIONS,
    )  # fmt: skip
    assert [(layer.name, layer.tactic) for layer in again.layers] == [
        (layer.name, layer.tactic) for layer in first.layers
    ]


def test_memory_does_not_grow_with_frames(engines: Engines) -> None:
    from qdbev_deploy.engine.tensorrt.cuda import cuda

    engine = engines.bundle("int8").engine()
    memory = engine.memory()
    assert memory.context is not None
    assert memory.io is not None
    frame = next(frames(SPEC, count=FRAMES))
    stream, handle = engine.stream(), None
    can_bus = np.zeros(18, np.float32)

    def run(count: int) -> int:
        nonlocal handle
        for _ in range(count):
            handle, _, _ = stream.step(frame.image, handle, handle is not None, can_bus, frame.lidar2img)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    run(50)
    before = run(1)
    assert run(500) - before < 4 << 20
    stream.close()
    engine.close()
    with cuda().current():
        cuda().stream().free()  # the context is still sound
