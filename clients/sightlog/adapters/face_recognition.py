"""The package face_recognition (dlib)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from sightlog.errors import InvalidRecord, UsageError

from . import values
from .face import Face

MODEL: Final = "dlib_face_recognition_resnet_model_v1"
METRIC: Final = "euclidean"


def from_face_recognition(
    locations: Any,
    distances: Any,
    names: Sequence[str | None],
    *,
    encodings: Any = None,
    tolerance: float = 0.6,
) -> list[Face]:
    """One `Face` of each location, in their order.

    `locations` is what `face_locations(picture)` gives: (top, right, bottom, left) each; where the picture was scaled
    down, scale them up first. `distances` has for each of them what `face_distance(known_encodings, encoding)` gives,
    and `names` are then those of `known_encodings`, where a name may come more than once: the nearest one counts.
    Or `distances` has one number for each location, and `names` one name.

    Beyond `tolerance` the face is a stranger, with the distance to the nearest known face. `encodings`, what
    `face_encodings(picture, locations)` gives, are stored as embeddings.

    Raises UsageError when there are not as many of each, InvalidRecord for a distance that is none.
    """
    places = values.boxes("locations", locations)
    rows = values.plain(distances)
    if not isinstance(rows, list):
        raise UsageError(f"distances: expected a list with one item each face, got {type(distances).__name__}")
    values.same_length(locations=places, distances=rows)
    vectors = [None] * len(places) if encodings is None else list(encodings)
    values.same_length(locations=places, encodings=vectors)
    if not rows or any(isinstance(item, list) for item in rows):
        matches = [_nearest(item, names) for item in rows]
    else:
        values.same_length(distances=rows, names=names)
        matches = [(_distance(distance), name) for distance, name in zip(rows, names, strict=True)]
    return [
        Face(
            name=name if distance is not None and distance <= tolerance else None,
            distance=distance,
            metric=METRIC,
            bbox=(left, top, right, bottom),
            embedding=vector,
            embedding_model=None if vector is None else MODEL,
        )
        for (top, right, bottom, left), (distance, name), vector in zip(places, matches, vectors, strict=True)
    ]


def _nearest(distances: Any, names: Sequence[str | None]) -> tuple[float | None, str | None]:
    """(None, None) when nobody is known."""
    row = values.row("distances", distances)
    values.same_length(distances=row, names=names)
    # By the distance alone: a name may be None.
    return min(zip(map(_distance, row), names, strict=True), key=lambda match: match[0], default=(None, None))


def _distance(value: Any) -> float:
    distance = values.number(value)
    if math.isnan(distance):
        raise InvalidRecord(f"distance={value!r:.80}: expected a number, 0 or more")
    return distance
