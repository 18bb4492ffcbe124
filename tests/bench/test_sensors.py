"""Each reader on files as a board has them, and on a fake NVML; what cannot be read says why and is never 0."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path
from typing import Any

import pytest

from qdbev_deploy.bench import facts
from qdbev_deploy.bench.facts import cpu_name, system_facts
from qdbev_deploy.bench.load import copy_in_gpu_memory, multiply
from qdbev_deploy.bench.recording import Recording
from qdbev_deploy.bench.samples import available_memory_bytes
from qdbev_deploy.bench.sensors import nvml
from qdbev_deploy.bench.sensors.jetson import (
    Ina3221,
    JetsonGpuClock,
    JetsonMemory,
    Tegrastats,
    parse_tegrastats,
    power_mode,
)
from qdbev_deploy.bench.sensors.linux import CpuClock, Rapl, Thermal
from qdbev_deploy.bench.sensors.nvml import Nvml, mps, throttle_names
from qdbev_deploy.bench.sensors.process import Contention, FamilyTime, ProcessMemory
from qdbev_deploy.bench.watch import Watch, find_sensors
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.machine import Driver, Gpu
from tests.bench.fakes import MS, FakeClock, FakeSensor


def files(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_process_memory_is_that_of_proc(tmp_path: Path) -> None:
    proc = files(
        tmp_path, {"statm": "5000 1234 300 1 0 2000 0\n", "status": "Name:\tx\nVmHWM:\t  6000 kB\nVmRSS:\t1 kB\n"}
    )
    memory = ProcessMemory(proc)
    assert memory.read() == {"rss_bytes": 1234 * os.sysconf("SC_PAGE_SIZE")}
    assert memory.peak_bytes() == 6000 * 1024
    assert ProcessMemory(tmp_path / "none").missing()
    assert math.isnan(ProcessMemory(tmp_path / "none").read()["rss_bytes"])


def test_process_memory_sees_what_this_process_allocates() -> None:
    memory = ProcessMemory()
    before = memory.read()["rss_bytes"]
    held = bytearray(os.urandom(1 << 20) * 32)
    assert memory.read()["rss_bytes"] - before > 24 << 20
    assert len(held) == 32 << 20


def test_contention_reads_the_whole_machine(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    stat = files(tmp_path, {"stat": "cpu  100 20 30 1000 5 1 2 40 0 0\ncpu0 1 1 1\n"}) / "stat"
    found = Contention(stat).read()
    assert found["machine_busy_s"] == pytest.approx((100 + 20 + 30 + 1 + 2) / ticks)
    assert found["stolen_s"] == pytest.approx(40 / ticks)
    assert found["process_busy_s"] > 0
    assert Contention(tmp_path / "none").missing()


def test_cpu_clocks_and_throttling(tmp_path: Path) -> None:
    root = files(tmp_path, {
        "cpu0/cpufreq/scaling_cur_freq": "2000000\n", "cpu1/cpufreq/scaling_cur_freq": "3000000\n",
        "cpu0/thermal_throttle/core_throttle_count": "2\n", "cpu1/thermal_throttle/core_throttle_count": "3\n",
    })  # fmt: skip
    assert CpuClock(root).read() == {"cpu_clock_mhz": 2500, "cpu_throttle_count": 5}
    assert "no readable cpufreq" in (CpuClock(tmp_path / "none").missing() or "")


def test_the_hottest_zone(tmp_path: Path) -> None:
    root = files(
        tmp_path, {"thermal_zone0/temp": "41000\n", "thermal_zone1/temp": "55500\n", "thermal_zone2/temp": "?"}
    )
    assert Thermal(root).read() == {"board_temperature_c": 55.5}
    assert Thermal(tmp_path / "none").missing()


def test_rapl_adds_packages_and_undoes_the_wrap(tmp_path: Path) -> None:
    root = files(tmp_path, {
        "intel-rapl:0/name": "package-0\n", "intel-rapl:0/energy_uj": "9000000\n",
        "intel-rapl:0/max_energy_range_uj": "10000000\n",
        "intel-rapl:1/name": "package-1\n", "intel-rapl:1/energy_uj": "0\n",
        "intel-rapl:0:0/name": "core\n", "intel-rapl:0:0/energy_uj": "77\n",
        "intel-rapl:2/name": "psys\n", "intel-rapl:2/energy_uj": "55\n",
    })  # fmt: skip
    rapl = Rapl(root)
    assert rapl.missing() is None
    assert rapl.read() == {"cpu_energy_j": 0}
    (root / "intel-rapl:0/energy_uj").write_text("2000000")  # 9 -> 10 = 0 -> 2: three joules
    (root / "intel-rapl:1/energy_uj").write_text("1000000")
    assert rapl.read() == {"cpu_energy_j": pytest.approx(4.0)}
    (root / "intel-rapl:1/energy_uj").unlink()
    assert math.isnan(rapl.read()["cpu_energy_j"])
    assert "no intel-rapl" in (Rapl(tmp_path / "none").missing() or "")


ORIN = {
    "1-0040/hwmon/hwmon3/in1_label": "VDD_GPU_SOC\n", "1-0040/hwmon/hwmon3/in1_input": "5000\n",
    "1-0040/hwmon/hwmon3/curr1_input": "2000\n",
    "1-0040/hwmon/hwmon3/in2_label": "VDD_CPU_CV\n", "1-0040/hwmon/hwmon3/in2_input": "5000\n",
    "1-0040/hwmon/hwmon3/curr2_input": "1000\n",
    "1-0040/hwmon/hwmon3/in3_label": "NC\n", "1-0040/hwmon/hwmon3/in3_input": "5000\n",
    "1-0040/hwmon/hwmon3/curr3_input": "9000\n",
}  # fmt: skip


def test_ina3221_adds_rails_or_takes_the_input(tmp_path: Path) -> None:
    monitor = Ina3221(files(tmp_path / "agx", ORIN))
    assert monitor.rails() == {"VDD_GPU_SOC": 10.0, "VDD_CPU_CV": 5.0}
    assert monitor.read() == {"board_power_w": 15.0}
    nano = {name.replace("in1_label", "in1_label"): text for name, text in ORIN.items()}
    nano["1-0040/hwmon/hwmon3/in1_label"] = "VDD_IN\n"
    assert Ina3221(files(tmp_path / "nano", nano)).read() == {"board_power_w": 10.0}  # it holds the others
    (tmp_path / "agx/1-0040/hwmon/hwmon3/curr1_input").unlink()
    assert math.isnan(monitor.read()["board_power_w"])
    assert Ina3221(tmp_path / "none").missing()


ORIN_LINE = (
    "11-20-2026 12:00:00 RAM 5120/30536MB (lfb 4x4MB) SWAP 0/15268MB CPU [12%@1190,off,3%@1190] EMC_FREQ 2%@2133 "
    "GR3D_FREQ 87%@[1300,1295] VIC_FREQ 729 CPU@48.5C tboard@36C SOC2@45.187C tj@49.25C "
    "VDD_GPU_SOC 8000mW/7900mW VDD_CPU_CV 1500mW/1400mW VIN_SYS_5V0 3000mW/3000mW"
)
XAVIER_LINE = (
    "RAM 4722/7771MB (lfb 2x4MB) CPU [5%@1190] EMC_FREQ 0% GR3D_FREQ 45% AO@38.5C GPU@39C PMIC@50C "
    "VDD_IN 9512/9380 VDD_CPU_GPU_CV 2300/2200"
)


def test_a_rail_that_another_feeds_is_not_counted_twice(tmp_path: Path) -> None:
    """AGX Orin: its memory's rail hangs on the 5 V of its system, and both are monitored."""
    memory = {"in2_label": "VDDQ_VDD2_1V8AO\n", "in2_input": "5000\n", "curr2_input": "300\n"}
    system = {"in3_label": "VIN_SYS_5V0\n", "in3_input": "5000\n", "curr3_input": "800\n"}
    root = files(tmp_path / "agx", {
        **ORIN, **{f"1-0040/hwmon/hwmon3/{name}": text for name, text in system.items()},
        **{f"1-0041/hwmon/hwmon4/{name}": text for name, text in memory.items()},
    })  # fmt: skip
    assert Ina3221(root).read() == {"board_power_w": pytest.approx(10 + 5 + 4)}
    assert parse_tegrastats(ORIN_LINE + " VDDQ_VDD2_1V8AO 900mW/900mW")["board_power_w"] == pytest.approx(12.5)
    # AGX Xavier monitors its memory apart from its 5 V.
    assert parse_tegrastats("GPU 1000/1 CPU 500/1 VDDRQ 300/1 SYS5V 200/1")["board_power_w"] == pytest.approx(2.0)


def test_a_jetsons_memory_is_that_of_the_board(tmp_path: Path) -> None:
    meminfo = files(tmp_path, {"meminfo": "MemTotal: 900 kB\nMemFree: 5 kB\nMemAvailable:    600 kB\n"}) / "meminfo"
    model = files(tmp_path, {"model": "NVIDIA Jetson Orin NX\0"}) / "model"
    board = JetsonMemory(meminfo, tmp_path / "none", model)
    assert board.missing() is None
    assert board.read() == {"board_memory_used_bytes": 300 * 1024}
    assert "no Jetson" in (JetsonMemory(meminfo, tmp_path / "none", tmp_path / "none").missing() or "")
    assert JetsonMemory(tmp_path / "none", tmp_path / "none", model).missing()


def test_a_family_spends_the_time_of_its_members_and_the_rest_is_others(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")

    def at(machine_s: int, child_s: int) -> FamilyTime:
        half = child_s * ticks // 2
        files(tmp_path, {
            "stat": f"cpu  {machine_s * ticks} 0 0 1000 5 0 0 0 0 0\n",
            "7/stat": f"7 (a) b) R {'0 ' * 10}{half} {half} 0 0\n",
        })  # fmt: skip
        return FamilyTime.now([7, 8], tmp_path)

    first, second = at(100, 10), at(160, 60)
    assert second.family_s - first.family_s == pytest.approx(50, abs=0.5)  # and what this test took
    later = FamilyTime(first.moment_s + 20, second.machine_s, first.family_s + 50, second.stolen_s)
    found = later.since(first, 5.0)
    assert (found["others_busy_cores"], found["own_busy_cores"]) == (pytest.approx(0.5), pytest.approx(2.5))
    assert found["stolen_cores"] == 0
    assert set(later.since(first, 30.0).values()) == {None}


def test_tegrastats_lines_of_two_generations() -> None:
    assert parse_tegrastats(ORIN_LINE) == {
        "board_power_w": pytest.approx(12.5), "board_memory_used_bytes": 5120 * 2**20, "gpu_load_percent": 87.0,
        "gpu_clock_mhz": 1300.0, "board_temperature_c": 49.25,
    }  # fmt: skip
    found = parse_tegrastats(XAVIER_LINE)
    assert found["board_power_w"] == pytest.approx(9.512)
    assert "gpu_clock_mhz" not in found
    assert parse_tegrastats("") == {}


def test_tegrastats_is_followed_and_ended(tmp_path: Path) -> None:
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\nwhile true; do echo '{ORIN_LINE}'; sleep 0.05; done\n")
    program.chmod(0o755)
    sensor = Tegrastats(program=str(program))
    assert sensor.missing() is None
    assert sensor.read()["board_power_w"] == pytest.approx(12.5)
    sensor.close()
    assert math.isnan(sensor.read()["board_power_w"])  # and not what it said last
    program.write_text("#!/bin/sh\necho nothing of use\n")
    silent = Tegrastats(program=str(program))
    assert "said nothing" in (silent.missing() or "")
    silent.close()


def test_jetson_clock_and_power_mode(tmp_path: Path) -> None:
    root = files(tmp_path, {"17000000.ga10b/cur_freq": "918000000\n", "other/cur_freq": "1\n"})
    assert JetsonGpuClock(root).read()["gpu_clock_mhz"] == 918.0
    assert math.isnan(JetsonGpuClock(root).read()["gpu_load_percent"])
    files(tmp_path, {"17000000.ga10b/device/load": "437\n"})
    assert JetsonGpuClock(root).read()["gpu_load_percent"] == pytest.approx(43.7)
    assert JetsonGpuClock(tmp_path / "none").missing()
    status = files(tmp_path, {"status": "pmode:0002\n"}) / "status"
    assert power_mode(status) == "nvpmodel pmode:0002"
    cpu = files(tmp_path, {"cpu/cpu0/cpufreq/scaling_governor": "performance\n"}) / "cpu"
    assert power_mode(tmp_path / "none", cpu) == "CPU governor performance"
    assert "not known" in power_mode(tmp_path / "none", tmp_path / "none")


# ----------------------------------------------------------------------------------------------------------------------
# NVML


BUS_ID = "0000:3B:00.0"


class FakeNvml:
    """As much of libnvidia-ml as is asked; what a GPU does not offer returns NVML_ERROR_NOT_SUPPORTED."""

    def __init__(self, *, working: bool = True, mig: int | None = 0, lacks: tuple[str, ...] = ()) -> None:
        self.working, self.mig, self.shut = working, mig, False
        self.lacks = lacks

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("lacks", ()):
            return lambda *arguments: 3
        values = {
            "nvmlDeviceGetTotalEnergyConsumption": 123_000, "nvmlDeviceGetPowerUsage": 250_500,
            "nvmlDeviceGetTemperature": 61, "nvmlDeviceGetCurrentClocksThrottleReasons": 0x24,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
        }  # fmt: skip
        if name in values:
            return lambda *arguments: self._put(arguments[-1], values[name])
        if name in ("nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo"):
            return lambda device, kind, out: self._put(out, {1: 1980, 2: 2619}[kind])
        raise AttributeError(name)

    @staticmethod
    def _put(out: Any, value: int) -> int:
        out._obj.value = value
        return 0

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0 if self.working else 9

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.shut = True
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus_id: bytes, out: Any) -> int:  # noqa: N802
        return 0 if bus_id == BUS_ID.encode() else 6

    def nvmlDeviceGetMemoryInfo(self, device: Any, out: Any) -> int:  # noqa: N802
        out._obj.total, out._obj.used = 100, 40
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, device: Any, count: Any, processes: Any) -> int:  # noqa: N802
        processes[0].pid, processes[0].used = 1, 7
        processes[1].pid, processes[1].used = os.getpid(), 33
        count._obj.value = 2
        return 0

    def nvmlDeviceGetName(self, device: Any, buffer: Any, size: int) -> int:  # noqa: N802
        buffer.value = b"A GPU"
        return 0

    def nvmlSystemGetDriverVersion(self, buffer: Any, size: int) -> int:  # noqa: N802
        buffer.value = b"550.1"
        return 0

    def nvmlDeviceGetMigMode(self, device: Any, current: Any, pending: Any) -> int:  # noqa: N802
        if self.mig is None:
            return 3
        current._obj.value = self.mig
        return 0


def test_nvml_readings() -> None:
    sensor = Nvml(BUS_ID, FakeNvml())
    assert sensor.missing() is None
    assert sensor.read() == {
        "gpu_energy_j": 123.0, "gpu_power_w": 250.5, "gpu_clock_mhz": 1980, "gpu_memory_clock_mhz": 2619,
        "gpu_temperature_c": 61, "gpu_throttle_mask": 0x24, "gpu_memory_used_bytes": 40, "gpu_process_bytes": 33,
    }  # fmt: skip
    assert sensor.facts() == {
        "name": "A GPU", "driver": "550.1", "memory_bytes": 100, "power_limit_w": 700.0, "max_clock_mhz": 1980,
        "mig": False,
    }  # fmt: skip
    assert throttle_names(0x24 | 0x1 | 0x2) == ["software power cap", "software thermal slowdown"]


def test_what_a_gpu_does_not_offer_is_no_number() -> None:
    lacks = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetEnforcedPowerLimit")
    sensor = Nvml(BUS_ID, FakeNvml(lacks=lacks, mig=None))
    assert math.isnan(sensor.read()["gpu_energy_j"])
    assert sensor.read()["gpu_power_w"] == 250.5
    assert sensor.facts()["power_limit_w"] is None
    assert sensor.mig() is None
    assert Nvml(BUS_ID, FakeNvml(mig=1)).mig() is True
    assert "does not initialise" in (Nvml(BUS_ID, FakeNvml(working=False)).missing() or "")
    assert "no GPU at 0000:99:00.0" in (Nvml("0000:99:00.0", FakeNvml()).missing() or "")
    assert "CUDA shows this process no GPU" in (Nvml("", FakeNvml()).missing() or "")


def test_the_gpu_that_is_read_is_the_one_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's first GPU may be NVML's second: the PCI bus tells them apart, and CUDA's name stays."""
    driver = Driver((12, 6), (Gpu("The measured GPU", (9, 0), 77, BUS_ID), Gpu("Another", (8, 0), 5, "0000:01:00.0")))
    monkeypatch.setattr(facts, "cuda_driver", lambda: driver)
    asked: list[str] = []

    def load(name: str) -> FakeNvml:
        asked.append(name)
        return FakeNvml()

    monkeypatch.setattr(nvml.ctypes, "CDLL", load)
    sensors = find_sensors()
    sensor = sensors.named("NVML")
    assert isinstance(sensor, Nvml)
    assert asked == ["libnvidia-ml.so.1"]
    assert sensor.read()["gpu_power_w"] == 250.5
    gpu = system_facts(sensor)["gpu"]
    assert (gpu["name"], gpu["memory_bytes"], gpu["pci_bus_id"]) == ("The measured GPU", 77, BUS_ID)
    assert (gpu["driver"], gpu["power_limit_w"]) == ("550.1", 700.0)  # what CUDA does not say
    sensors.close()
    monkeypatch.setattr(facts, "cuda_driver", lambda: None)
    assert "CUDA shows this process no GPU" in find_sensors().missing["NVML"]


def test_nvml_is_closed_only_where_it_was_opened() -> None:
    fake = FakeNvml()
    Nvml(BUS_ID, fake).close()
    assert fake.shut
    broken = FakeNvml(working=False)
    Nvml(BUS_ID, broken).close()
    assert not broken.shut


def test_mps_is_named(tmp_path: Path) -> None:
    proc = files(tmp_path, {"12/comm": "bash\n", "13/comm": "nvidia-cuda-mps-control\n"})
    assert mps(proc, {}) == "nvidia-cuda-mps-control is running"
    assert mps(tmp_path / "none", {}) is None
    assert "CUDA_MPS_PIPE_DIRECTORY=/tmp/mps" in (mps(tmp_path / "none", {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/mps"}) or "")


# ----------------------------------------------------------------------------------------------------------------------
# Together


def test_here_something_is_found_and_the_rest_has_reasons() -> None:
    sensors = find_sensors()
    assert sensors.named("process memory") is not None
    for sensor in sensors.present:
        assert sensor.missing() is None
        assert all(isinstance(value, float) for value in sensor.read().values())
    assert all(len(why) > 10 for why in sensors.missing.values())
    sensors.close()


def test_the_watch_reads_once_a_period_and_leaves_a_stream_alone() -> None:
    clock, recording = FakeClock(), Recording(10)
    sensor = FakeSensor("x", value=float)
    watch = Watch([sensor], recording, clock, period_ns=100 * MS)
    watch.between(None)
    assert sensor.reads == 2  # the first named the columns
    clock.now += 50 * MS
    watch.between(None)
    assert sensor.reads == 2
    clock.now += 60 * MS
    watch.between(clock.now + 5 * MS)  # the next frame is near
    assert sensor.reads == 2
    watch.between(clock.now + 50 * MS)
    assert sensor.reads == 3
    clock.now += 2000 * MS
    watch.between(clock.now + 5 * MS)  # never for too long
    assert sensor.reads == 4


def test_the_watch_of_a_long_run_thins_out_and_keeps_the_whole_span() -> None:
    clock, recording = FakeClock(), Recording(1)
    watch = Watch([FakeSensor("x", value=float)], recording, clock, period_ns=1)
    for _ in range(20_000):
        clock.now += 10 * MS
        watch.read()
    moments = watch.readings().columns["moment_ns"]
    assert 4000 < len(moments) <= 8192
    assert moments[-1] - moments[0] > 0.99 * 20_000 * 10 * MS
    assert (moments[1:] > moments[:-1]).all()


def test_facts_of_this_machine_and_of_a_board(tmp_path: Path) -> None:
    found = system_facts()
    assert found["cores"] >= found["cores_allowed"] >= 1
    assert found["versions"]["numpy"]
    assert found["memory_bytes"] > 1 << 28
    board = files(tmp_path, {"model": "NVIDIA Jetson AGX Orin\0"}) / "model"
    assert cpu_name(device_tree=board) == "NVIDIA Jetson AGX Orin"
    cpuinfo = files(tmp_path, {"cpuinfo": "processor: 0\nmodel name\t: A CPU @ 2 GHz\n"}) / "cpuinfo"
    assert cpu_name(cpuinfo, tmp_path / "none") == "A CPU @ 2 GHz"
    meminfo = files(tmp_path, {"meminfo": "MemTotal: 9 kB\nMemAvailable:    100 kB\n"}) / "meminfo"
    assert available_memory_bytes(meminfo) == 102_400
    assert available_memory_bytes(tmp_path / "none") is None


# ----------------------------------------------------------------------------------------------------------------------
# Loads


def test_a_cpu_load_runs_until_it_is_stopped() -> None:
    said: list[str] = []
    multiply(lambda: said.append("ready"), lambda: len(said) > 3 or bool(said.append("round")))
    assert said == ["ready", "round", "round", "round"]


class FakeCuda:
    def __init__(self, fails: str = "") -> None:
        self.calls: list[str] = []
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return 2 if name == self.fails else 0

        return call


def test_a_gpu_load_copies_and_frees() -> None:
    cuda, rounds = FakeCuda(), []
    copy_in_gpu_memory(lambda: None, lambda: len(rounds) == 2 or bool(rounds.append(1)), cuda)
    assert cuda.calls.count("cuMemcpyDtoDAsync_v2") == 16
    assert cuda.calls.count("cuMemAlloc_v2") == cuda.calls.count("cuMemFree_v2") == 2
    assert cuda.calls[-1] == "cuDevicePrimaryCtxRelease_v2"


def test_a_gpu_load_without_a_gpu_says_so() -> None:
    with pytest.raises(QdbevError, match="cuInit returned 2") as caught:
        copy_in_gpu_memory(lambda: None, lambda: True, FakeCuda("cuInit"))
    assert caught.value.exit_code == ExitCode.MISSING
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(QdbevError, match="libcuda"):
            copy_in_gpu_memory(lambda: None, lambda: True)
