"""The one definition of preprocessing: against numbers worked out by hand, against OpenCV, and its refusals."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qdbev_deploy.contract import VARIANTS, PreprocessSpec
from qdbev_deploy.data.preprocess import preprocess, read_image, scale_lidar2img
from qdbev_deploy.errors import QdbevError


def spec_of(source: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int] | None = None) -> PreprocessSpec:
    return PreprocessSpec("rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), source, resized, padded or resized)


def noise(height: int, width: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_worked_example() -> None:
    # One row of four pixels to three: centres at 1/6, 1.5 and 2 + 5/6 of the source; the values need no rounding.
    red = np.array([0, 60, 120, 240], dtype=np.uint8)
    image = np.zeros((1, 1, 4, 3), dtype=np.uint8)
    image[0, 0, :, 0] = red
    spec = PreprocessSpec("bgr", (1.0, 2.0, 4.0), (1.0, 1.0, 2.0), (1, 4), (1, 3), (2, 4))
    out = preprocess(image, spec)
    assert out.shape == (1, 3, 2, 4)
    # Red is the last channel of BGR: mean 4, std 2. 0 + 60/6 = 10; (60 + 120) / 2 = 90; 120 + 120 * 5/6 = 220.
    np.testing.assert_allclose(out[0, 2, 0, :3], [(10 - 4) / 2, (90 - 4) / 2, (220 - 4) / 2], rtol=1e-6)
    np.testing.assert_array_equal(out[0, 0, 0, :3], np.full(3, -1.0))
    np.testing.assert_array_equal(out[0, 1, 0, :3], np.full(3, -2.0))
    # Padding is zero after normalising, at the right and at the bottom, nowhere else.
    np.testing.assert_array_equal(out[0, :, :, 3], np.zeros((3, 2)))
    np.testing.assert_array_equal(out[0, :, 1, :], np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("source", "resized"),
    [
        ((90, 160), (45, 80)),  # exactly half: OpenCV averages areas there, which is the same function
        ((90, 160), (72, 128)),
        ((90, 160), (18, 32)),
        ((90, 160), (90, 160)),
        ((91, 157), (45, 79)),
        ((91, 157), (37, 101)),
        ((53, 47), (101, 99)),  # up
        ((53, 47), (53, 99)),
        ((7, 5), (1, 1)),
        ((1, 1), (4, 3)),
    ],
)
def test_resize_is_opencvs_bilinear(source: tuple[int, int], resized: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    images = noise(*source, count=2)
    ours = preprocess(images, spec_of(source, resized))
    for image, planes in zip(images, ours, strict=True):
        theirs = cv2.resize(image.astype(np.float32), resized[::-1], interpolation=cv2.INTER_LINEAR)
        # OpenCV computes coordinates in float32: 2e-3 of a grey level is their error, not the definition's.
        np.testing.assert_allclose(planes.transpose(1, 2, 0), theirs.reshape(*resized, 3), atol=2e-3)


def test_nothing_is_rounded() -> None:
    out = preprocess(noise(91, 157), spec_of((91, 157), (45, 79)))
    assert np.abs(out - out.round()).max() > 0.4


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str) -> None:
    """Resized, ordered, normalised and padded as the reference pipeline does it with OpenCV."""
    cv2 = pytest.importorskip("cv2")
    spec = VARIANTS[name].preprocess
    images = noise(*spec.source_hw, count=1)
    out = preprocess(images, spec)
    assert out.shape == (1, 3, *spec.padded_hw)
    assert out.dtype == np.float32
    height, width = spec.resized_hw
    resized = cv2.resize(images[0].astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    if spec.channel_order == "bgr":
        resized = resized[..., ::-1]
    expected = np.zeros((*spec.padded_hw, 3), dtype=np.float32)
    expected[:height, :width] = (resized - np.float32(spec.mean)) / np.float32(spec.std)
    # 1e-3 of a grey level, in units of the smallest std.
    np.testing.assert_allclose(out[0].transpose(1, 2, 0), expected, atol=1e-3)


def test_projection_lands_on_the_resized_pixel() -> None:
    spec = VARIANTS["micro"].preprocess
    lidar2img = np.array([[1266.0, 0, 816, 0], [0, 1266, 491, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    point = np.array([2.0, -1.0, 20.0, 1.0])
    native, scaled = lidar2img @ point, scale_lidar2img(lidar2img, spec) @ point
    np.testing.assert_allclose(scaled[:2] / scaled[2], native[:2] / native[2] / 5, rtol=1e-6)
    assert scale_lidar2img(np.stack([lidar2img] * 6), spec).dtype == np.float32


@pytest.mark.parametrize(
    "images",
    [noise(90, 160).astype(np.float32), noise(90, 160)[0], noise(90, 160)[..., :1]],
    ids=["float", "one", "grey"],
)
def test_wrong_arrays(images: np.ndarray) -> None:
    with pytest.raises(QdbevError, match=r"uint8 RGB of shape \[n, height, width, 3\]"):
        preprocess(images, spec_of((90, 160), (45, 80)))


def test_wrong_size_names_both() -> None:
    with pytest.raises(QdbevError, match=r"90x160 .*900x1600"):
        preprocess(noise(90, 160), VARIANTS["tiny"].preprocess)


def test_scale_of_a_wrong_padding_is_refused() -> None:
    with pytest.raises(QdbevError, match="0 < resized <= padded"):
        replace(VARIANTS["tiny"].preprocess, padded_hw=(400, 800))


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match=r"nowhere\.jpg does not exist"):
        read_image(tmp_path / "nowhere.jpg")
    pillow = pytest.importorskip("PIL.Image")
    pillow.fromarray(noise(90, 160)[0]).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:2000])
    with pytest.raises(QdbevError, match=r"cut\.jpg \(2000 bytes\) cannot be decoded"):
        read_image(tmp_path / "cut.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(QdbevError, match=r"text\.jpg .* cannot be decoded"):
        read_image(tmp_path / "text.jpg")


def test_needs_numpy_only() -> None:
    """A machine in the car has neither OpenCV, Pillow, torch nor the devkit."""
    code = (
        "import sys\n"
        "for name in ('cv2', 'PIL', 'torch', 'nuscenes', 'pyquaternion'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from qdbev_deploy.contract import VARIANTS\n"
        "from qdbev_deploy.data.preprocess import preprocess\n"
        "from qdbev_deploy.data import info, loader, nuscenes, sampling\n"
        "images = np.zeros((1, 900, 1600, 3), np.uint8)\n"
        "assert preprocess(images, VARIANTS['micro'].preprocess).shape == (1, 3, 192, 320)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
