"""A benchmark from request to document with scripted latencies: every number of the document can be worked out."""

from __future__ import annotations

import dataclasses
import gc
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdbev_deploy.bench import stability
from qdbev_deploy.bench.colocated import Neighbours, Side
from qdbev_deploy.bench.document import validate
from qdbev_deploy.bench.measure import Plan
from qdbev_deploy.bench.recording import COLUMNS, Recording
from qdbev_deploy.bench.run import Request, bench
from qdbev_deploy.bench.samples import SampleRequest
from qdbev_deploy.bench.scenarios import StreamPlan
from qdbev_deploy.bench.sensors.process import ProcessMemory
from qdbev_deploy.engine.interface import StageTimes, StreamOptions
from qdbev_deploy.evaluate.schedule import Latency
from qdbev_deploy.files import write_json
from tests.bench.fakes import MS, FakeBundle, FakeClock, FakeEngine, FakeSensor, drive, measured, scripted, tools
from tests.model.reference import SPEC

TIMED = StreamOptions(timed=True)


class Bench:
    """A fake bundle and what was found of it."""

    def __init__(self, folder: Path, latency: Any, plan: Plan, *sensors: FakeSensor, frames: int = 4) -> None:
        self.clock = FakeClock()
        self.engine = FakeEngine(SPEC, self.clock, latency)
        self.bundle = FakeBundle(folder / "fake.qdbev", self.engine)
        self.request = Request(plan, SampleRequest())
        self.document = bench(
            self.bundle, self.request, tools=tools(self.clock, drive(frames), *sensors)
        )  # fmt: skip
        validate(self.document, "this test's")
        json.dumps(self.document, allow_nan=False)

    @property
    def summary(self) -> dict[str, Any]:
        return dict(self.document["latency_ms"]["summary"])


def plan(**changes: Any) -> Plan:
    return dataclasses.replace(Plan(frames=12, repeats=1, warmup_frames=2, options=TIMED), **changes)


def test_latencies_stages_and_the_bundle_are_what_happened(tmp_path: Path) -> None:
    found = Bench(tmp_path, scripted([10, 12]), plan(frames=100))
    assert found.document["latency_ms"]["samples"] == [10, 12] * 50
    assert found.summary["p50"]["value"] == 10
    assert found.summary["max"] == 12
    assert found.summary["p99"]["enough"] is False
    stages = found.document["stages_ms"]
    assert stages["host_prep"]["mean"] == pytest.approx(2.75)
    assert stages["compute"]["max"] == 6
    assert stages["rest"]["mean"] == pytest.approx(2.75)  # a quarter of the step is in no stage
    assert stages["h2d"] is stages["preprocess"] is None
    assert stages["decode"]["max"] == 0
    assert found.document["bundle"]["emulated"] is True
    assert found.document["bundle"]["engine_bytes"] == 5
    assert found.document["memory"]["engine"] == {"weights_bytes": 1000, "context_bytes": None, "io_bytes": 500}
    assert found.engine.closed
    assert gc.isenabled()


def test_the_state_is_fed_back_and_dropped_where_the_drive_starts_over(tmp_path: Path) -> None:
    found = Bench(tmp_path, scripted([10]), plan(frames=10, warmup_frames=3))
    measured = found.engine.fed[3:13]
    assert [frame for frame, _, _ in measured] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert [used for _, used, _ in measured] == [False, True, True, True] * 2 + [False, True]
    assert found.document["scenario"]["data"]["resets"] == 3


def test_repeats_share_out_the_frames_and_each_warms_up_on_a_new_stream(tmp_path: Path) -> None:
    found = Bench(tmp_path, scripted([10]), plan(frames=11, repeats=3))
    assert found.document["by_repeat"]["frames"] == [4, 4, 3]
    assert found.document["repeats"] == 3
    assert [warmup["frames"] for warmup in found.document["warmup"]] == [2, 2, 2]
    assert found.engine.closed_streams == 3
    assert len(found.engine.fed) == 11 + 6


def test_a_steady_run_is_stable_and_each_fault_is_named(tmp_path: Path) -> None:
    steady = Bench(tmp_path, scripted([10, 10.1, 9.9]), plan(frames=60, repeats=3))
    assert steady.document["stability"] == {"stable": True, "reasons": []}

    def reasons(latency: Any, *sensors: FakeSensor, **changes: Any) -> str:
        return "; ".join(
            Bench(tmp_path, latency, plan(frames=60, **changes), *sensors).document["stability"]["reasons"]
        )  # fmt: skip

    assert "scatters: CoV" in reasons(scripted([10, 20]))
    assert "drifts: +" in reasons(lambda index: 10 + 0.02 * index)
    # 2 frames of warm-up and 20 measured in each repeat: the second repeat is slower throughout
    assert "repeats disagree: medians 5.0% apart" in reasons(
        lambda index: (10.5 if 22 <= index < 44 else 10) + 0.001 * (index % 3), repeats=3
    )
    growing = [10 * 1.01**index for index in range(900)]
    assert "did not settle" in reasons(lambda index: growing[index], warmup_frames=None)
    throttled = FakeSensor("NVML", gpu_throttle_mask=lambda n: 0x44 if n > 20 else 0)
    assert "throttled: software power cap, hardware thermal slowdown" in reasons(scripted([10]), throttled)
    idle = FakeSensor("NVML", gpu_throttle_mask=lambda n: 0x1)
    assert reasons(scripted([10]), idle) == ""
    clocks = FakeSensor("NVML", gpu_clock_mhz=lambda n: 1500 if n < 30 else 1200)
    assert "clock varied: 1200 to 1500 MHz" in reasons(scripted([10]), clocks)


def test_what_cannot_be_told_is_no_agreement(tmp_path: Path) -> None:
    def reasons(latency: Any, **changes: Any) -> str:
        return "; ".join(Bench(tmp_path, latency, plan(**changes)).document["stability"]["reasons"])

    assert "12 frames are too few to tell whether latency is steady: needs 20" in reasons(scripted([10]))
    # Repeats of four frames 5 % apart: no interval of a median reaches so far down.
    levels = (10.0, 10.5, 10.0, 10.5, 10.0)
    found = reasons(lambda index: levels[index // 6] + 0.001 * (index % 3), frames=20, repeats=5)
    assert "whether repeats agree cannot be told: medians 5.0% apart" in found
    assert "needs 30 frames" in found  # six independent ones each
    # Two repeats with medians 4 % apart, whose intervals overlap by far
    noise = np.random.default_rng(3).normal(0, 0.7, 200)
    found = reasons(lambda index: 10 + 0.5 * (index >= 42) + noise[index], frames=80, repeats=2)
    assert re.search(r"cannot be told: medians \d\.\d% apart, limit 3%, and their intervals overlap; needs", found)
    # A walk, whose residuals hang together: risen by chance or for good, nobody can tell.
    walk = 10 + np.cumsum(np.random.default_rng(5).normal(0, 0.06, 200))
    found = reasons(lambda index: walk[index], frames=150, warmup_frames=0)
    assert "drift" in found


def test_a_harness_that_wakes_late_is_no_steady_one(tmp_path: Path) -> None:
    class Late(FakeClock):
        def sleep_until_ns(self, moment_ns: int) -> None:
            self.now = max(self.now, moment_ns) + 3 * MS

    clock = Late()
    bundle = FakeBundle(tmp_path / "f.qdbev", FakeEngine(SPEC, clock, scripted([10])))
    stream = plan(scenario="stream", frames=40, stream=StreamPlan(20))
    found = bench(bundle, Request(stream, SampleRequest()), tools=tools(clock, drive()))
    assert any("woke over 1 ms late for 100.0%" in reason for reason in found["stability"]["reasons"])


def test_the_overhead_is_that_of_real_frames_and_at_least_that_of_null_ones(tmp_path: Path) -> None:
    """A clock on which each reading takes 20 us: each part of the harness can be counted off."""

    class Ticking(FakeClock):
        def now_ns(self) -> int:
            self.now += 20_000
            return super().now_ns()

    clock = Ticking()
    bundle = FakeBundle(tmp_path / "f.qdbev", FakeEngine(SPEC, clock, scripted([10])))
    found = bench(bundle, Request(plan(), SampleRequest()), tools=tools(clock, drive()))
    overhead = found["overhead_us"]
    # Within a frame: readings after preprocessing, after the step, after decoding; then one before the next frame.
    assert overhead["session"] == overhead["decode"] == 20
    assert overhead["harness"] == 60  # the one before, that after preprocessing, and one that times the eviction
    assert overhead["beyond_step"] == 80
    assert overhead["in_measured_frames"]["host_prep"] == 2500
    assert overhead["in_measured_frames"]["decode"] == 20
    # 10 ms of the step less the half and the quarter that are stages, and two of the readings
    assert overhead["in_measured_frames"]["rest"] == 2500 + 20
    assert overhead["share_of_p50"] == pytest.approx(2.52 / 10.06, rel=1e-3)


def test_the_peak_is_no_less_than_what_was_seen(tmp_path: Path) -> None:
    class Process(ProcessMemory):
        def read(self) -> dict[str, float]:
            return {"rss_bytes": 9e9}

        def peak_bytes(self) -> int:
            return 10

    document = Bench(tmp_path, scripted([10]), plan(), Process()).document  # type: ignore[arg-type]
    assert document["memory"]["host"]["peak_bytes"] == document["memory"]["host"]["rss_bytes"] == 9_000_000_000


def test_of_few_frames_no_growth_a_thousand_is_said(tmp_path: Path) -> None:
    sensor = FakeSensor("NVML", gpu_process_bytes=lambda n: 1e9 + 1e6 * n)
    memory = Bench(tmp_path, scripted([10]), plan(frames=60), sensor).document["memory"]
    assert memory["device"]["growth"] is None
    assert "fewer than 100 frames" in memory["why_not"]["device.growth"]


def test_a_boards_shared_memory_and_load_are_reported(tmp_path: Path) -> None:
    sensor = FakeSensor("tegrastats", board_memory_used_bytes=lambda n: 4e9 + n, gpu_load_percent=lambda n: 50.0)
    document = Bench(tmp_path, scripted([10]), plan(frames=30), sensor).document
    assert 4e9 < document["memory"]["device"]["used_peak_bytes"] < 4.1e9
    assert document["memory"]["device"]["process_peak_bytes"] is None
    assert "share" in document["memory"]["device"]["growth_of"]
    assert document["clocks"]["gpu_load_percent"]["mean"] == 50


def test_instances_are_as_much_slower_as_they_are() -> None:
    side = Side(measured([10.0] * 9), (measured([15.0] * 9), measured([25.0] * 9)), {})
    found = side.to_dict(Neighbours(2), 0.95)
    assert found["alone_ms"] == {"p50": 10, "p99": 10}
    assert [each["p50"] for each in found["each_ms"]] == [15, 25]
    assert found["times_slower"] == {"p50": 2.0, "p99": 2.0}
    merged = side.merged().recording
    assert merged.column("repeat").tolist() == [0] * 9 + [1] * 9


def test_starts_are_judged_by_their_number_and_by_what_went_on_around() -> None:
    calm = {"gpu_throttle": None, "cpu_throttled_times": None, "gpu_clock_mhz": None, "others_busy_cores": 0.0,
            "stolen_cores": None}  # fmt: skip
    assert stability.starts(np.array([900.0, 905.0, 901.0, 903.0, 902.0]), calm) == []
    assert "2 starts are too few" in stability.starts(np.array([900.0, 905.0]), calm)[0]
    busy = {**calm, "others_busy_cores": 1e6}
    assert "other processes used" in stability.starts(np.full(7, 900.0), busy)[0]


def test_a_stream_counts_drops_misses_and_age(tmp_path: Path) -> None:
    """250 ms a frame at 10 Hz: of six frames 0, 2 and 5 are processed, 250, 300 and 250 ms after they arrived."""
    found = Bench(tmp_path, scripted([250]), plan(frames=6, stream=StreamPlan(10, deadline_ms=260), scenario="stream"))
    stream = found.document["stream"]
    assert (stream["arrived"], stream["processed"], stream["dropped"]) == (6, 3, 3)
    assert (stream["late"], stream["misses"], stream["miss_share"]) == (1, 4, pytest.approx(4 / 6))
    assert stream["age_ms"]["max"] == pytest.approx(300)
    assert stream["between_outputs_ms"]["max"] == pytest.approx(250)
    assert found.document["latency_ms"]["samples"] == [250, 250, 250]  # of processing, not of waiting
    # The session saw the frames that were processed: 0 and 2 of the drive, and 5 % 4 = 1 of its next lap.
    assert [(frame, used) for frame, used, _ in found.engine.fed[2:]] == [(0, False), (2, True), (1, False)]


def test_a_stream_without_a_deadline_has_its_period(tmp_path: Path) -> None:
    found = Bench(tmp_path, scripted([30]), plan(frames=6, stream=StreamPlan(20), scenario="stream"))
    assert found.document["stream"]["deadline_ms"] == 50
    assert found.document["stream"]["misses"] == 0


def test_a_leak_is_found_and_a_plateau_is_none(tmp_path: Path) -> None:
    def growth(rss: Any, **changes: Any) -> Any:
        sensor = FakeSensor("process memory", rss_bytes=rss)
        found = Bench(tmp_path, scripted([10, 10.1]), plan(frames=400, **changes), sensor)
        return found.document["memory"], found.document["stability"]["reasons"]

    # The fake sensor is no ProcessMemory: device memory goes the same road.
    def device(used: Any, **changes: Any) -> tuple[Any, list[str]]:
        sensor = FakeSensor("NVML", gpu_process_bytes=used, gpu_memory_used_bytes=used)
        found = Bench(tmp_path, scripted([10, 10.1]), plan(frames=400, **changes), sensor)
        return found.document["memory"]["device"]["growth"], found.document["stability"]["reasons"]

    noise = np.random.default_rng(0).normal(0, 4096, 2000)
    leak, reasons = device(lambda n: 1e9 + 10_000 * n + noise[n])
    assert leak["shown"]
    assert leak["low"] <= 1e7 <= leak["high"]  # 10 kB a frame
    assert any("memory of the device grew" in reason for reason in reasons)
    flat, reasons = device(lambda n: 1e9 + noise[n])
    assert not flat["shown"]
    assert not reasons
    step, reasons = device(lambda n: 1e9 + (5e6 if n > 60 else 0) + noise[n])
    assert not step["shown"]  # caches that fill once
    late, _ = device(lambda n: 1e9 + (5e6 if n > 330 else 0) + noise[n])
    assert not late["shown"]
    # Each repeat starts higher and stays: no leak of frames. Readings: one ahead; 134 + 2, 133 + 2, 133 + 2
    stairs, _ = device(lambda n: 1e9 + 1e6 * ((n > 137) + (n > 272)) + noise[n], repeats=3)
    assert not stairs["shown"]
    stairs, _ = device(lambda n: 1e9 + 1e6 * (n // 135) + noise[n], repeats=3)
    assert not stairs["shown"]  # one step, at the end of each repeat
    leak, _ = device(lambda n: 1e9 + 10_000 * n + noise[n], repeats=3)
    assert leak["shown"]
    memory, _ = growth(lambda n: 1e9)
    assert memory["host"] is None
    assert memory["why_not"]["host"]


def test_energy_is_a_difference_within_repeats_and_power_is_added_up(tmp_path: Path) -> None:
    """A counter that gains 2 J a reading, at one reading a frame: 2 J a frame, warm-up left out."""
    # Readings: one ahead, 25 + 2 in the first repeat; then a warm-up that takes 1000 J
    counter = FakeSensor("NVML", gpu_energy_j=lambda n: 2.0 * n + 1000 * (n > 28), gpu_power_w=lambda n: 99.0)
    found = Bench(tmp_path, scripted([10]), plan(frames=50, repeats=2), counter)
    source = found.document["power"]["sources"][0]
    assert source["energy_per_frame_j"] == pytest.approx(2.0, rel=0.1)
    rails = FakeSensor("INA3221", board_power_w=lambda n: 20.0)
    found = Bench(tmp_path, scripted([10]), plan(frames=50), rails)
    source = found.document["power"]["sources"][0]
    assert source["mean_w"] == pytest.approx(20, rel=0.05)
    assert source["energy_per_frame_j"] == pytest.approx(0.2, rel=0.05)  # 20 W for 10 ms
    nothing = Bench(tmp_path, scripted([10]), plan(frames=50))
    assert nothing.document["power"]["sources"] == []


def test_a_soak_runs_for_its_time_and_finds_drift(tmp_path: Path) -> None:
    found = Bench(
        tmp_path, lambda index: 10 + 0.001 * index, plan(scenario="soak", duration_s=30.0, warmup_frames=10)
    )  # fmt: skip
    samples = found.document["latency_ms"]["samples"]
    assert sum(samples) == pytest.approx(30_000, rel=0.01)
    drift = found.document["soak"]["drift_ms_per_hour"]
    assert drift["low"] > 0
    # 1 us a frame, a frame each 11.3 ms or so: about 88 us a second
    assert drift["value"] == pytest.approx(0.088 * 3600, rel=0.1)
    assert len(found.document["soak"]["windows"]) == 30  # of a second each


def test_a_paced_soak_runs_at_its_rate(tmp_path: Path) -> None:
    found = Bench(tmp_path, scripted([10]), plan(scenario="soak", duration_s=20.0, stream=StreamPlan(5)))
    assert found.document["stream"]["arrived"] == 100


def test_layers_are_profiled_on_the_drive_when_asked(tmp_path: Path) -> None:
    clock = FakeClock()
    engine = FakeEngine(SPEC, clock, scripted([1]))
    request = Request(plan(), SampleRequest(), profile_layers=True)
    found = bench(FakeBundle(tmp_path / "f.qdbev", engine), request, tools=tools(clock, drive()))
    assert found["layers"] == [{"name": "conv", "kind": "Conv", "precision": "int8", "time_ms": 1.5}]


def test_evaluation_reads_the_document(tmp_path: Path) -> None:
    found = Bench(tmp_path, scripted([10, 12.5]), plan(frames=4))
    write_json(tmp_path / "run.json", found.document)
    assert Latency.from_bench(tmp_path / "run.json").milliseconds == (10, 12.5, 10, 12.5)


# ----------------------------------------------------------------------------------------------------------------------
# Interruption


class _InterruptedAt:
    def __init__(self, index: int) -> None:
        self.index = index

    def __call__(self, index: int) -> float:
        if index == self.index:
            raise KeyboardInterrupt
        return 10


def test_ctrl_c_ends_it_with_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    engine = FakeEngine(SPEC, clock, _InterruptedAt(7))
    with pytest.raises(KeyboardInterrupt):
        bench(FakeBundle(tmp_path / "f.qdbev", engine), Request(plan(), SampleRequest()), tools=tools(clock, drive()))
    assert engine.closed
    assert engine.closed_streams == 1
    assert gc.isenabled()


def test_ctrl_c_keeps_what_was_measured_when_asked(tmp_path: Path) -> None:
    found = Bench(tmp_path, _InterruptedAt(9), plan(keep_partial=True, repeats=3, frames=30))
    assert found.document["partial"] is True
    assert len(found.document["latency_ms"]["samples"]) == 7
    assert any("interrupted" in reason for reason in found.document["stability"]["reasons"])


def test_ctrl_c_in_a_stream_keeps_its_log(tmp_path: Path) -> None:
    found = Bench(tmp_path, _InterruptedAt(6), plan(keep_partial=True, frames=30, stream=StreamPlan(10)))
    assert found.document["stream"]["processed"] == 4
    assert found.document["stream"]["arrived"] == 5


def test_an_error_of_the_engine_is_not_swallowed(tmp_path: Path) -> None:
    def broken(index: int) -> float:
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        Bench(tmp_path, broken, plan())


# ----------------------------------------------------------------------------------------------------------------------
# The recording


def test_a_row_holds_what_it_is_given_and_nothing_of_others() -> None:
    recording = Recording(3)
    recording.repeat = 2
    recording.add(5, (10 * MS, 11 * MS, 14 * MS, 15 * MS), StageTimes(0.5, None, 0.1, 2.0, None), True)
    row = dict(zip(COLUMNS, recording.rows[0]))
    assert (row["taken_ns"], row["frame"], row["repeat"], row["reset"]) == (10 * MS, 5, 2, 1)
    assert (row["total"], row["preprocess"], row["step"], row["decode"]) == (5, 1, 3, 1)
    assert (row["host_prep"], row["enqueue"], row["compute"]) == (0.5, 0.1, 2.0)
    assert np.isnan([row["h2d"], row["d2h"]]).all()
    recording.rewind()
    assert np.isnan(recording.rows).all()
    assert recording.count == 0
