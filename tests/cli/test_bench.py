"""`qdbev-deploy bench` on a real bundle: every scenario, stored results, and what is refused in which words."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qdbev_deploy.bench.document import read
from qdbev_deploy.bench.statistics import samples_needed
from qdbev_deploy.cli import main
from qdbev_deploy.cli.bench import _DEFAULT_FRAMES
from qdbev_deploy.errors import ExitCode
from qdbev_deploy.evaluate.schedule import Latency

pytest.importorskip("torch")
FAST = ("--data", "random", "--distinct", "2", "--warmup", "1")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from qdbev_deploy.engine import build
    from qdbev_deploy.export import export_onnx
    from tests.export.students import SHORT, student

    folder = tmp_path_factory.mktemp("bench")
    model, recipe = student(SHORT)
    export_onnx(model, folder / "short.onnx", recipe=recipe, verify=False)
    return build(folder / "short.onnx", folder / "short.qdbev", verify=False).path


@pytest.fixture(scope="session")
def stored(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A short run's document; each test gets a copy to change."""
    run = tmp_path_factory.mktemp("stored") / "run.json"
    assert main(["bench", str(bundle), *FAST, "--frames", "40", "--repeats", "1", "-o", str(run)]) == ExitCode.DONE
    return read(run)


def document(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = ExitCode.DONE) -> dict[str, Any]:
    assert main(["bench", *map(str, arguments), "--json"]) == code
    return dict(json.loads(capsys.readouterr().out))


def test_the_frames_of_a_default_run_are_enough_for_its_own_p99() -> None:
    assert samples_needed(99, 0.95) <= _DEFAULT_FRAMES


def test_a_drive_is_drawn_and_measured_by_default(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    run, page = tmp_path / "run.json", tmp_path / "run.html"
    options = ("--frames", "20", "--repeats", "2", "--warmup", "2", "--distinct", "4")
    assert main(["bench", str(bundle), *options, "-o", str(run), "--report", str(page)]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert "synthetic drive of 4 frames" in text
    assert "EMULATED" in text
    assert re.search(r"TOO FEW: needs \d{4}", text)
    assert "written:" in text
    found = read(run)
    assert found["scenario"]["data"]["kind"] == "sequence"
    assert found["by_repeat"]["frames"] == [10, 10]
    # Four frames of two scenes, run over and over: 0 and 2 of each lap begin a scene. Ten frames: 0 2 4 6 8.
    assert found["scenario"]["data"]["resets"] == 10
    assert "state fed back in 10 of 20 frames, 10 begin a scene" in text
    assert "host time in the measured frames, us (p50): ego motion, state, recording" in text
    assert "harness: at least" in text
    assert found["overhead_us"]["in_measured_frames"]["rest"] > 0
    assert "MiB" not in text
    assert found["stages_ms"]["compute"]["mean"] > 0.5 * found["latency_ms"]["summary"]["mean"]
    assert len(Latency.from_bench(run).milliseconds) == 20
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    assert main(["bench", "--read", str(run)]) == ExitCode.DONE
    assert "synthetic drive of 4 frames" in capsys.readouterr().out
    both, code = tmp_path / "both.json", ExitCode.DONE
    assert main(["bench", "--compare", str(run), str(run), "-o", str(both)]) == code
    text = capsys.readouterr().out
    assert "too few repeats" in text
    found = json.loads(both.read_text())
    assert (found["schema"], found["a"]) == ("qdbev-comparison/1", str(run))
    assert found["verdict"] in ("no difference shown", "too few samples")  # of 20 frames, whatever they were
    assert found["verdict"] in text


def test_frames_made_elsewhere(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    import numpy as np

    frames = tmp_path / "frames"
    first = document(capsys, bundle, *FAST, "--frames", 4, "--save-samples", frames)
    options = ("--frames", 4, "--repeats", 1, "--warmup", 1, "--samples")
    found = document(capsys, bundle, *options, frames)
    assert found["scenario"]["data"]["source"] == first["scenario"]["data"]["source"]
    assert found["scenario"]["data"]["kind"] == "random"  # noise stays noise
    assert main(["bench", str(bundle), *FAST, "--save-samples", str(frames)]) == ExitCode.BAD_INPUT
    assert "exists already" in capsys.readouterr().err
    np.save(frames / "images.npy", np.zeros((2, 1, 6, 3, 8, 8), np.float32))
    assert main(["bench", str(bundle), *map(str, options), str(frames)]) == ExitCode.BAD_INPUT
    assert "which this bundle takes" in capsys.readouterr().err
    (frames / "frames.json").write_text("{}")
    assert main(["bench", str(bundle), *map(str, options), str(frames)]) == ExitCode.BAD_INPUT
    assert "--save-samples" in capsys.readouterr().err


def test_random_data_is_labelled_everywhere(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["bench", str(bundle), *FAST, "--frames", "6", "-o", str(tmp_path / "r.json")]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert text.count("RANDOM DATA") == 2
    assert read(tmp_path / "r.json")["scenario"]["data"]["kind"] == "random"


def test_a_stream_in_real_time(bundle: Path, capsys: Any) -> None:
    found = document(capsys, bundle, *FAST, "--scenario", "stream", "--rate", 200, "--frames", 40, "--repeats", 1,
                     "--jitter", "uniform", "--jitter-ms", 1)  # fmt: skip
    stream = found["stream"]
    assert stream["arrived"] == 40
    assert stream["processed"] + stream["dropped"] == 40
    assert stream["deadline_ms"] == 5
    assert found["latency_ms"]["summary"]["count"] == stream["processed"]


def test_preprocessing_is_a_stage_when_asked(bundle: Path, capsys: Any) -> None:
    found = document(capsys, bundle, *FAST, "--with-preprocess", "--frames", 2, "--repeats", 1)
    assert found["stages_ms"]["preprocess"]["mean"] > 0
    assert document(capsys, bundle, *FAST, "--frames", 2, "--repeats", 1, "--stages", "off")["stages_ms"] is None


def test_one_frame_a_scene_is_said_to_feed_nothing_back(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    options = ("--samples", str(drawn_frames(bundle, tmp_path)), "--warmup", "0", "--frames", "4", "--repeats", "1")
    assert main(["bench", str(bundle), *options]) == ExitCode.DONE
    assert "STATE NEVER FED BACK" in capsys.readouterr().out


def drawn_frames(bundle: Path, folder: Path) -> Path:
    """Two frames, each of a scene of its own."""
    from qdbev_deploy.bench.samples import SampleRequest, Samples, make_samples, save
    from qdbev_deploy.engine import Bundle

    made = make_samples(SampleRequest("random", count=2), Bundle.open(bundle).spec, "float32")
    frames = tuple(dataclasses.replace(frame, scene=str(index)) for index, frame in enumerate(made.frames))
    out = folder / "frames"
    out.mkdir()
    save(Samples("sequence", "two scenes", frames, native=False), out)
    return out


@pytest.mark.parametrize("kind", ["processes", "streams"])
def test_instances_side_by_side_and_beside_a_load(bundle: Path, capsys: Any, kind: str) -> None:
    beside = ("--load", "cpu", "--load-processes", 1) if kind == "streams" else ()
    found = document(capsys, bundle, *FAST, "--scenario", "co-located", "--as", kind, "--frames", 8, *beside)
    assert found["by_repeat"]["frames"] == [8, 8]
    assert found["co_located"]["instances"] == 2
    assert found["co_located"]["load"] == ("cpu" if beside else None)
    assert found["co_located"]["times_slower"]["p50"] > 0.3
    assert len(found["co_located"]["each_ms"]) == 2
    assert found["power"]["sources"] == []
    assert found["power"]["why_not"]["all"]


def test_cold_starts_are_split_into_their_phases(bundle: Path, capsys: Any) -> None:
    found = document(capsys, bundle, "--data", "random", "--scenario", "cold", "--repeats", 2)
    assert any("2 starts are too few" in reason for reason in found["stability"]["reasons"])
    assert found["scenario"]["data"]["frames"] == 1
    for section in ("memory", "power", "clocks"):
        assert found[section]["why_not"]
    phases = ("interpreter", "imports", "verification", "load", "first_frame")
    means = [found["cold"][phase]["mean"] for phase in phases]
    assert all(mean > 0 for mean in means)
    assert found["latency_ms"]["summary"]["mean"] == pytest.approx(sum(means), rel=1e-3)


def test_a_short_soak(bundle: Path, capsys: Any) -> None:
    found = document(capsys, bundle, *FAST, "--scenario", "soak", "--minutes", 0.03)
    assert sum(found["latency_ms"]["samples"]) < 1.8e3 + 500
    assert found["soak"]["windows"]
    assert found["scenario"]["options"]["duration_s"] == pytest.approx(1.8)


def test_many_frames_do_not_grow_the_memory(bundle: Path, capsys: Any) -> None:
    found = document(capsys, bundle, *FAST, "--frames", 1500, "--repeats", 1, "--warmup", 50)
    growth = found["memory"]["host"]["growth"]
    assert growth["shown"] is False
    assert growth["last_bytes"] - growth["first_bytes"] < 2 << 20


def test_under_loadgen(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    """Far more queries a second than can be answered: LoadGen's latency holds the waiting, and comes first."""
    pytest.importorskip("mlperf_loadgen")
    out, run = tmp_path / "logs", tmp_path / "run.json"
    options = ("--loadgen", "Server", "--loadgen-qps", "5000", "--loadgen-latency-ms", "70", "--loadgen-out", str(out))
    assert main(["bench", str(bundle), *FAST, "--frames", "16", *options, "-o", str(run)]) == ExitCode.DONE
    text = capsys.readouterr().out
    assert text.index("LoadGen's own latency") < text.index("service time, without LoadGen's queue")
    found = read(run)
    assert found["loadgen"]["asked"] == found["latency_ms"]["summary"]["count"] == 16
    assert (out / "mlperf_log_summary.txt").stat().st_size > 0
    # The drive starts over after each two frames; 16 samples in order are 8 laps, whatever LoadGen drew.
    assert found["scenario"]["data"]["resets"] == 8
    own = found["loadgen"]["latency_ms"]
    assert own["mean"] == float(found["loadgen"]["result"]["Mean latency (ns)"]) / 1e6
    assert own["p50"] > 2 * found["latency_ms"]["summary"]["p50"]["value"]
    assert own["p50"] <= own["p99"] <= own["max"]
    assert found["loadgen"]["result"]["target_latency (ns)"] == "70000000"
    assert found["loadgen"]["result"]["target_qps"] == "5000"
    assert found["power"]["why_not"]["all"]


def test_loadgen_that_is_not_installed(bundle: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlperf_loadgen" else real(name, *rest)
    )
    assert main(["bench", str(bundle), "--loadgen", "SingleStream"]) == ExitCode.MISSING
    assert "pip install 'qdbev-deploy[loadgen]'" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------------
# Refused


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no bundle"),
        (["absent.qdbev"], 3, "no folder"),
        ([__file__], 3, "is a file"),
        (["."], 3, "manifest.json"),
        (["BUNDLE", "--scenario", "stream"], 2, "without --rate"),
        (["BUNDLE", "--scenario", "stream", "--rate", "0"], 2, "--rate 0"),
        (["BUNDLE", "--scenario", "stream", "--rate", "-5"], 2, "--rate -5"),
        (["BUNDLE", "--scenario", "stream", "--rate", "nan"], 2, "--rate nan"),
        (["BUNDLE", "--scenario", "stream", "--rate", "inf"], 2, "--rate inf"),
        (["BUNDLE", "--scenario", "stream", "--rate", "10", "--deadline-ms", "0"], 2, "--deadline-ms 0"),
        (["BUNDLE", "--scenario", "stream", "--rate", "10", "--jitter", "normal"], 2, "jitter"),
        (["BUNDLE", "--scenario", "stream", "--rate", "10", "--jitter-ms", "3"], 2, "jitter"),
        (["BUNDLE", "--scenario", "stream", "--rate", "9", "--jitter", "normal", "--jitter-ms", "nan"], 2, "nan"),
        (
            ["BUNDLE", "--scenario", "stream", "--rate", "10", "--policy", "drop-oldest", "--queue-depth", "3"],
            2,
            "queue",
        ),
        (["BUNDLE", "--deadline-ms", "50"], 2, "--deadline-ms with --scenario single"),
        (["BUNDLE", "--rate", "10"], 2, "--rate with --scenario single"),
        (["BUNDLE", "--instances", "2"], 2, "--instances with --scenario single"),
        (["BUNDLE", "--minutes", "2"], 2, "--minutes with --scenario single"),
        (["BUNDLE", "--scenario", "co-located", "--repeats", "3"], 2, "--repeats with --scenario co-located"),
        (["BUNDLE", "--scenario", "co-located", "--layers"], 2, "--layers with --scenario co-located"),
        (["BUNDLE", "--scenario", "co-located", "--keep-partial"], 2, "--keep-partial with --scenario co-located"),
        (["BUNDLE", "--scenario", "co-located", "--load-processes", "3"], 2, "--load-processes without --load"),
        (["BUNDLE", "--scenario", "cold", "--frames", "3"], 2, "--frames with --scenario cold"),
        (["BUNDLE", "--scenario", "cold", "--layers"], 2, "--layers with --scenario cold"),
        (["BUNDLE", "--scenario", "cold", "--warmup", "0"], 2, "--warmup with --scenario cold"),
        (["BUNDLE", "--scenario", "cold", "--keep-partial"], 2, "--keep-partial with --scenario cold"),
        (["BUNDLE", "--scenario", "cold", "--stages", "on"], 2, "--stages with --scenario cold"),
        (["BUNDLE", "--scenario", "cold", "--with-preprocess"], 2, "--with-preprocess with --scenario cold"),
        (["BUNDLE", "--scenario", "soak", "--minutes", "1", "--jitter", "none"], 2, "a soak without --rate"),
        (["BUNDLE", "--loadgen", "Server", "--repeats", "2"], 2, "--repeats with --loadgen Server"),
        (["BUNDLE", "--loadgen", "Server", "--loadgen-samples", "8"], 2, "--loadgen-samples with --loadgen Server"),
        (["BUNDLE", "--loadgen", "Offline", "--loadgen-latency-ms", "8"], 2, "--loadgen-latency-ms with --loadgen Off"),
        (["BUNDLE", "--loadgen", "SingleStream", "--loadgen-qps", "8"], 2, "--loadgen-qps with --loadgen Single"),
        (["BUNDLE", "--loadgen", "SingleStream", "--layers"], 2, "--layers with --loadgen SingleStream"),
        (["BUNDLE", "--loadgen", "Server", "--loadgen-qps", "0"], 2, "--loadgen-qps 0"),
        (["BUNDLE", "--samples", "absent", "--seed", "3"], 2, "--seed with nothing that is drawn"),
        (["BUNDLE", "--compare", "a.json", "b.json"], 2, "a BUNDLE with --compare"),
        (["BUNDLE", "--read", "a.json"], 2, "a BUNDLE with --read"),
        (["--compare", "a.json", "b.json", "--report", "x.html"], 2, "--report with --compare"),
        (["--compare", "a.json", "b.json", "--scenario", "single"], 2, "--scenario with --compare"),
        (["--compare", "a.json", "b.json", "-o", "absent/x.json"], 3, "does not exist"),
        (["--read", "a.json", "--frames", "3"], 2, "--frames with --read"),
        (["--read", "a.json", "--confidence", "0.9"], 2, "--confidence with --read"),
        (["BUNDLE", "--scenario", "soak"], 2, "without its length"),
        (["BUNDLE", "--scenario", "soak", "--hours", "nan"], 2, "--hours nan"),
        (["BUNDLE", "--scenario", "soak", "--minutes", "1", "--frames", "9"], 2, "--frames with --scenario soak"),
        (["BUNDLE", "--scenario", "co-located", "--instances", "0"], 2, "--instances 0"),
        (["BUNDLE", "--frames", "0"], 2, "--frames 0"),
        (["BUNDLE", "--frames", "2", "--repeats", "3"], 2, "at least one frame a repeat"),
        (["BUNDLE", "--repeats", "0"], 2, "--repeats 0"),
        (["BUNDLE", "--warmup", "-1"], 2, "--warmup -1"),
        (["BUNDLE", "--confidence", "1"], 2, "--confidence 1"),
        (["BUNDLE", "--confidence", "nan"], 2, "--confidence nan"),
        (["BUNDLE", "--distinct", "0"], 2, "--distinct 0"),
        (["BUNDLE", "--scene", "scene-0061"], 2, "--scene without --dataroot"),
        (["BUNDLE", "--data", "random", "--dataroot", "."], 2, "noise or a drive"),
        (["BUNDLE", "--loadgen", "SingleStream", "--scenario", "stream", "--rate", "3"], 2, "--loadgen with"),
        (["BUNDLE", "--samples", "absent"], 3, "holds no frames that can be read"),
        (["BUNDLE", "--samples", "absent", "--distinct", "3"], 2, "--samples with --distinct"),
        (["BUNDLE", "--samples", "absent", "--data", "random"], 2, "--samples with --data random"),
        (["BUNDLE", "--loadgen-out", "logs"], 2, "--loadgen-out with --scenario single"),
        (["BUNDLE", "-o", "absent/run.json"], 3, "does not exist"),
        (["BUNDLE", "-o", "x", "--report", "x"], 2, "two names"),
        (["BUNDLE", "--dataroot", "absent"], 3, "absent"),
        (["BUNDLE", "--cuda-graph", "on", "--data", "random", "--distinct", "1"], 3, "CUDA graph"),
        (["--compare", "absent.json", "absent.json"], 3, "no file"),
        (["--compare", __file__, __file__], 3, "cannot be read as JSON"),
        (["--read", "absent.json"], 3, "no file"),
        (["--read", "absent.json", "-o", "x.json"], 2, "-o with --read"),
    ],
)
def test_bad_inputs_are_sentences(
    bundle: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int,
    words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *(str(bundle) if argument == "BUNDLE" else argument for argument in arguments)]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_load_needs_a_gpu(bundle: Path, capsys: Any) -> None:
    from qdbev_deploy.machine import cuda_driver

    if cuda_driver() is not None:
        pytest.skip("this machine has a GPU driver")
    code = main(["bench", str(bundle), *FAST, "--scenario", "co-located", "--load", "gpu", "--frames", "2"])
    assert code == ExitCode.MISSING
    assert "libcuda" in capsys.readouterr().err


def test_compare_refuses_random_with_a_drive_and_strict_fails_when_slower(
    stored: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    run, a = tmp_path / "a.json", json.loads(json.dumps(stored))
    a["latency_ms"]["samples"] = [10 + index * 7 % 5 / 100 for index in range(40)]
    run.write_text(json.dumps(a))
    other = {**a, "scenario": {**a["scenario"], "data": {**a["scenario"]["data"], "kind": "sequence"}}}
    (tmp_path / "sequence.json").write_text(json.dumps(other))
    capsys.readouterr()
    assert main(["bench", "--compare", str(run), str(tmp_path / "sequence.json")]) == ExitCode.BAD_INPUT
    slow = json.loads(json.dumps(a))
    slow["latency_ms"]["samples"] = [value * 3 for value in a["latency_ms"]["samples"]]
    (tmp_path / "slow.json").write_text(json.dumps(slow))
    assert main(["bench", "--compare", str(run), str(tmp_path / "slow.json"), "--strict"]) == ExitCode.GUARD
    assert "slower" in capsys.readouterr().out
    assert main(["bench", "--compare", str(run), str(tmp_path / "slow.json")]) == ExitCode.DONE


def test_strict_fails_an_unstable_run(tmp_path: Path, capsys: Any, stored: dict[str, Any]) -> None:
    run, found = tmp_path / "a.json", dict(stored)
    found["stability"] = {"stable": False, "reasons": ["latency scatters: CoV 44.0%, limit 10%"]}
    run.write_text(json.dumps(found))
    capsys.readouterr()
    assert main(["bench", "--read", str(run), "--strict"]) == ExitCode.GUARD
    assert "UNSTABLE: do not quote these numbers\n  - latency scatters: CoV 44.0%" in capsys.readouterr().out
    assert main(["bench", "--read", str(run)]) == ExitCode.DONE


@pytest.mark.parametrize("keep", [False, True])
def test_ctrl_c_leaves_nothing_or_what_was_asked_for(bundle: Path, tmp_path: Path, keep: bool) -> None:
    run, started = tmp_path / "run.json", tmp_path / "err"
    command = [sys.executable, "-m", "qdbev_deploy.cli", "bench", str(bundle), *FAST, "--scenario", "soak",
               "--hours", "1", "-o", str(run), *(["--keep-partial"] if keep else [])]  # fmt: skip
    with started.open("w") as stderr:
        # A test run in a shell's background ignores SIGINT, and so would its children.
        process = subprocess.Popen(
            command, stderr=stderr, stdout=subprocess.DEVNULL, cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            _wait_until_it_measures(process)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == ExitCode.INTERRUPTED
        finally:
            process.kill()
    assert "Traceback" not in started.read_text()
    assert run.exists() is keep
    assert {path.name for path in tmp_path.iterdir()} == {"err", *(["run.json"] if keep else [])}
    if keep:
        found = read(run)
        assert found["partial"] is True
        assert not found["stability"]["stable"]


def _wait_until_it_measures(process: subprocess.Popen[bytes]) -> None:
    """Until its processor time goes up without a child: frames are prepared by one, and then it measures."""
    deadline = time.monotonic() + 60
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    seen_child = False
    while time.monotonic() < deadline and process.poll() is None:
        alive = bool(children.read_text().split())
        if seen_child and not alive:
            time.sleep(2.0)
            return
        seen_child = seen_child or alive
        time.sleep(0.02)
    pytest.fail("the benchmark never came to measure")
