"""Boxes as networks give them, made into corners in pixels. No I/O."""

from __future__ import annotations

from typing import Final, Literal

from sightlog.errors import UsageError

Box = tuple[float, float, float, float]
CornerOrder = Literal["yx", "xy"]
"""(y0, x0, y1, x1) or (x0, y0, x1, y1): the names are picamera2's."""
FrameSize = tuple[int, int]
"""(width, height): the other way round than a frame's shape."""

OUTSIDE_MAX: Final = 2.0
"""A normalised box may reach over the frame's edge, but not as far as this."""


def check_frame_size(frame_size: FrameSize) -> None:
    try:
        good = all(side > 0 for side in frame_size) and len(frame_size) == 2
    except TypeError:
        good = False
    if not good:
        raise UsageError(f"frame_size={frame_size!r:.60}: expected (width, height) in pixels")


def check_order(order: str, *known: str) -> None:
    if order not in known:
        raise UsageError(f"box_order={order!r:.60}: expected {' or '.join(map(repr, known))}")


def to_pixels(box: Box, order: CornerOrder, frame_size: FrameSize) -> Box:
    """Corners (x1, y1, x2, y2) in pixels of a box whose numbers are fractions of the frame's sides.

    Raises UsageError when they are none.
    """
    if max(map(abs, box)) > OUTSIDE_MAX:
        raise UsageError(
            f"the box {box!r:.80} is not normalised. Of a network whose boxes are pixels of its input "
            "(picamera2: intrinsics.bbox_normalization) divide them by the input's height first"
        )
    x0, y0, x1, y1 = box if order == "xy" else (box[1], box[0], box[3], box[2])
    width, height = frame_size
    return x0 * width, y0 * height, x1 * width, y1 * height
