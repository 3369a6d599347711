"""Roboflow's supervision: one form for the results of many models."""

from __future__ import annotations

from typing import Any, Final

from sightlog.errors import UsageError
from sightlog.records import Detection

from .values import CONFIDENCE_UNKNOWN, Labels, boxes, fraction, label_of, row, same_length

LABEL_UNKNOWN: Final = "object"
"""Of what has a box and no class: a tracker's, or a segmentation of everything."""


def from_supervision(detections: Any, names: Labels | None = None) -> list[Detection]:
    """One of each box of an `sv.Detections`.

    Labels are `names` by its class_id, or those of its data["class_name"]; a box without a class is an "object". Where
    it has no confidences they are 1.0.

    Raises UsageError when there are class ids and no names.
    """
    found = boxes("xyxy", detections.xyxy)
    given = detections.confidence
    confidences = [CONFIDENCE_UNKNOWN] * len(found) if given is None else row("confidence", given)
    labels = _labels(detections, names, len(found))
    same_length(boxes=found, confidences=confidences, labels=labels)
    return [
        Detection(label, fraction("confidence", confidence), corners)
        for label, confidence, corners in zip(labels, confidences, found, strict=True)
    ]


def _labels(detections: Any, names: Labels | None, count: int) -> list[str]:
    classes, named = detections.class_id, detections.data.get("class_name")
    if names is not None and classes is not None:
        return [label_of(names, number) for number in row("class_id", classes)]
    if named is not None:
        return [str(label) for label in row("class_name", named)]
    if classes is not None and count:
        raise UsageError("the detections have class ids without names: give names=model.names, a list or a dict")
    return [LABEL_UNKNOWN] * count
