"""Whether something grew in a soak: the robust slope of what was left alone in its second half, against a bound."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

PAIRS_OF = 500
"""Samples at most whose pairs are looked at."""
SAMPLES_MIN = 6
WARM_UP = 0.2
"""Of the time in which what is judged is left alone: it has to come to its size first."""


class Bound(NamedTuple):
    what: str
    role: str
    key: str
    unit: str
    growth: float
    """Between the beginning and the end of what is judged, by its slope, however long that is."""


BOUNDS = (
    Bound("the daemon's memory", "daemon", "memory", "MB", 6),
    # It keeps the logs of the last eight days open, two each, and a purge closes them: in a short soak that is a slope.
    Bound("the daemon's descriptors", "daemon", "descriptors", "", 18),
    Bound("the daemon's threads", "daemon", "threads", "", 0.5),
    Bound("a sensor's memory", "sensor", "memory", "MB", 4),
    Bound("a sensor's descriptors", "sensor", "descriptors", "", 2),
    Bound("a sensor's threads", "sensor", "threads", "", 0.5),
    Bound("the reader's memory", "reader", "memory", "MB", 4),
    Bound("the reader's descriptors", "reader", "descriptors", "", 2),
    Bound("the WAL", "store", "wal", "MB", 4),
    Bound("the spools", "store", "spool", "MB", 4),
)


class Growth(NamedTuple):
    bound: Bound
    grew: float
    """By the slope, over what was judged."""
    from_: float
    to: float
    """Seconds of the run."""
    level: float
    """At its middle."""

    @property
    def is_flat(self) -> bool:
        return self.grew <= self.bound.growth

    def __str__(self) -> str:
        bound, minutes = self.bound, (self.to - self.from_) / 60
        unit = f" {bound.unit}" if bound.unit else ""
        return (
            f"{bound.what}: {'flat' if self.is_flat else 'GROWS'}: {self.grew:+.2f}{unit} in {minutes:.1f} min at "
            f"{self.level:.1f}{unit} (bound {bound.growth:+g}{unit})"
        )


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes of all pairs: up to 29 % of the points may be anything."""
    step = -(-len(points) // PAIRS_OF)
    pairs = itertools.combinations(points[::step], 2)
    return statistics.median((second[1] - first[1]) / (second[0] - first[0]) for first, second in pairs)


def growth(samples: Sequence[dict[str, Any]], calm_from: float) -> list[Growth]:
    """One for each of BOUNDS, which are left alone from then on. Raises ValueError where there are too few samples."""
    from_ = calm_from + WARM_UP * (samples[-1]["at"] - calm_from)
    return [_growth_of(bound, [sample for sample in samples if sample["at"] >= from_]) for bound in BOUNDS]


def _growth_of(bound: Bound, samples: Sequence[dict[str, Any]]) -> Growth:
    points = [(sample["at"], sample[bound.role][bound.key]) for sample in samples if sample[bound.role]]
    if len(points) < SAMPLES_MIN:
        raise ValueError(f"{bound.what}: {len(points)} samples are too few to tell whether it grows")
    from_, to = points[0][0], points[-1][0]
    level = statistics.median(value for _, value in points)
    return Growth(bound, theil_sen(points) * (to - from_), from_, to, level)
