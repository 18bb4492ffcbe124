"""What is drawn lies where geometry says it must."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdbev_deploy.boxes import Boxes
from qdbev_deploy.contract import CAMERAS, CLASSES
from qdbev_deploy.data.geometry import inverse, transform
from qdbev_deploy.data.nuscenes import Frame
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.canvas import CLASS_COLOURS
from qdbev_deploy.evaluate.draw_bev import BevView, draw_bev
from qdbev_deploy.evaluate.draw_camera import (
    box_corners,
    camera_centre,
    clip_polygon,
    clip_segment,
    covered_shares,
    draw_boxes,
    view_planes,
)
from qdbev_deploy.evaluate.pictures import MAX_WIDTH, Layout, describe, draw_frame
from qdbev_deploy.evaluate.video import write_png, write_video
from qdbev_deploy.streaming import EgoState

WIDTH, HEIGHT = 320, 180
YAWS_DEG = dict(zip(CAMERAS, (0, -55, 55, 180, 110, -110), strict=True))


def camera_matrix(yaw_deg: float) -> np.ndarray:
    """lidar2img of a camera half a metre above the LiDAR that looks `yaw_deg` to the left of the LiDAR's y axis."""
    angle = math.radians(yaw_deg + 90)
    ahead = np.array([math.cos(angle), math.sin(angle), 0])
    right, down = np.array([math.sin(angle), -math.cos(angle), 0]), np.array([0, 0, -1.0])
    camera2lidar = transform(0.4 * ahead + np.array([0, 0, 0.5]), np.stack([right, down, ahead], axis=1))
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = [[250.0, 0, WIDTH / 2], [0, 250, HEIGHT / 2], [0, 0, 1]]
    return intrinsic @ inverse(camera2lidar)


def boxes_of(*rows: tuple[str, tuple[float, float, float], tuple[float, float, float], float]) -> Boxes:
    return Boxes(
        center=np.array([row[1] for row in rows], np.float32).reshape(-1, 3),
        size=np.array([row[2] for row in rows], np.float32).reshape(-1, 3),
        yaw=np.array([row[3] for row in rows], np.float32),
        velocity=np.zeros((len(rows), 2), np.float32),
        score=np.ones(len(rows), np.float32),
        label=np.array([CLASSES.index(row[0]) for row in rows], np.int64),
    )


def ray_cast(boxes: Boxes, lidar2img: np.ndarray, near: float) -> np.ndarray:
    """Which pixels see the (only) box: rays against its three slabs, an approach that shares nothing with drawing."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones_like(rows)], axis=-1)
    directions = pixels @ np.linalg.inv(lidar2img[:3, :3]).T  # depth 1 each, so that the parameter is the depth
    yaw = float(boxes.yaw[0])
    to_box = np.array([[math.cos(yaw), math.sin(yaw), 0], [-math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
    origin = to_box @ (camera_centre(lidar2img) - boxes.center[0])
    directions = directions @ to_box.T
    half = boxes.size[0, [1, 0, 2]] / 2
    with np.errstate(divide="ignore"):
        first, second = (-half - origin) / directions, (half - origin) / directions
    enter = np.minimum(first, second).max(axis=-1)
    leave = np.maximum(first, second).min(axis=-1)
    return (enter < leave) & (leave > near) & (enter > near)


@pytest.mark.parametrize(
    "box",
    [
        ("car", (0.0, 12.0, -0.5), (1.9, 4.6, 1.7), math.pi / 2),
        ("car", (3.0, 9.0, -0.5), (1.9, 4.6, 1.7), 0.4),
        ("pedestrian", (-2.0, 6.0, -0.2), (0.7, 0.7, 1.8), -2.0),
        ("truck", (9.0, 20.0, 0.8), (2.6, 9.0, 3.5), 2.5),
        # Beside the car and half of it behind the camera plane: what went wrong in many a viewer.
        ("truck", (3.2, 2.0, 0.3), (2.5, 10.0, 3.0), math.pi / 2),
        ("bus", (-3.0, 1.0, 0.3), (2.5, 14.0, 3.4), math.pi / 2 + 0.1),
    ],
)
def test_a_box_covers_the_pixels_that_see_it(box: tuple):
    boxes, lidar2img = boxes_of(box), camera_matrix(0)
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert draw_boxes(picture, boxes, lidar2img, colour=(255, 255, 255), thickness=1) == 1
    drawn, seen = picture.any(axis=2), ray_cast(boxes, lidar2img, near=0.3)
    assert seen.sum() > 150
    # Outlines stand half a line outside of the faces, and edges of hidden faces are within them.
    assert (drawn & seen).sum() > 0.995 * seen.sum()
    assert (drawn & ~seen).sum() < 0.02 * seen.sum() + 2.5 * 4 * math.sqrt(seen.sum())


@pytest.mark.parametrize("centre", [(0.0, -10.0, 0.0), (30.0, 5.0, 0.0), (0.0, 10.0, 30.0)])
def test_boxes_out_of_view_leave_the_picture_alone(centre: tuple[float, float, float]):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert draw_boxes(picture, boxes_of(("car", centre, (1.9, 4.6, 1.7), 0.0)), camera_matrix(0)) == 0
    assert not picture.any()


def test_the_front_is_tinted_more_strongly_where_it_can_be_seen():
    def tint(yaw: float) -> int:
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        draw_boxes(picture, boxes_of(("bus", (0.0, 12.0, 0.5), (4.0, 9.0, 4.0), yaw)), camera_matrix(0))
        return int(picture[HEIGHT // 2 - 8, WIDTH // 2 - 8].max())  # a point of the face that looks at the camera

    towards, away = tint(-math.pi / 2), tint(math.pi / 2)
    assert towards > 2 * away > 0


def test_what_stands_behind_something_is_covered():
    """Eye at the origin, looking along y: a car behind a truck, one beside it, and a cone in front of it."""
    boxes = boxes_of(
        ("truck", (0.0, 12.0, 0.0), (3.0, 8.0, 3.0), 0.0),  # x from -4 to 4, y from 10.5 to 13.5
        ("car", (0.0, 20.0, 0.0), (1.9, 4.6, 1.7), 0.0),
        ("car", (9.0, 12.0, 0.0), (1.9, 4.6, 1.7), 0.0),
        ("traffic_cone", (1.0, 8.0, -0.5), (0.4, 0.4, 0.8), 0.0),
        ("truck", (0.3, 12.3, 0.0), (3.0, 8.0, 3.0), 0.0),  # the first one, detected twice
    )
    shares = covered_shares(boxes, np.zeros(3))
    assert shares[1] == 1.0
    assert shares[2] == shares[3] == 0.0
    assert shares[0] == shares[4] == 0.0
    assert covered_shares(boxes_of(), np.zeros(3)).shape == (0,)


def test_a_hidden_box_is_drawn_faintly():
    def strongest(*rows: tuple) -> int:
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        draw_boxes(picture, boxes_of(*rows), camera_matrix(0))
        return int(picture[..., 0].max())  # red: pedestrians have it, cars hardly

    person = ("pedestrian", (0.0, 20.0, 0.0), (0.7, 0.7, 1.8), 0.0)
    wall = ("car", (0.0, 10.0, 0.0), (3.0, 9.0, 5.0), 0.0)
    assert strongest(person) > 200
    assert strongest(person, wall) < 150


def test_a_camera_inside_a_box_does_no_harm():
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    draw_boxes(picture, boxes_of(("bus", (0.0, 0.4, 0.5), (3.0, 12.0, 3.0), math.pi / 2)), camera_matrix(0))


def test_corners_front_face_first():
    boxes = boxes_of(("car", (10.0, 20.0, 1.0), (2.0, 4.0, 1.5), math.pi / 2))  # length along y
    corners = box_corners(boxes)[0]
    np.testing.assert_allclose(corners[:4, 1], 22.0, atol=1e-5)
    np.testing.assert_allclose(corners[4:, 1], 18.0, atol=1e-5)
    assert sorted(np.round(corners[:4, 0], 4)) == [9, 9, 11, 11]
    assert sorted(np.round(corners[:4, 2], 4)) == [0.25, 0.25, 1.75, 1.75]


def test_clipping_by_hand():
    planes = view_planes(100, 100)
    # From depth 2 in front to depth -2 behind, on the optical axis (50, 50): cut at the near depth 0.3.
    cut = clip_segment(np.array([100.0, 100.0, 2.0]), np.array([-100.0, -100.0, -2.0]), planes)
    np.testing.assert_allclose(cut, [[100, 100, 2], [15, 15, 0.3]])
    assert len(clip_segment(np.array([0, 0, -1.0]), np.array([5, 5, -2.0]), planes)) == 0
    square = np.array([[40, 40, 1], [60, 40, 1], [60, 60, 1], [40, 60, 1.0]])
    np.testing.assert_allclose(clip_polygon(square, planes), square)
    half_out = square + np.array([60.0, 0, 0])  # x from 100 to 120; the margin ends at 116
    assert clip_polygon(half_out, planes)[:, 0].max() == pytest.approx(116)
    assert len(clip_polygon(square * [1, 1, -1], planes)) == 0


class TestBev:
    LIDAR2EGO = transform(np.array([0.94, 0.0, 1.84]), np.array([math.sqrt(0.5), 0, 0, -math.sqrt(0.5)]))

    def panel(self, **boxes: Boxes | None) -> np.ndarray:
        matrices = np.stack([camera_matrix(YAWS_DEG[name]) for name in CAMERAS])
        return draw_bev(600, 400, matrices, self.LIDAR2EGO, WIDTH, range_m=50.0,
                        **{"truth": None, "predictions": None, **boxes})  # fmt: skip

    def test_ahead_is_up_and_left_is_left(self):
        view = BevView(600, 400, 50.0)
        pixels = view.pixels(np.array([[0.0, 0.0], [25.0, 0.0], [0.0, 25.0]]))
        np.testing.assert_allclose(pixels, [[300, 200], [300, 100], [200, 200]])

    def test_a_box_lies_where_its_coordinates_say(self):
        # 20 m ahead and 15 m to the right of the LiDAR; 4 pixels a metre; the LiDAR is 0.94 m ahead of the ego frame.
        bus = boxes_of(("bus", (15.0, 20.0, 0.0), (3.0, 12.0, 3.0), math.pi / 2))
        changed = np.abs(self.panel(truth=bus).astype(int) - self.panel()).max(axis=2) > 24
        rows, columns = np.nonzero(changed)
        assert columns.mean() == pytest.approx(300 + 15 * 4, abs=1)
        assert rows.mean() == pytest.approx(200 - 20.94 * 4, abs=2)
        assert np.ptp(columns) == pytest.approx(3 * 4, abs=3)
        assert np.ptp(rows) == pytest.approx(12 * 4, abs=3)

    def test_velocity_points_where_the_object_goes(self):
        bus = boxes_of(("bus", (15.0, 0.0, 0.0), (3.0, 6.0, 3.0), math.pi / 2))
        bus.velocity[0] = (0.0, 10.0)
        still = boxes_of(("bus", (15.0, 0.0, 0.0), (3.0, 6.0, 3.0), math.pi / 2))
        arrow = np.abs(self.panel(truth=bus).astype(int) - self.panel(truth=still)).max(axis=2) > 24
        rows, columns = np.nonzero(arrow)
        assert rows.min() == pytest.approx(200 - (0.94 + 3 + 10) * 4, abs=3)  # from the front, one second on
        assert rows.max() < 200 - 3 * 4 + 3
        assert columns.mean() == pytest.approx(360, abs=2)

    def test_velocities_that_are_unknown_are_not_drawn(self):
        bus = boxes_of(("bus", (15.0, 0.0, 0.0), (3.0, 6.0, 3.0), 0.0))
        still = self.panel(truth=bus)
        bus.velocity[0] = np.nan
        np.testing.assert_array_equal(self.panel(truth=bus), still)

    def test_ground_truth_is_white_beside_predictions_and_coloured_alone(self):
        car = boxes_of(("car", (15.0, 20.0, 0.0), (4.0, 9.0, 1.5), 0.0))
        nothing = boxes_of()

        def strongest_change(picture: np.ndarray) -> np.ndarray:
            change = np.abs(picture.astype(int) - self.panel(truth=nothing)).sum(axis=2)
            return picture[np.unravel_index(change.argmax(), change.shape)].astype(int)

        alone = strongest_change(self.panel(truth=car))
        assert np.abs(alone - CLASS_COLOURS["car"]).max() < 60
        assert alone[2] - alone[0] > 80, "blue as cars are"
        beside = strongest_change(self.panel(truth=car, predictions=nothing))
        assert np.ptp(beside) < 30, "white or grey"


@pytest.fixture
def frame(tmp_path: Path) -> Frame:
    from PIL import Image

    paths = []
    for number, name in enumerate(CAMERAS):
        path = tmp_path / f"{name}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (10 * number, 100, 100)).save(path)
        paths.append(path)
    matrices = np.stack([camera_matrix(YAWS_DEG[name]) for name in CAMERAS])
    ego = EgoState(1_500_000, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), velocity=(10.0, 0.0, 0.0))
    return Frame("t", "scene-0103", 3, True, ego, tuple(paths), matrices, TestBev.LIDAR2EGO, np.eye(4), "t")


def test_every_camera_is_at_its_place_on_the_page(frame: Frame):
    layout = Layout.of(640)
    page = draw_frame(frame, describe(frame, frame, truth=False, predictions=False), width=640)
    assert page.shape == (layout.height, layout.width, 3)
    places = {"CAM_FRONT_LEFT": (0, 0), "CAM_FRONT": (0, 1), "CAM_FRONT_RIGHT": (0, 2),
              "CAM_BACK_LEFT": (1, 0), "CAM_BACK": (1, 1), "CAM_BACK_RIGHT": (1, 2)}  # fmt: skip
    columns = [layout.tile(0, column)[0] for column in range(3)]
    assert columns == sorted(columns)
    assert layout.tile(0, 0)[1] < layout.bev[1] < layout.tile(1, 0)[1]
    for name, (row, column) in places.items():
        x, y = layout.tile(row, column)
        middle = page[y + layout.tile_height // 2, x + layout.tile_width // 2]
        assert middle.tolist() == [10 * CAMERAS.index(name), 100, 100], name


@pytest.mark.parametrize(("name", "yaw_deg"), YAWS_DEG.items())
def test_an_object_appears_in_the_camera_that_looks_at_it(frame: Frame, name: str, yaw_deg: float):
    angle = math.radians(yaw_deg + 90)
    there = (15 * math.cos(angle), 15 * math.sin(angle), 0.5)
    truth = boxes_of(("car", there, (2.0, 4.0, 2.0), 0.0))
    caption = describe(frame, frame, truth=True, predictions=False)
    empty = draw_frame(frame, caption, truth=boxes_of(), width=640)
    drawn = draw_frame(frame, caption, truth=truth, width=640)
    layout = Layout.of(640)
    changed = []
    for row in (0, 1):
        for column in (0, 1, 2):
            x, y = layout.tile(row, column)
            tile = np.s_[y : y + layout.tile_height, x : x + layout.tile_width]
            if (empty[tile] != drawn[tile]).any():
                changed.append(empty[tile][-1, -1, 0] // 10)
                rows, columns = np.nonzero((empty[tile] != drawn[tile]).any(axis=2))
                assert columns.mean() == pytest.approx(layout.tile_width / 2, abs=3)
                assert rows.mean() == pytest.approx(layout.tile_height / 2, abs=3)
    assert changed == [CAMERAS.index(name)]


def test_drawing_is_deterministic(frame: Frame):
    caption = describe(frame, frame, truth=True, predictions=True)
    boxes = boxes_of(("car", (3.0, 12.0, -0.5), (1.9, 4.6, 1.7), 0.4), ("bus", (-6, 9, 0), (2.5, 11, 3), 1.0))
    pages = [draw_frame(frame, caption, truth=boxes, predictions=boxes, width=640) for _ in range(2)]
    np.testing.assert_array_equal(*pages)


def test_a_missing_image_is_named(frame: Frame):
    frame.image_paths[2].unlink()
    with pytest.raises(QdbevError, match="CAM_FRONT_LEFT"):
        draw_frame(frame, describe(frame, frame, truth=False, predictions=False), width=640)


def test_a_tiny_width_is_refused(frame: Frame):
    with pytest.raises(QdbevError, match="width of 100"):
        draw_frame(frame, describe(frame, frame, truth=False, predictions=False), width=100)


def test_a_huge_width_is_refused(frame: Frame):
    with pytest.raises(QdbevError, match=r"width of 100000 pixels.*8000 or less"):
        draw_frame(frame, describe(frame, frame, truth=False, predictions=False), width=100_000)


def test_the_widest_page_is_no_larger_than_a_codec_takes():
    assert max(Layout.of(MAX_WIDTH).width, Layout.of(MAX_WIDTH).height) < 8192


class TestFiles:
    PICTURES = tuple(np.full((64, 96, 3), value, np.uint8) for value in (20, 120, 220))

    def test_png(self, tmp_path: Path):
        from PIL import Image

        write_png(tmp_path / "a.png", self.PICTURES[1])
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), self.PICTURES[1])

    def test_a_palette_makes_a_smaller_file(self, tmp_path: Path):
        noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
        write_png(tmp_path / "all.png", noise)
        write_png(tmp_path / "few.png", noise, colours=64)
        assert (tmp_path / "few.png").stat().st_size < 0.5 * (tmp_path / "all.png").stat().st_size

    @pytest.mark.parametrize("name", CLASSES)
    def test_a_palette_keeps_the_colours_of_the_classes(self, tmp_path: Path, name: str):
        from PIL import Image

        picture = np.random.default_rng(0).integers(60, 200, (200, 200, 3)).astype(np.uint8)
        picture[50, 20:40] = CLASS_COLOURS[name]
        write_png(tmp_path / "a.png", picture, colours=256)
        image = Image.open(tmp_path / "a.png")
        assert image.mode == "P"
        assert tuple(np.asarray(image.convert("RGB"))[50, 30]) == CLASS_COLOURS[name]

    def test_gif(self, tmp_path: Path):
        from PIL import Image

        write_video(tmp_path / "a.gif", self.PICTURES, fps=12)
        with Image.open(tmp_path / "a.gif") as gif:
            assert gif.n_frames == 3
            assert gif.info["duration"] == 80
            for index, value in enumerate((20, 120, 220)):
                gif.seek(index)
                assert abs(int(np.asarray(gif.convert("RGB"))[32, 48, 0]) - value) < 4

    def test_mp4(self, tmp_path: Path):
        import cv2

        write_video(tmp_path / "a.mp4", self.PICTURES, fps=12)
        video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
        values = []
        while True:
            ok, picture = video.read()
            if not ok:
                break
            values.append(float(picture.mean()))
        assert values == pytest.approx([20, 120, 220], abs=6)

    @pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
    def test_an_interrupt_leaves_nothing_behind(self, tmp_path: Path, name: str):
        def pictures():
            yield self.PICTURES[0]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_video(tmp_path / name, pictures(), fps=12)
        assert list(tmp_path.iterdir()) == []

    def test_equal_pictures_in_a_row_are_no_damage(self, tmp_path: Path):
        from PIL import Image

        for name in ("a.gif", "a.mp4"):
            write_video(tmp_path / name, self.PICTURES[:1] * 3 + self.PICTURES[1:], fps=12)
        with Image.open(tmp_path / "a.gif") as gif:
            assert gif.n_frames == 3
        write_video(tmp_path / "one.gif", self.PICTURES[:1], fps=12)

    @pytest.mark.parametrize("kept", [0, 5, 0.5])
    def test_a_gif_that_came_out_damaged_is_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: float):
        from PIL import Image

        save = Image.Image.save

        def lossy(image: Any, path: Path, **options: Any) -> None:
            save(image, path, **options)
            content = path.read_bytes()
            path.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])

        monkeypatch.setattr(Image.Image, "save", lossy)
        with pytest.raises(QdbevError, match="of 240 milliseconds can be read"):
            write_video(tmp_path / "a.gif", self.PICTURES, fps=12)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["a.gif", "a.mp4", "a.png"])
    @pytest.mark.parametrize("limit", [100, 60_000])
    def test_where_the_disk_is_full_there_is_an_error_and_no_file(self, tmp_path: Path, name: str, limit: int):
        """A limit on the size of files stands in for the disk."""
        code = f"""
import resource
from pathlib import Path
import numpy as np
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.video import write_png, write_video
dice = np.random.default_rng(0)
pictures = [dice.integers(0, 255, (240, 320, 3)).astype(np.uint8) for _ in range(20)]
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
path = Path({str(tmp_path / name)!r})
try:
    write_png(path, pictures[0]) if path.suffix == ".png" else write_video(path, pictures, fps=12)
except (QdbevError, OSError) as error:
    print(type(error).__name__, int(getattr(error, "exit_code", 0)), error)
"""
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        if name == "a.mp4":  # Pillow says it itself
            assert said.stdout.startswith("QdbevError 4 the video came out damaged: 0 of 20 pictures")
        else:
            assert said.stdout.startswith("OSError")
        assert list(tmp_path.iterdir()) == []
