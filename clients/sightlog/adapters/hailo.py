"""Hailo's accelerators: what a network with non-maximum suppression in it gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightlog.errors import UsageError
from sightlog.records import Detection

from .scaling import CornerOrder, FrameSize, check_frame_size, check_order, to_pixels
from .values import Labels, box, fraction, label_of, plain


def from_hailo(
    output: Any, labels: Labels, *, box_order: CornerOrder, frame_size: FrameSize, threshold: float = 0.5
) -> list[Detection]:
    """Those with a score of at least `threshold`; the default is picamera2's.

    `output` has for each class a list of boxes, each of five numbers: four corners as fractions of the picture, and the
    score. `Hailo.run(frame)` of picamera2 gives it; of a batch give one item, of several outputs the one with boxes.
    `box_order` has no default: "yx" for (y0, x0, y1, x1), which HailoRT's own suppression gives, "xy" for
    (x0, y0, x1, y1), which a network may have instead. `frame_size` is the (width, height) of the picture.

    Raises UsageError for other shapes, and for a class without a label.
    """
    check_order(box_order, "yx", "xy")
    check_frame_size(frame_size)
    if isinstance(output, Mapping):
        raise UsageError(f"the network has several outputs: give the one with the boxes, of {', '.join(output)}")
    found = []
    for number, rows in enumerate(_classes(output)):
        for item in rows:
            if not isinstance(item, list) or len(item) != 5 or isinstance(item[0], list):
                raise UsageError(
                    f"class {number}: expected boxes of five numbers, four corners and the score, got {item!r:.80}. "
                    "Of a batch give one item, such as output[0]"
                )
            score = fraction("score", item[4])
            if score >= threshold:
                corners = to_pixels(box("boxes", item[:4]), box_order, frame_size)
                found.append(Detection(label_of(labels, number), score, corners))
    return found


def _classes(output: Any) -> list[list[Any]]:
    classes = plain(output)
    if not isinstance(classes, list) or not all(isinstance(rows, list) for rows in classes):
        raise UsageError(f"output: expected a list of boxes for each class, got {type(output).__name__}")
    return classes
