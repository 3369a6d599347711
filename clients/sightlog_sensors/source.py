"""Where frames come from: a video file, a V4L2 device, a network stream, or the Pi's camera.

Each gives (seconds, frame): the time on the source's own clock, which only goes forward, and an 8-bit BGR picture of
shape (height, width, 3).
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .process import SensorError, Stop

if TYPE_CHECKING:
    import cv2
    from cv2.typing import MatLike

log = logging.getLogger("sightlog.source")

PICAMERA: Final = "picamera2"
PICAMERA_SIZE: Final = (1280, 720)
FPS_UNKNOWN: Final = 25.0
"""For files that do not say how fast they play."""
STREAM_TIMEOUT_MS: Final = 10_000
RECONNECT_SECONDS: Final = 1.0
RECONNECT_SECONDS_MAX: Final = 30.0


def open_frames(source: str, stop: Stop, *, realtime: bool, loop: bool) -> Iterator[tuple[float, MatLike]]:
    """`realtime` and `loop` are for files. Raises SensorError when the source gives no frame, or no more of them."""
    if source == PICAMERA:
        return _picamera(stop)
    if "://" in source:
        return _stream(source, stop)
    if source.isdecimal() or source.startswith("/dev/video"):
        return _device(source, stop)
    return _file(Path(source), stop, realtime=realtime, loop=loop)


def _file(path: Path, stop: Stop, *, realtime: bool, loop: bool) -> Iterator[tuple[float, MatLike]]:
    import cv2

    if not path.is_file():
        raise SensorError(f"there is no video file {path}")
    began = time.monotonic()
    number = 0
    while True:
        capture = cv2.VideoCapture(str(path))
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if math.isfinite(fps) and fps > 0 else FPS_UNKNOWN
        first = number
        try:
            while not stop.requested:
                ok, frame = capture.read()
                if not ok:
                    break
                at = number / fps
                if realtime and stop.wait(began + at - time.monotonic()):
                    return
                yield at, frame
                number += 1
        finally:
            capture.release()
        if number == first and not stop.requested:
            raise SensorError(f"cannot read {path}: not a video that OpenCV can decode, or it has no frames")
        if not loop or stop.requested:
            return


def _device(name: str, stop: Stop) -> Iterator[tuple[float, MatLike]]:
    import cv2

    path = Path(f"/dev/video{name}" if name.isdecimal() else name)
    if not path.exists():
        raise SensorError(f"there is no camera {path}; see which there are with: ls /dev/video*")
    capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
    try:
        if not capture.isOpened():
            raise SensorError(f"cannot open the camera {path}: is it in use, and is this user in the group 'video'?")
        yield from _live(capture, stop)
    finally:
        capture.release()
    if not stop.requested:
        raise SensorError(f"the camera {path} gives no more frames; was it unplugged?")


def _stream(url: str, stop: Stop) -> Iterator[tuple[float, MatLike]]:
    import cv2

    # UDP, FFmpeg's default for RTSP, loses packets on most Wi-Fi and shows grey smears that look like motion.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, STREAM_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, STREAM_TIMEOUT_MS]
    connected = False
    pause = RECONNECT_SECONDS
    while not stop.requested:
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)
        try:
            for at, frame in _live(capture, stop):
                connected, pause = True, RECONNECT_SECONDS
                yield at, frame
        finally:
            capture.release()
        if stop.requested:
            return
        if not connected:
            raise SensorError(f"cannot read {_without_password(url)}: are address, user and password right?")
        log.warning("lost %s; connecting again in %.0f s", _without_password(url), pause)
        stop.wait(pause)
        pause = min(pause * 2, RECONNECT_SECONDS_MAX)


def _live(capture: cv2.VideoCapture, stop: Stop) -> Iterator[tuple[float, MatLike]]:
    while not stop.requested:
        ok, frame = capture.read()
        if not ok:
            return
        yield time.monotonic(), frame


def _picamera(stop: Stop) -> Iterator[tuple[float, MatLike]]:
    try:
        from picamera2 import Picamera2  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise SensorError(
            "picamera2 is not installed: sudo apt install python3-picamera2, and make the virtual environment with "
            "--system-site-packages"
        ) from error
    if not Picamera2.global_camera_info():
        raise SensorError("picamera2 finds no camera: check the cable, and `rpicam-hello --list-cameras`")
    with Picamera2() as camera:
        # libcamera names the formats the other way round: its RGB888 is OpenCV's BGR.
        camera.configure(camera.create_video_configuration(main={"size": PICAMERA_SIZE, "format": "RGB888"}))
        camera.start()
        while not stop.requested:
            yield time.monotonic(), camera.capture_array()


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
