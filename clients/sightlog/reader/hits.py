"""What `Reader.search` and `Reader.similar` find. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from sightlog.records import Event, Observation


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A text that has all the words: the description of `event`, or `observation`, and then `event` is the one that
    it is about, or None. `score` is FTS5's bm25: the better, the lower."""

    event: Event | None
    observation: Observation | None
    excerpt: str
    score: float


@dataclass(frozen=True, slots=True)
class SimilarHit:
    """An embedding nearby: that of the face of `event`, or of `observation`, and then `event` is the one that it is
    about, or None. `distance` is 1 - cos, from 0 (same direction) to 2 (opposite); `metric` is its name."""

    event: Event | None
    observation: Observation | None
    distance: float
    metric: str = "cosine"
