"""thumbnail_from_frame, with Pillow and with OpenCV."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
from pictures import BLUE, RED, is_near, opened

from sightlog import UsageError
from sightlog.adapters import thumbnail_from_frame


@pytest.fixture(params=["PIL", "cv2"])
def library(request, monkeypatch):
    """Only this one is installed."""
    importlib.import_module(request.param)
    monkeypatch.setitem(sys.modules, {"PIL": "cv2", "cv2": "PIL"}[request.param], None)
    return request.param


def frame_of(height: int, width: int, channels: int = 3) -> np.ndarray:
    """In RGB: red on the left, blue on the right."""
    frame = np.zeros((height, width, channels), np.uint8)
    frame[:, : width // 2, :3], frame[:, width // 2 :, :3] = RED, BLUE
    return frame


def assert_red_and_blue(data: bytes) -> None:
    picture = opened(data)
    width, height = picture.size
    assert picture.format == "JPEG"
    assert is_near(picture, (width // 4, height // 2), RED)
    assert is_near(picture, (3 * width // 4, height // 2), BLUE)


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_come_out_as_they_were_in_either_order(library, channels):
    rgb = frame_of(90, 160, channels)
    bgr = rgb.copy()
    bgr[:, :, 0], bgr[:, :, 2] = rgb[:, :, 2], rgb[:, :, 0]
    assert_red_and_blue(thumbnail_from_frame(rgb, color_order="rgb"))
    assert_red_and_blue(thumbnail_from_frame(bgr, color_order="bgr"))


@pytest.mark.parametrize("shape", [(90, 160), (90, 160, 1)])
def test_grey_is_grey(library, shape):
    picture = opened(thumbnail_from_frame(np.full(shape, 77, np.uint8), color_order="bgr"))
    assert (picture.mode, picture.size) == ("L", (160, 90))
    assert abs(picture.getpixel((5, 5)) - 77) < 4


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(720, 1280, (320, 180)), (1280, 720, (180, 320)), (10_000, 3, (1, 320)), (320, 320, (320, 320)), (9, 16, (16, 9))],
)
def test_the_shape_is_kept_and_nothing_grows(library, height, width, size):
    assert opened(thumbnail_from_frame(frame_of(height, width), color_order="rgb")).size == size


def test_the_longer_side_and_the_quality_can_be_chosen(library):
    frame = np.random.default_rng(1).integers(0, 256, (400, 600, 3), np.uint8)
    assert opened(thumbnail_from_frame(frame, color_order="rgb", max_px=100)).size == (100, 67)
    best, worst = (thumbnail_from_frame(frame, color_order="rgb", quality=quality) for quality in (95, 10))
    assert len(best) > 3 * len(worst)


@pytest.mark.parametrize(
    "view",
    [
        lambda frame: frame[::-1, ::-1][::-1, ::-1],
        lambda frame: np.asfortranarray(frame),
        lambda frame: np.repeat(frame, 2, axis=1)[:, ::2],
        lambda frame: np.flip(np.flip(frame, 2).copy(), 2),
    ],
    ids=["twice turned", "by columns", "every other", "reversed channels"],
)
def test_frames_that_are_views_of_others_come_out_right(library, view):
    assert_red_and_blue(thumbnail_from_frame(view(frame_of(90, 160)), color_order="rgb"))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"jpeg", "expected a NumPy array, got bytes"),
        (None, "expected a NumPy array, got NoneType"),
        (np.zeros((4, 4, 3)), "expected an array of uint8, got float64"),
        (np.zeros((4, 4, 3), np.uint16), "uint16"),
        (np.zeros((4, 4, 2), np.uint8), r"got \(4, 4, 2\)"),
        (np.zeros((4,), np.uint8), r"got \(4,\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"got \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_frame_is_refused_with_what_was_expected(frame, said):
    with pytest.raises(UsageError, match=said):
        thumbnail_from_frame(frame, color_order="bgr")


def test_the_order_of_the_colours_has_to_be_said():
    with pytest.raises(TypeError, match="color_order"):
        thumbnail_from_frame(frame_of(4, 4))
    for options in ({"color_order": "gbr"}, {"color_order": "rgb", "max_px": 0}, {"color_order": "rgb", "quality": 0}):
        with pytest.raises(UsageError, match="expected"):
            thumbnail_from_frame(frame_of(4, 4), **options)


def test_without_either_library_the_line_that_installs_one_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match="pip install pillow"):
        thumbnail_from_frame(frame_of(4, 4), color_order="bgr")


def test_importing_the_adapters_imports_no_library_of_pictures():
    code = "import sys, sightlog.adapters; assert not {'PIL', 'cv2', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
