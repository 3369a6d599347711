"""A face, as the adapters of the recognisers give it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from sightlog.errors import InvalidRecord
from sightlog.protocol.limits import FACE_DISTANCE_MAX
from sightlog.records import Embedding

from .values import ROUNDING, fraction, number

METRIC_KEY: Final = "face_metric"
"""In a record's metadata: a distance says nothing without its metric."""


@dataclass(frozen=True, slots=True)
class Face:
    """A face in a picture, and who it is.

    `name` None is a stranger. `distance` is to the nearest known face in `metric`, such as "euclidean" or "cosine";
    None: nobody is known, or nobody compared. `confidence` in [0, 1] is the recogniser's own; None where it gives no
    other number than the distance. `bbox` is (x1, y1, x2, y2) in pixels. `embedding` is of this face.

    Raises InvalidRecord for a number out of its limits, and for a distance without a metric.
    """

    name: str | None
    distance: float | None = None
    metric: str | None = None
    confidence: float | None = None
    bbox: tuple[float, float, float, float] | None = None
    embedding: Embedding | None = field(default=None, compare=False, repr=False)
    embedding_model: str | None = None
    embedding_version: str | None = None

    def __post_init__(self) -> None:
        if self.confidence is not None:
            object.__setattr__(self, "confidence", fraction("confidence", self.confidence))
        if self.distance is not None:
            distance = number(self.distance)
            # 1 - cos of a face with itself is a little below 0.
            if not -ROUNDING <= distance <= FACE_DISTANCE_MAX:
                raise InvalidRecord(
                    f"distance={self.distance!r:.80}: expected a number from 0 to {FACE_DISTANCE_MAX:.0f}"
                )
            object.__setattr__(self, "distance", max(0.0, distance))
            if self.metric is None:
                raise InvalidRecord(f"distance={distance}: give its metric, such as 'euclidean' or 'cosine'")

    def fields(self) -> dict[str, Any]:
        """For `publisher.amend(event_id, **face.fields())` and `Event(…, **face.fields())`.

        An event has one face: give the one that it is about.
        """
        confidence = self.confidence
        if confidence is None and self.distance is not None:
            confidence = max(0.0, 1 - self.distance)
        return {
            "person_name": self.name,
            "face_confidence": confidence,
            "face_distance": self.distance,
            "metadata": None if self.metric is None else {METRIC_KEY: self.metric},
            "embedding": self.embedding,
            "embedding_model": None if self.embedding is None else self.embedding_model,
            "embedding_version": None if self.embedding is None else self.embedding_version,
        }
