"""Raspberry Pi's AI camera: detections of picamera2's IMX500."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from sightlog.errors import UsageError
from sightlog.records import Detection

from . import values
from .scaling import Box, FrameSize, check_frame_size, check_order, to_pixels
from .values import Labels

BoxOrder = Literal["xywh", "yx", "xy"]


def from_imx500(
    boxes: Any,
    scores: Any,
    classes: Any,
    labels: Labels,
    *,
    box_order: BoxOrder,
    frame_size: FrameSize | None = None,
    threshold: float = 0.55,
) -> list[Detection]:
    """Those with a score of at least `threshold`; the default is picamera2's.

    `boxes` is (n, 4), `scores` and `classes` are (n,): `IMX500.get_outputs(metadata)` gives all three. `box_order` has
    no default, because boxes with x and y exchanged are not noticed before somebody looks at a picture:

    "xywh": (x, y, width, height) in pixels, what `IMX500.convert_inference_coords` made of each box. Take this one
    where the picture shows less than the whole sensor.
    "yx" or "xy": (y0, x0, y1, x1) or (x0, y0, x1, y1) as fractions of the picture, as the network gave them: the value
    of `intrinsics.bbox_order`, where None is "yx". Needs `frame_size`, the picture's (width, height).

    Raises UsageError for other shapes, for boxes that cannot be of that order, and for a class without a label.
    """
    check_order(box_order, "xywh", "yx", "xy")
    if (frame_size is None) != (box_order == "xywh"):
        raise UsageError(
            "boxes of order 'xywh' are pixels: leave frame_size out"
            if box_order == "xywh"
            else f"boxes of order {box_order!r} are fractions: give frame_size=(width, height) of the picture"
        )
    if frame_size is not None:
        check_frame_size(frame_size)
    corners = [_tuple_of(box) for box in boxes] if isinstance(boxes, Iterable) else boxes
    found = values.boxes("boxes", corners)
    confidences = [_score(score) for score in values.row("scores", scores)]
    numbers = values.row("classes", classes)
    values.same_length(boxes=found, scores=confidences, classes=numbers)
    # The network always gives as many rows: those behind the last object have a score of 0.
    return [
        Detection(
            values.label_of(labels, number),
            score,
            _from_xywh(box) if frame_size is None or box_order == "xywh" else to_pixels(box, box_order, frame_size),
        )
        for box, score, number in zip(found, confidences, numbers, strict=True)
        if score >= threshold
    ]


def _tuple_of(box: Any) -> Any:
    """picamera2 gave libcamera's Rectangle first, and gives a tuple now."""
    return box.to_tuple() if hasattr(box, "to_tuple") else box


def _score(value: Any) -> float:
    try:
        return values.fraction("score", value)
    except UsageError as error:
        raise type(error)(f"{error}. Did scores and classes change places?") from None


def _from_xywh(box: Box) -> Box:
    x, y, width, height = box
    if max(map(abs, box)) <= 1 and any(number != int(number) for number in box):
        raise UsageError(f"the box {box!r:.80} is no (x, y, width, height) in pixels: is its order 'yx' or 'xy'?")
    return x, y, x + width, y + height
