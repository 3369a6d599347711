"""A camera's frame, made into a JPEG that the daemon keeps as it is."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

from sightlog.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ColorOrder = Literal["bgr", "rgb"]


def thumbnail_from_frame(
    frame: NDArray[Any], *, color_order: ColorOrder, max_px: int = 320, quality: int = 85
) -> bytes:
    """A JPEG for `Event(…, thumbnail=…)`, with its longer side at most `max_px` pixels; it is never enlarged.

    `frame` is a NumPy array of uint8: (height, width) or (height, width, 1) is grey, (height, width, 3) colours,
    (height, width, 4) colours and a fourth channel that is left out. `quality` is JPEG's, from 1 to 95.

    `color_order` has no default, because a wrong one is not noticed before somebody looks for a blue jacket that was
    orange. OpenCV's frames are "bgr". So are those of picamera2's format "RGB888": its "BGR888" is "rgb".

    Needs Pillow or OpenCV. Raises UsageError for anything else than such a frame, and when neither is installed.
    """
    _check(frame, color_order, max_px, quality)
    height, width = frame.shape[:2]
    divisor = max(1.0, max(height, width) / max_px)
    size = max(1, round(width / divisor)), max(1, round(height / divisor))
    # Pillow first: where both are installed but only Pillow is in use, OpenCV costs 60 MB of memory.
    try:
        return _with_pillow(frame, color_order, size, quality)
    except ModuleNotFoundError:
        pass
    try:
        return _with_opencv(frame, color_order, size, quality)
    except ModuleNotFoundError as error:
        raise UsageError("thumbnail_from_frame needs Pillow or OpenCV: pip install pillow") from error


def _check(frame: NDArray[Any], color_order: str, max_px: int, quality: int) -> None:
    shape, dtype = getattr(frame, "shape", None), getattr(frame, "dtype", None)
    if not isinstance(shape, tuple) or dtype is None:
        raise UsageError(f"frame: expected a NumPy array, got {type(frame).__name__}")
    if dtype != "uint8":
        raise UsageError(f"frame: expected an array of uint8, got {dtype}. Scale it to 0 … 255 first")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        raise UsageError(f"frame: expected (height, width) or (height, width, 1, 3 or 4), got {shape}")
    if color_order not in ("bgr", "rgb"):
        raise UsageError(f"color_order={color_order!r}: expected 'bgr' (OpenCV) or 'rgb'")
    if not 1 <= max_px <= 4_096:
        raise UsageError(f"max_px={max_px}: expected 1 to 4096")
    if not 1 <= quality <= 95:
        raise UsageError(f"quality={quality}: expected 1 to 95")


def _with_pillow(frame: NDArray[Any], color_order: ColorOrder, size: tuple[int, int], quality: int) -> bytes:
    from PIL import Image

    height, width = frame.shape[:2]
    channels = 1 if frame.ndim == 2 else frame.shape[2]
    mode = "L" if channels == 1 else "RGB"
    layout = {1: "L", 3: color_order.upper(), 4: f"{color_order.upper()}X"}[channels]
    picture = Image.frombytes(mode, (width, height), frame.tobytes(), "raw", layout)
    # BOX is what OpenCV calls AREA: each pixel is the mean of those it stands for.
    picture = picture.resize(size, Image.Resampling.BOX)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _with_opencv(frame: NDArray[Any], color_order: ColorOrder, size: tuple[int, int], quality: int) -> bytes:
    import cv2
    import numpy as np

    # OpenCV takes neither negative nor broadcast strides.
    picture = cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA)
    if picture.ndim == 3:  # of one channel it comes back without its axis
        picture = np.ascontiguousarray(picture[:, :, :3] if color_order == "bgr" else picture[:, :, 2::-1])
    ok, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise UsageError(f"frame: OpenCV cannot encode {frame.shape}")
    return data.tobytes()
