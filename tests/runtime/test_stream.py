"""The C++ runtime against the Python session on the same bundles: states carried and dropped, boxes, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from qdbev_deploy.data.preprocess import preprocess
from tests.engine.students import SPEC, Students, make_students
from tests.runtime.programs import assert_same, in_python, run, saved, streamed


def test_boxes_and_resets_are_those_of_the_python_session(students: Students, tmp_path: Path) -> None:
    frames = list(students.drive)
    late = dataclasses.replace(frames[-1].ego, timestamp_us=frames[-1].ego.timestamp_us + 5_000_000)
    frames.append(dataclasses.replace(frames[-1], ego=late))
    document = streamed(students.bundle.path, saved(tmp_path / "drive", frames), "--warmup", 3, "--repeats", 2)
    expected = in_python(students.bundle, frames)
    assert {reason for reason, _ in expected} == {"first frame", "", "new scene", "gap of 5.00 s"}
    assert_same(document, expected)
    assert document["backend"] == "onnxruntime"
    assert document["precision"] == students.bundle.precision
    assert document["variant"] == students.bundle.spec.name
    assert {len(values) for values in document["milliseconds"].values()} == {2 * len(frames)}
    if document["allocations"] is not None:
        assert document["allocations"]["frames"] == 2 * len(frames)
        assert document["allocations"]["process"] >= document["allocations"]["thread"]


def test_native_frames_are_prepared_as_python_prepares_them(students: Students, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (6, *SPEC.preprocess.source_hw, 3), dtype=np.uint8)
    first, second = students.drive[:2]
    native = [dataclasses.replace(frame, image=pixels[None]) for frame in (first, second)]
    prepared = [dataclasses.replace(frame, image=preprocess(pixels, SPEC.preprocess)[None]) for frame in native]
    document = streamed(students.bundle.path, saved(tmp_path / "drive", native, native=True))
    assert_same(document, in_python(students.bundle, prepared))


def test_fp16_states_and_native_inputs(native_students: Students, tmp_path: Path) -> None:
    document = streamed(native_students.bundle.path, saved(tmp_path / "drive", native_students.drive))
    assert_same(document, in_python(native_students.bundle, native_students.drive))


def test_every_decoder_layer_and_a_flag_without_axes(tmp_path: Path) -> None:
    folder = tmp_path / "mlperf"
    folder.mkdir()
    students = make_students(folder, verify=False, count=3, io="mlperf")
    document = streamed(students.bundle.path, saved(tmp_path / "drive", students.drive))
    assert_same(document, in_python(students.bundle, students.drive))


def test_options_reach_the_session(students: Students, tmp_path: Path) -> None:
    drive = saved(tmp_path / "drive", students.drive[:2])
    everything = streamed(students.bundle.path, drive)
    scores = [box["score"] for box in everything["frames"][1]["boxes"]]
    bar = scores[len(scores) // 2]
    some = streamed(students.bundle.path, drive, "--min-score", bar, "--spin", "--threads", 1)
    found = [box["score"] for box in some["frames"][1]["boxes"]]
    assert 0 < len(found) < len(scores)
    assert min(found) >= np.float32(bar) * (1 - 1e-6)
    assert some["options"]["wait"] == "spin"
    done = run("qdbev-stream", students.bundle.path, "--samples", drive, "--cuda-graph")
    assert done.returncode != 0
    assert "CUDA graph" in done.stderr


def damaged(bundle: Path, folder: Path, file: str) -> Path:
    copy = folder / "copy.qdbev"
    shutil.copytree(bundle, copy)
    data = bytearray((copy / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / file).write_bytes(data)
    return copy


@pytest.mark.parametrize("file", ["model.onnx", "contract.json", "guard.json", "layers.json"])
def test_a_bundle_that_was_changed_is_not_loaded(students: Students, tmp_path: Path, file: str) -> None:
    done = run("qdbev-stream", damaged(students.bundle.path, tmp_path, file), "--samples", tmp_path)
    assert done.returncode == 3
    assert f"{file} was changed" in done.stderr
    assert "next:" in done.stderr


def test_what_is_missing_is_named(students: Students, tmp_path: Path) -> None:
    drive = saved(tmp_path / "drive", students.drive[:1])
    there = (students.bundle.path, "--samples", drive)
    lost = run("qdbev-stream", *there, "--library", tmp_path / "libonnxruntime.so")
    assert lost.returncode == 4
    assert "ONNX Runtime" in lost.stderr
    no_bundle = run("qdbev-stream", tmp_path / "none.qdbev", "--samples", drive)
    assert no_bundle.returncode == 3
    assert "none.qdbev" in no_bundle.stderr
    no_samples = run("qdbev-stream", students.bundle.path, "--samples", tmp_path / "nowhere")
    assert no_samples.returncode == 3
    assert "--save-samples" in no_samples.stderr
    (drive / "lidar2img.npy").unlink()
    os.mkfifo(drive / "lidar2img.npy")  # would wait for a writer
    pipe = run("qdbev-stream", students.bundle.path, "--samples", drive)
    assert pipe.returncode == 3
    assert "lidar2img.npy" in pipe.stderr


def test_frames_of_another_size_are_refused(students: Students, tmp_path: Path) -> None:
    small = dataclasses.replace(students.drive[0], image=students.drive[0].image[..., :-2])
    done = run("qdbev-stream", students.bundle.path, "--samples", saved(tmp_path / "drive", [small]))
    assert done.returncode == 3
    assert "images.npy" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no bundle"),
        (["a.qdbev"], "no --samples"),
        (["a.qdbev", "--samples", "d", "--repeats", "0"], "--repeats 0"),
        (["a.qdbev", "--samples", "d", "--repeats", "1.5"], "whole number"),
        (["a.qdbev", "--samples", "d", "--min-score", "x"], "--min-score x"),
        (["a.qdbev", "--samples", "d", "b.qdbev"], "'b.qdbev'"),
        (["a.qdbev", "--samples"], "--samples without a value"),
        (["--fast"], "'--fast'"),
    ],
)
def test_misuse_is_told(words: list[str], says: str) -> None:
    done = run("qdbev-stream", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "qdbev-stream --help" in done.stderr


def test_results_appear_whole_or_not_at_all(students: Students, tmp_path: Path) -> None:
    drive = saved(tmp_path / "drive", students.drive[:1])
    out = tmp_path / "out.json"
    done = run("qdbev-stream", students.bundle.path, "--samples", drive, "--json", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text(encoding="utf-8"))["data"] == "a drive of noise"
    assert f"1 frames of a drive of noise, {SPEC.max_boxes} boxes" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive", "out.json"]
    link = tmp_path / "link.json"
    link.symlink_to(out)
    out.write_text("old", encoding="utf-8")
    table = run("qdbev-stream", students.bundle.path, "--samples", drive, "--json", link).stdout
    assert link.is_symlink()
    assert json.loads(out.read_text(encoding="utf-8"))["frames"]
    assert re.search(r"^total +[0-9.]+ +- +- +[0-9.]+$", table, re.MULTILINE)  # one frame has no p99
    full = run("qdbev-stream", students.bundle.path, "--samples", drive, "--json", "/dev/full")
    assert full.returncode == 3
    assert Path("/dev/full").is_char_device()
    nowhere = run("qdbev-stream", students.bundle.path, "--samples", drive, "--json", tmp_path / "no" / "out.json")
    assert nowhere.returncode == 3
    assert "cannot be written" in nowhere.stderr


def test_the_program_in_c_says_what_it_sees(students: Students, tmp_path: Path) -> None:
    done = run("qdbev-minimal", students.bundle.path)
    assert done.returncode == 0, done.stderr
    assert f"{SPEC.max_boxes} boxes in" in done.stdout
    assert "first frame" in done.stdout
    assert students.bundle.precision in done.stdout
    refused = run("qdbev-minimal", damaged(students.bundle.path, tmp_path, "model.onnx"))
    assert refused.returncode == 3
    assert "model.onnx was changed" in refused.stderr


def test_nothing_is_gathered_about_its_users(students: Students, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = run("qdbev-minimal", students.bundle.path, env={"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")})
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
