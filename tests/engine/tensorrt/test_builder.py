"""Options as each release takes them, what is refused and in which words, the timing cache, progress, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest

from qdbev_deploy.engine.interface import BuildOptions
from qdbev_deploy.engine.tensorrt import builder, plugin_library
from qdbev_deploy.engine.tensorrt.builder import Plan, build_plan
from qdbev_deploy.engine.tensorrt.log import log_of
from qdbev_deploy.engine.tensorrt.options import refuse_dla_where_there_is_none
from qdbev_deploy.engine.tensorrt.releases import release_of
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.graph.half import HALF
from qdbev_deploy.graph.index import Graph
from tests.engine.tensorrt.conftest import Bench
from tests.engine.tensorrt.toy import lowered_for


def built(bench: Bench, model: onnx.ModelProto | None = None, say: Any = None, **options: Any) -> tuple[Plan, Any, Any]:
    """(plan, the config and the network that it was built with)."""
    release = release_of(bench.version)
    log = log_of(bench.trt)
    plugin_library.load(bench.trt, log, bench.library)
    model = model or lowered_for(release.target)
    plan = build_plan(bench.trt, release, log, model, BuildOptions(**options), say or (lambda *_: None))
    return plan, *bench.trt.built[-1]


def flags_of(config: Any) -> set[str]:
    return {flag.name for flag in config._flags}


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        ("int8", {"INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"}),
        ("fp16", {"INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"}),  # the toy has Q/DQ, for which int8 must be allowed
        ("fp32", {"INT8"}),
    ],
)
def test_8_6_takes_precisions_by_flags(bench_of: Any, precision: str, flags: set[str]) -> None:
    bench = bench_of("8.6.0")
    _, config, network = built(bench, precision=precision)
    assert flags_of(config) == flags  # TF32 is cleared
    assert network._flags == 1 << int(bench.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    types = {value.type.tensor_type.elem_type for value in network._model.graph.value_info}
    assert HALF not in types


def test_a_float_file_is_built_without_the_int8_flag(bench_of: Any) -> None:
    _, config, _ = built(bench_of("8.6.0"), lowered_for("trt8.6", quantised=False), precision="fp16")
    assert flags_of(config) == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}


def test_8_6_keeps_geometry_in_float32(bench_of: Any) -> None:
    bench = bench_of("8.6.0")
    plan, _, network = built(bench, precision="int8")
    float_, constrained = bench.trt.DataType.FLOAT, set()
    for layer in network._layers:
        if getattr(layer, "precision", None) == float_:
            assert layer._typed == {0: float_}
            constrained.add(layer.name.removeprefix("toy/"))
    assert {"radians", "cosine", "places", "turned", "shift", "reference_points", "coords_metres"} <= constrained
    assert not constrained & {"features", "offsets_flat", "normed", "carried", "attended"}
    assert f"{len(constrained)} layers of geometry kept in float32" in plan.notes[0]
    _, _, network = built(bench, precision="fp32")
    assert not any(hasattr(layer, "precision") for layer in network._layers)


@pytest.mark.parametrize("version", ["10.3.0", "11.1.0"])
def test_10_and_11_take_precisions_from_the_file(bench_of: Any, version: str) -> None:
    bench = bench_of(version)
    plan, config, network = built(bench, precision="int8")
    assert flags_of(config) == set()
    assert network._flags == 1 << int(bench.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    graph = Graph(network._model)
    assert graph.element_type("features") == HALF
    assert graph.element_type("places") != HALF
    assert plan.notes == ("strongly typed: precisions are those of the file",)
    _, _, network = built(bench, precision="fp32")
    assert Graph(network._model).element_type("features") != HALF


def test_the_callers_model_is_left_alone(bench_of: Any) -> None:
    model = lowered_for("trt10.3")
    before = model.SerializeToString(deterministic=True)
    built(bench_of("10.3.0"), model, precision="int8")
    assert model.SerializeToString(deterministic=True) == before


def test_options_reach_the_builder(bench: Bench) -> None:
    trt = bench.trt
    sources = ("jit_convolutions", "EDGE_MASK_CONVOLUTIONS")
    _, config, _ = built(
        bench, workspace_mb=512, optimization_level=4, version_compatible=True, hardware_compatible=True,
        tactic_sources=sources, profile_verbosity="names",
    )  # fmt: skip
    assert config._pools == {trt.MemoryPoolType.WORKSPACE: 512 << 20}
    assert config.builder_optimization_level == 4
    assert "VERSION_COMPATIBLE" in flags_of(config)
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    members = trt.TacticSource
    assert config._tactics == 1 << int(members.JIT_CONVOLUTIONS) | 1 << int(members.EDGE_MASK_CONVOLUTIONS)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    _, config, _ = built(bench)
    assert config._pools == {}
    assert config._tactics is None
    assert not hasattr(config, "builder_optimization_level")
    assert not hasattr(config, "default_device_type")
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    _, config, _ = built(bench, tactic_sources=())
    assert config._tactics == 0


@pytest.mark.parametrize(
    ("version", "has_it"),
    [("8.6.1", True), ("10.3.0", True), ("10.7.0", True), ("10.8.0", False), ("10.16.1.11", False), ("11.0.0", False),
     ("11.3.1", False), ("11.4.0", False), ("11.4.1", True), ("11.5.0", True)],
)  # fmt: skip
def test_dla_by_release(version: str, has_it: bool) -> None:
    release, asked = release_of(version), BuildOptions(dla_core=0)
    refuse_dla_where_there_is_none(BuildOptions(), release)
    if has_it:
        refuse_dla_where_there_is_none(asked, release)
        return
    with pytest.raises(QdbevError, match=f"--dla 0 with TensorRT {version}, which has no DLA") as caught:
        refuse_dla_where_there_is_none(asked, release)
    assert caught.value.exit_code == ExitCode.MISSING


def test_a_release_without_dla_builds_nothing_for_one(bench_of: Any) -> None:
    bench = bench_of("11.1.0")
    with pytest.raises(QdbevError, match="which has no DLA"):
        built(bench, dla_core=0)
    assert not bench.trt.built


@pytest.mark.parametrize("version", ["8.6.0", "10.3.0"])
def test_dla_has_the_gpu_behind_it(bench_of: Any, version: str) -> None:
    bench = bench_of(version)
    trt = bench.trt
    _, config, network = built(bench, dla_core=1)
    assert config.default_device_type == trt.DeviceType.DLA
    assert config.DLA_core == 1
    assert "GPU_FALLBACK" in flags_of(config)
    if bench.version.startswith("10"):  # flags choose, as on 8.6: DLA takes its layers by them
        assert {"FP16", "INT8"} <= flags_of(config)
        assert network._flags == 0
    bench.trt.behaviour.dla_cores = 0
    with pytest.raises(QdbevError, match="DLA core 1 on a machine with 0") as caught:
        built(bench, dla_core=1)
    assert caught.value.exit_code == ExitCode.MISSING


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 2}, "--threads with the tensorrt backend"),
        ({"fused": True}, "--fused with the tensorrt backend"),
        ({"workspace_mb": 0}, "a workspace of 0 MB"),
        ({"optimization_level": 6}, "optimisation level 6"),
        ({"optimization_level": -1}, "optimisation level -1"),
        ({"precision": "fp32", "dla_core": 0}, "--fp32 on a DLA core"),
        ({"tactic_sources": ("CUBLASS",)}, "tactic source 'CUBLASS'.*JIT_CONVOLUTIONS"),
    ],
)
def test_refused_options(bench: Bench, options: dict[str, Any], message: str) -> None:
    with pytest.raises(QdbevError, match=message) as caught:
        built(bench, **options)
    assert caught.value.exit_code == ExitCode.USAGE
    assert not bench.trt.built


def test_11_names_the_sources_that_it_lost(bench_of: Any) -> None:
    with pytest.raises(QdbevError, match=r"one of EDGE_MASK_CONVOLUTIONS, JIT_CONVOLUTIONS, which TensorRT 11"):
        built(bench_of("11.1.0"), tactic_sources=("CUDNN",))


def test_every_complaint_of_the_parser_is_told(bench: Bench) -> None:
    model = lowered_for(release_of(bench.version).target)
    model.graph.node[4].op_type, model.graph.node[7].op_type = "Sphere", "Torus"
    first, second = model.graph.node[4].name, model.graph.node[7].name
    with pytest.raises(QdbevError) as caught:
        built(bench, model, precision="fp32")
    assert f"'{first}': no importer for Sphere; '{second}': no importer for Torus" in caught.value.found
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    bench.trt.behaviour.parser_errors = [(-1, "", f"complaint {index}.") for index in range(12)]
    with pytest.raises(QdbevError, match=r"'\(file\)': complaint 0; .*complaint 7; and 4 more"):
        built(bench)


def test_a_plugin_that_is_not_registered_is_named(bench_of: Any) -> None:
    bench = bench_of("10.3.0")
    release = release_of(bench.version)
    with pytest.raises(QdbevError, match="'toy/attended': no importer for MSDeformAttn"):
        build_plan(bench.trt, release, log_of(bench.trt), lowered_for(release.target), BuildOptions(), lambda *_: None)


def test_a_failed_build_says_what_tensorrt_said(bench: Bench) -> None:
    bench.trt.behaviour.build_fails = True
    with pytest.raises(QdbevError) as caught:
        built(bench, workspace_mb=64)
    assert caught.value.found == (
        f"TensorRT {bench.version} built no engine (the workspace is limited to 64 MiB): "
        "could not find any implementation for node X"
    )
    assert caught.value.exit_code == ExitCode.GUARD


def test_a_builder_that_cannot_be_made_says_why(bench: Bench) -> None:
    """What 8.6.0 does without a GPU: a warning in its log, and a TypeError."""
    bench.trt.behaviour.no_gpu = True
    with pytest.raises(QdbevError, match="made no builder: CUDA initialization failure with error: 35") as caught:
        built(bench)
    assert caught.value.exit_code == ExitCode.MISSING


def test_the_timing_cache_makes_builds_repeat(bench: Bench, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    first = built(bench, timing_cache=cache)[0]
    content = cache.read_bytes()
    assert f"{len(content):,} bytes" in first.notes[-1]
    assert built(bench, timing_cache=cache)[0].content == first.content
    assert cache.read_bytes() == content
    assert built(bench)[0].content != first.content  # without it, what was timed today


@pytest.mark.parametrize("how", ["damaged", "of another device", "a folder"])
def test_a_timing_cache_that_is_rejected(bench: Bench, tmp_path: Path, how: str) -> None:
    cache = tmp_path / "timing.cache"
    if how == "a folder":
        cache.mkdir()
    else:
        cache.write_bytes(b"\0garbage" if how == "damaged" else b"{}")
    bench.trt.behaviour.rejects_cache = how == "of another device"
    before = None if how == "a folder" else cache.read_bytes()
    with pytest.raises(QdbevError, match="timing cache") as caught:
        built(bench, timing_cache=cache)
    if before is not None:
        assert caught.value.next_step.startswith(f"rm {cache}")
        assert cache.read_bytes() == before
        expected = "is damaged" if how == "damaged" else "made on another device"
        assert expected in caught.value.found
    assert not bench.trt.built


def test_a_failed_build_leaves_the_timing_cache(bench_of: Any, tmp_path: Path) -> None:
    bench = bench_of("10.3.0")
    bench.trt.behaviour.build_fails = True
    with pytest.raises(QdbevError):
        built(bench, timing_cache=tmp_path / "timing.cache")
    assert list(tmp_path.glob("*.cache")) == []


def test_phases_reach_the_bar(bench: Bench) -> None:
    said: list[tuple[Any, ...]] = []
    built(bench, say=lambda *item: said.append(item))
    assert said[:2] == [("parse", None, None), ("build", None, None)]
    steps = [("Building Engine", done, 3) for done in (0, 1, 2, 3)]
    assert said[2:] == ([] if bench.version.startswith("8") else [*steps, ("Building Engine", 3, 3)])


@pytest.mark.parametrize("version", ["10.3.0", "11.1.0"])
def test_ctrl_c_stops_the_builder(bench_of: Any, version: str) -> None:
    """The builder is told at its next step; nothing is left running."""
    bench = bench_of(version)
    seen = []

    def interrupt_at(step: int) -> None:
        seen.append(step)
        if step == 0:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.5)

    bench.trt.behaviour.on_step = interrupt_at
    with pytest.raises(KeyboardInterrupt):
        built(bench)
    assert seen == [0]
    for thread in threading.enumerate():
        if thread.name == "tensorrt-builder":
            thread.join(5.0)
            assert not thread.is_alive()


def test_ctrl_c_does_not_wait_for_a_builder_that_cannot_hear(tmp_path: Path) -> None:
    """8.6: the process ends at once with the code of an interruption, cleaned up, with the builder still inside."""
    code = textwrap.dedent(f"""
        import os, signal, threading, time
        from pathlib import Path
        from qdbev_deploy.engine.tensorrt.builder import interruptible
        from qdbev_deploy.files import atomic_output

        def work():
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(60)

        with atomic_output(Path({str(tmp_path)!r}) / "out.qdbev") as folder:
            folder.mkdir()
            (folder / "engine.plan").write_text("half")
            interruptible(work, threading.Event(), hears=False)
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert result.returncode == int(ExitCode.INTERRUPTED)
    assert "KeyboardInterrupt" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_the_thread_is_the_callers() -> None:
    def work() -> None:
        raise ValueError("from inside")

    with pytest.raises(ValueError, match="from inside"):
        builder.interruptible(work, threading.Event(), hears=True)
    assert builder.interruptible(lambda: 7, threading.Event(), hears=False) == 7
