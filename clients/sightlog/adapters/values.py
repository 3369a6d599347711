"""Arrays, tensors and lists, as plain Python numbers: without NumPy, whichever library they are of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sightlog.errors import InvalidRecord, UsageError
from sightlog.protocol.encoding import to_number
from sightlog.records import Detection

ROUNDING: Final = 0.01
"""How far a confidence may be off [0, 1]: half precision and a quantised network's scores are. A percentage is not."""
CONFIDENCE_UNKNOWN: Final = 1.0
"""A detection needs a confidence. Where a library gives none, it does not doubt."""

Labels = Mapping[int, str] | Sequence[str]
"""A model's names: by class, or in the order of its classes."""


def plain(values: Any) -> Any:
    """An array or tensor of any dimension as nested lists of numbers, an iterator of arrays as well."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    elif isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping)):
        values = list(values)
    if isinstance(values, list) and any(isinstance(item, Iterable) for item in values):
        return [plain(item) for item in values]
    return values


def number(value: Any) -> float:
    """NaN for what is none."""
    try:
        return float(to_number(value))
    except OverflowError:  # a huge int
        return math.nan


def row(field: str, values: Any) -> list[Any]:
    """(n,) as a list. Raises UsageError for anything else."""
    items = plain(values)
    if not isinstance(items, list) or any(isinstance(item, list) for item in items):
        raise UsageError(f"{field}: expected one number each, (n,), got {_shape(values, items)}")
    return items


def boxes(field: str, values: Any) -> list[tuple[float, float, float, float]]:
    """(n, 4) as tuples of floats; (n, 4, 1), which picamera2's IMX500 demo makes, as well.

    Raises UsageError for another shape, InvalidRecord for a box with NaN or infinity.
    """
    found = plain(values)
    if not isinstance(found, list):
        raise UsageError(f"{field}: expected boxes of four numbers, (n, 4), got {_shape(values, found)}")
    return [box(field, item) for item in found]


def box(field: str, values: Any) -> tuple[float, float, float, float]:
    """Four floats. Raises UsageError for another shape, InvalidRecord for NaN or infinity."""
    items = plain(values)
    if isinstance(items, list):
        items = [item[0] if isinstance(item, list) and len(item) == 1 else item for item in items]
    if not isinstance(items, list) or len(items) != 4 or any(isinstance(item, list) for item in items):
        raise UsageError(f"{field}: expected boxes of four numbers, (n, 4), got one of {_shape(values, items)}")
    a, b, c, d = map(number, items)
    if not all(map(math.isfinite, (a, b, c, d))):
        raise InvalidRecord(f"{field}: expected four finite numbers, got {items!r:.80}")
    return a, b, c, d


def fraction(field: str, value: Any) -> float:
    """A confidence. What rounding put outside [0, 1] is put back; NaN and everything else is InvalidRecord."""
    found = number(value)
    if not -ROUNDING <= found <= 1 + ROUNDING:
        raise InvalidRecord(f"{field}={value!r:.80}: expected a number from 0 to 1")
    return min(1.0, max(0.0, found))


def detections(
    found: list[tuple[float, float, float, float]], confidences: list[Any], classes: list[Any], labels: Labels
) -> list[Detection]:
    """One of each box (x1, y1, x2, y2). Raises UsageError when they are not equally many, or a class has no label."""
    same_length(boxes=found, confidences=confidences, classes=classes)
    return [
        Detection(label_of(labels, index), fraction("confidence", confidence), corners)
        for corners, confidence, index in zip(found, confidences, classes, strict=True)
    ]


def same_length(**lists: Sequence[Any]) -> None:
    """Raises UsageError that says how many there are of each."""
    if len({len(items) for items in lists.values()}) > 1:
        raise UsageError(f"expected as many of each, got {', '.join(f'{len(v)} {k}' for k, v in lists.items())}")


def label_of(labels: Labels, value: Any) -> str:
    """What the model calls its class `value`, a number that may be a float. Raises UsageError when it has no name."""
    found = number(value)
    if not found.is_integer():
        raise InvalidRecord(f"class={value!r:.80}: expected a whole number")
    index = int(found)
    if index not in labels if isinstance(labels, Mapping) else not 0 <= index < len(labels):
        raise UsageError(f"class {index} has no name among the {len(labels)} labels. Are they this model's?")
    return labels[index]


def _shape(values: Any, items: Any) -> str:
    shape = getattr(values, "shape", None)
    if shape is not None:
        return f"shape {tuple(shape)}"
    return f"{items!r:.60}" if isinstance(items, list) else type(values).__name__
