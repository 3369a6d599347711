"""Pictures as bytes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from .process import SensorError

if TYPE_CHECKING:
    from cv2.typing import MatLike

FRAME_QUALITY: Final = 95


def shrunk(frame: MatLike, pixels_max: int) -> tuple[MatLike, float]:
    """The frame with its longer side at most `pixels_max`, and by what it was divided (1.0: it is the frame itself)."""
    import cv2

    height, width = frame.shape[:2]
    divisor = max(height, width) / pixels_max
    if divisor <= 1:
        return frame, 1.0
    size = (max(1, round(width / divisor)), max(1, round(height / divisor)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA), divisor


def bounded_box(box: Sequence[int], divisor: float, frame: MatLike) -> tuple[float, float, float, float]:
    """OpenCV's (x, y, width, height) in a picture `divisor` times smaller, as (x1, y1, x2, y2) within `frame`."""
    x, y, width, height = map(float, box)
    bottom, right = map(float, frame.shape[:2])
    return (
        min(max(x * divisor, 0.0), right),
        min(max(y * divisor, 0.0), bottom),
        min(max((x + width) * divisor, 0.0), right),
        min(max((y + height) * divisor, 0.0), bottom),
    )


def encode_jpeg(frame: MatLike, quality: int = FRAME_QUALITY) -> bytes:
    """Raises SensorError."""
    import cv2

    ok, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise SensorError(f"cannot encode a frame of shape {frame.shape} as JPEG")
    return data.tobytes()


def decode_image(data: bytes) -> MatLike | None:
    """BGR (height, width, 3), or None when it is not a picture."""
    import cv2
    import numpy as np

    if not data:
        return None
    picture: MatLike | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return picture
