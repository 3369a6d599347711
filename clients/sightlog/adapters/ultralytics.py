"""Ultralytics YOLO: detection, segmentation, pose and oriented boxes."""

from __future__ import annotations

from typing import Any

from sightlog.errors import UsageError
from sightlog.records import Detection

from .values import boxes, detections, row


def from_ultralytics(results: Any) -> list[Detection]:
    """The boxes of `results`: what `model(frame)` returns, or one `Results` of it. No box, no detection.

    Of several pictures their boxes come one after the other: give the results of one event. Boxes are in pixels of the
    picture given to the model. Oriented boxes (OBB) become the upright box around them.

    Raises UsageError for a classification's results, which have no boxes.
    """
    # A Results can be indexed too: it is told by what a list does not have.
    if hasattr(results, "names"):
        results = [results]
    return [detection for result in results for detection in _of_one(result)]


def _of_one(result: Any) -> list[Detection]:
    found = getattr(result, "boxes", None)
    if found is None:
        found = getattr(result, "obb", None)
    if found is None:
        if getattr(result, "probs", None) is not None:
            raise UsageError(
                "a classification has no boxes. Publish what you take of it: "
                "Detection(r.names[r.probs.top1], float(r.probs.top1conf))"
            )
        raise UsageError(f"expected the Results of a model that finds boxes, got {type(result).__name__} without any")
    return detections(
        boxes("boxes.xyxy", found.xyxy), row("boxes.conf", found.conf), row("boxes.cls", found.cls), result.names
    )
