"""The C++ runtime's mathematics of a step against this package's: equal to the bit, but for exp and atan2."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qdbev_deploy.boxes import decode
from qdbev_deploy.contract import VARIANTS, PreprocessSpec, VariantSpec
from qdbev_deploy.data.preprocess import preprocess, scale_lidar2img
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.streaming import EgoState, StreamingSession, can_bus_vector
from tests.runtime.programs import program

Array = npt.NDArray[Any]


class Runtime:
    """`same_as_python` and the folder through which it is spoken to."""

    def __init__(self, folder: Path) -> None:
        self._program = program("same_as_python")
        self._folder = folder

    def lines(self, what: str, **files: Array | str) -> list[str]:
        for name, content in files.items():
            if isinstance(content, str):
                (self._folder / name).write_text(content, encoding="utf-8")
            else:
                np.ascontiguousarray(content).tofile(self._folder / name)
        done = subprocess.run([str(self._program), what, str(self._folder)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def array(self, what: str, dtype: type, **files: Array | str) -> Array:
        self.lines(what, **files)
        return np.fromfile(self._folder / "out", dtype)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path)


def assert_same_bits(found: Array, wanted: Array) -> None:
    assert found.dtype == wanted.dtype
    assert found.size == wanted.size
    bits = np.dtype(f"u{wanted.dtype.itemsize}")
    np.testing.assert_array_equal(found.reshape(wanted.shape).view(bits), np.ascontiguousarray(wanted).view(bits))


# ----------------------------------------------------------------------------------------------------------------------
# Ego motion


def ego_numbers(ego: EgoState) -> list[float]:
    return [*ego.translation, *ego.rotation, *ego.acceleration, *ego.rotation_rate, *ego.velocity]


def drawn_egos(count: int) -> list[EgoState]:
    """Any pose a car or a careless driver of this API may have; among them turns through 0 and 180 degrees."""
    rng = np.random.default_rng(5)
    egos = []
    for index in range(count):
        quaternion = rng.standard_normal(4)
        if index % 2:  # level, where yaw alone counts: small steps about the seams
            half = rng.choice([0.0, math.pi / 2, math.pi]) + rng.normal() * 10.0 ** rng.integers(-17, 0)
            quaternion = np.array([math.cos(half), 0.0, 0.0, math.sin(half)])
        quaternion /= np.linalg.norm(quaternion)
        translation = rng.standard_normal(3) * 10.0 ** rng.integers(-3, 5)
        motion = rng.standard_normal((3, 3)) * 10.0 ** rng.integers(-40, 3, size=(3, 1))
        egos.append(EgoState(index, tuple(translation), tuple(quaternion), *map(tuple, motion)))
    # Quaternions without rounding: the angles at which atan2 and % have their seams.
    root = math.sqrt(0.5)
    seams = [(1, 0, 0, 0), (-1, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, -1), (0, 1, 0, 0), (0, 0, 1, 0)]
    seams += [(root, 0, 0, root), (root, 0, 0, -root)]
    seams += [(1, 0, 0, z) for z in (-0.0, -1e-300, 1e-300, -1e-17)]
    for first in seams:
        for second in seams:
            egos += [EgoState(0, (0.0, -0.0, 1e38), tuple(map(float, seam))) for seam in (first, second)]
    return egos


def test_can_bus_vectors_have_the_same_bits(runtime: Runtime) -> None:
    egos = drawn_egos(4000)
    follows = [False] + [index % 7 != 0 for index in range(1, len(egos))]
    with np.errstate(over="ignore"):  # 1e39 metres are infinite in single precision, here and there
        wanted = [
            can_bus_vector(ego, before if carried else None)
            for ego, before, carried in zip(egos, [egos[0], *egos], follows)
        ]
    rows = [[float(carried), *ego_numbers(ego)] for ego, carried in zip(egos, follows)]
    found = runtime.array("can_bus", np.float32, egos=np.array(rows))
    assert_same_bits(found, np.stack(wanted))
    assert np.all(np.abs(np.stack(wanted)[:, 17]) <= 180)
    assert len({*np.stack(wanted)[:, 17]}) > 1000


def test_the_same_ego_states_are_refused(runtime: Runtime) -> None:
    fine = ego_numbers(EgoState(0, (1.0, 2.0, 3.0), (1.0, 0.0, 0.0, 0.0)))
    rows = [fine]
    for index in range(len(fine)):
        for value in (math.nan, math.inf, -math.inf):
            rows.append([*fine[:index], value, *fine[index + 1 :]])
    rows += [[*fine[:3], norm, *fine[4:]] for norm in (0.0, 0.5, 0.9989, 0.9991, 1.0009, 1.0011, -1.0, 1e200)]
    wanted = []
    for row in rows:
        try:
            EgoState(0, *(tuple(row[at : at + size]) for at, size in ((0, 3), (3, 4), (7, 3), (10, 3), (13, 3))))
            wanted.append("")
        except QdbevError as error:
            wanted.append(error.found)
    found = runtime.lines("check", egos=np.array(rows))
    assert len(found) == len(wanted)
    for sentence, reason in zip(found, wanted):
        # "(0.5, 0.0, ...)" is Python's way to write a tuple; the norm behind it is said alike.
        known = reason[reason.find(") of norm") :] if "of norm" in reason else reason
        assert (sentence == "") == (reason == "")
        assert known in sentence or "e+200" in sentence
    assert 40 < sum(map(bool, wanted)) < len(rows) - 3


def test_the_past_is_kept_dropped_and_refused_alike(runtime: Runtime) -> None:
    rng = np.random.default_rng(8)
    # Gaps about the limit of 2 s, to the microsecond, and ones that round up and down in their sentence.
    steps = [500_000, 2_000_000, 2_000_001, 1_999_999, 2_005_000, 2_015_000, 2_125_000, 9_999_999_999, 0, -1, -700_000]
    session = StreamingSession(lambda *inputs: (object(), None, None))
    time_us, scene, lines, wanted = 1_533_151_603_547_590, "one", [], []
    for _ in range(600):
        if rng.random() < 0.03:
            session.reset()
            lines.append("reset")
        if rng.random() < 0.1:
            scene = rng.choice(["one", "two", "one-more", "zw\u00f6lf"])
        at_us = time_us + int(rng.choice(steps))
        lines.append(f"{at_us} {scene}")
        try:
            output = session.step(None, None, EgoState(at_us, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)), scene)
            wanted.append(output.reset_reason or "goes on")
            time_us = at_us
        except QdbevError as error:
            wanted.append(error.found.replace("-0.000", "0.000"))
    found = runtime.lines("judge", frames="\n".join(lines), parameters=np.array([2.0]))
    assert [sentence.split(";")[0] for sentence in found] == wanted
    kinds = {reason.split(" ")[0] for reason in wanted}
    assert kinds == {"first", "new", "gap", "goes", "a"}


# ----------------------------------------------------------------------------------------------------------------------
# Images


def odd(
    source: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int], order: Any = "bgr"
) -> PreprocessSpec:
    return PreprocessSpec(order, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), source, resized, padded)


SPECS = {
    "micro": VARIANTS["micro"].preprocess,
    "tiny": VARIANTS["tiny"].preprocess,
    "small": VARIANTS["small"].preprocess,
    "shrunk": odd((97, 131), (41, 60), (64, 64)),
    "stretched": odd((33, 47), (101, 95), (101, 128)),
    "one_axis": odd((50, 40), (25, 40), (32, 40), "rgb"),
    "other_axis": odd((50, 40), (50, 33), (50, 33)),
    "one_pixel": odd((1, 1), (3, 5), (4, 6)),
    "to_one_pixel": odd((9, 7), (1, 1), (1, 1)),
}


def parameters(spec: PreprocessSpec, bgr: bool, row_bytes: int) -> Array:
    sizes = (*spec.source_hw, *spec.resized_hw, *spec.padded_hw)
    # The C++ side holds means and deviations in single precision, as Python computes with them.
    return np.array([spec.channel_order == "bgr", *spec.mean, *spec.std, *sizes, bgr, row_bytes], np.float64)


def drawn_pictures(spec: PreprocessSpec) -> Array:
    return np.random.default_rng(3).integers(0, 256, (6, *spec.source_hw, 3), dtype=np.uint8)


def in_memory(pictures: Array, bgr: bool, gap_bytes: int) -> Array:
    """As a camera's driver leaves them: rows with a gap behind, channels as OpenCV has them."""
    cameras, height, width, _ = pictures.shape
    rows = np.full((cameras, height, width * 3 + gap_bytes), 255, np.uint8)
    rows[:, :, : width * 3] = (pictures[..., ::-1] if bgr else pictures).reshape(cameras, height, -1)
    return rows


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("bgr", "gap_bytes"), [(False, 0), (True, 13)])
def test_prepared_images_have_the_same_bits(runtime: Runtime, name: str, bgr: bool, gap_bytes: int) -> None:
    spec = SPECS[name]
    pictures = drawn_pictures(spec)
    images = in_memory(pictures, bgr, gap_bytes)
    row_bytes = images.shape[2] if gap_bytes else 0
    found = runtime.array("preprocess", np.float32, images=images, parameters=parameters(spec, bgr, row_bytes))
    assert_same_bits(found, preprocess(pictures, spec))


@pytest.mark.parametrize(("bgr", "gap_bytes"), [(False, 0), (False, 5), (True, 0), (True, 5)])
def test_native_images_are_copied_as_rgb(runtime: Runtime, bgr: bool, gap_bytes: int) -> None:
    spec = SPECS["shrunk"]
    pictures = drawn_pictures(spec)
    images = in_memory(pictures, bgr, gap_bytes)
    found = runtime.array(
        "copy_native", np.uint8, images=images, parameters=parameters(spec, bgr, images.shape[2] if gap_bytes else 0)
    )
    assert_same_bits(found, pictures)


@pytest.mark.parametrize("name", ["micro", "small", "shrunk", "stretched"])
def test_scaled_projections_have_the_same_bits(runtime: Runtime, name: str) -> None:
    rng = np.random.default_rng(4)
    native = rng.standard_normal((6, 4, 4)) * 10.0 ** rng.integers(-3, 4, size=(6, 4, 4))
    native[:, 3] = (0.0, 0.0, 0.0, 1.0)
    native[2, 1] = (-0.0, 0.0, -0.0, -1e-60)
    found = runtime.array("scale_lidar2img", np.float32, lidar2img=native, parameters=parameters(SPECS[name], False, 0))
    assert_same_bits(found, scale_lidar2img(native, SPECS[name]))


# ----------------------------------------------------------------------------------------------------------------------
# Boxes


def decoded(runtime: Runtime, spec: VariantSpec, classes: Array, coords: Array, min_score: float = 0.0) -> Array:
    layers = classes.shape[0]
    words = np.array([layers, spec.queries, spec.max_boxes, min_score, *spec.post_center_range])
    rows = runtime.array("decode", np.float32, classes=classes, coords=coords, parameters=words)
    return rows.reshape(-1, 11)


def drawn_outputs(spec: VariantSpec, layers: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    shape = (layers, 1, spec.queries, 10)
    classes = rng.normal(-4, 3, shape).astype(np.float32)
    coords = rng.standard_normal(shape).astype(np.float32)
    coords[..., [0, 1]] *= 30  # some beyond the range
    coords[..., 4] *= 5
    return classes, coords


def ulps_apart(found: Array, wanted: Array) -> int:
    """Of positive numbers: how many floats lie between them at most; what is no number must be none in both."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    known = ~np.isnan(wanted)
    bits = [array[known].astype(np.float32).view(np.int32).astype(np.int64) for array in (found, wanted)]
    return int(np.max(np.abs(bits[0] - bits[1]), initial=0))


def assert_same_boxes(found: Array, classes: Array, coords: Array, spec: VariantSpec, min_score: float = 0.0) -> int:
    """Candidates, their order and what is copied are equal; exp and atan2 are each library's own.

    Where numpy computes them with AVX-512 or AVX2, four million drawn values differed from the C library's by up to
    2 units in the last place (exp), 4 (the score made of it) and 5e-7 radians (atan2); without these instructions
    nothing differed. numpy's own bounds are 2.52 and 4 units. A yaw is a difference of angles up to 2 pi, and there is
    a seam at half a turn.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = decode(classes, coords, spec)
    if min_score:
        wanted = wanted[wanted.score >= min_score]
    assert len(found) == len(wanted)
    np.testing.assert_array_equal(found[:, 10], wanted.label)
    assert_same_bits(np.ascontiguousarray(found[:, :3]), wanted.center)
    assert_same_bits(np.ascontiguousarray(found[:, 7:9]), wanted.velocity)
    normal = wanted.size > 1e-37
    assert ulps_apart(found[:, 3:6][normal], wanted.size[normal]) <= 4
    np.testing.assert_allclose(found[:, 3:6][~normal], wanted.size[~normal], atol=1e-43)
    normal = ~(wanted.score < 1e-37)
    assert ulps_apart(found[:, 9][normal], wanted.score[normal]) <= 6
    np.testing.assert_allclose(found[:, 9][~normal], wanted.score[~normal], atol=1e-43)
    turn = (found[:, 6].astype(np.float64) - wanted.yaw + math.pi) % (2 * math.pi) - math.pi
    assert np.max(np.abs(turn), initial=0) < 2e-6
    return len(wanted)


@pytest.mark.parametrize("name", ["micro", "tiny"])
@pytest.mark.parametrize("layers", [1, 6])
def test_boxes(runtime: Runtime, name: str, layers: int) -> None:
    spec = VARIANTS[name]
    classes, coords = drawn_outputs(spec, layers, seed=layers)
    found = decoded(runtime, spec, classes, coords)
    assert 100 < assert_same_boxes(found, classes, coords, spec) < spec.max_boxes


@pytest.mark.parametrize("max_boxes", [1, 200, 2999, 3000])
def test_equal_logits_keep_the_order_of_queries_and_classes(runtime: Runtime, max_boxes: int) -> None:
    spec = replace(VARIANTS["micro"], max_boxes=max_boxes)
    classes, coords = drawn_outputs(spec, 1, seed=7)
    classes = np.round(classes / 2) * 2  # zeros of both signs among them
    coords[..., [0, 1, 4]] /= 100
    assert {*np.signbit(classes[classes == 0])} == {True, False}
    assert assert_same_boxes(decoded(runtime, spec, classes, coords), classes, coords, spec) == max_boxes


def test_values_at_and_beyond_the_limits(runtime: Runtime) -> None:
    rng = np.random.default_rng(9)
    # Limits that single precision cannot hold: a float beside one is inside or outside as in double precision.
    spec = replace(VARIANTS["micro"], max_boxes=3000, post_center_range=(-61.2, -50.1, -10.3, 61.2, 50.7, 9.9))
    classes, coords = drawn_outputs(spec, 1, seed=9)
    flat, code = classes.reshape(-1), coords.reshape(-1, 10)
    for value in (np.nan, np.inf, -np.inf, 0.0, -0.0, 88.0, 104.0, -88.0, -104.0, 3e38, -3e38, 1e-40):
        flat[rng.choice(flat.size, 40, replace=False)] = value
    flat[5] = np.frombuffer(b"\xff\xff\xff\xff", np.float32)[0]  # a NaN with a sign
    for value in (np.nan, np.inf, -np.inf, 88.6, 88.9, 200.0, -104.0, 0.0, -0.0):
        rows = rng.choice(len(code), 12, replace=False)
        code[rows, rng.integers(0, 10, 12)] = value
    code[:6, 6:8] = [(0.0, -1.0), (-0.0, -1.0), (0.0, 0.0), (-0.0, -0.0), (np.inf, -np.inf), (1e-30, -1e30)]
    for index, limit in enumerate(spec.post_center_range):
        near = np.float32(limit)
        for step, value in enumerate((np.nextafter(near, np.float32(-99)), near, np.nextafter(near, np.float32(99)))):
            code[20 + 3 * index + step, (0, 1, 4)[index % 3]] = value
    found = decoded(runtime, spec, classes, coords)
    assert 1500 < assert_same_boxes(found, classes, coords, spec) < 2900
    assert np.isnan(found[:, 9]).any()


def test_boxes_below_a_score_are_left_out(runtime: Runtime) -> None:
    spec = VARIANTS["tiny"]
    classes, coords = drawn_outputs(spec, 1, seed=11)
    classes.reshape(-1)[:50] = np.nan
    found = decoded(runtime, spec, classes, coords, min_score=0.9)
    assert 50 < assert_same_boxes(found, classes, coords, spec, min_score=0.9) < 250
    assert np.all(found[:, 9] >= 0.9)
