"""What a sensor counts about itself, and when its producer tells the daemon. No I/O, no clock.

Lossy by design: counters are told as totals of this session, so that a message that is lost costs nothing; measured
times are told once. Times of telling are seconds of one monotonic clock that the caller passes in."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from operator import add
from typing import Final

from sightlog.errors import InvalidRecord
from sightlog.protocol import messages
from sightlog.protocol.encoding import check_id, to_number
from sightlog.protocol.limits import COUNTERS, INFERENCE_MS_MAX, INFERENCE_NAMES_MAX, INFERENCE_SAMPLES_MAX, INTEGER_MAX
from sightlog.protocol.messages import Position
from sightlog.spool.spool import Spool

from .session import Link, Phase

SECONDS_MIN: Final = 1.0
"""Between two tellings."""
QUIET_SECONDS_MIN: Final = 10.0
"""The same where the sensor counts nothing, and only the spool's state changed."""


class TelemetryReporter:
    """`add` may be called by any thread; the rest is for the one that sends."""

    def __init__(self, link: Link, spool: Spool) -> None:
        self._link = link
        self._spool = spool
        self._lock = threading.Lock()
        self._totals = [0] * len(COUNTERS)
        self._samples: dict[str, deque[float]] = {}
        self._changed = False
        self.renew()

    def add(self, counts: tuple[int, ...], inference_ms: Mapping[str, float] | None) -> bool:
        """`counts` in the order of COUNTERS. True when the sender has to be woken: nothing was there to tell before.

        Raises InvalidRecord, and has added nothing.
        """
        for count in counts:
            if type(count) is not int or count < 0:
                name = COUNTERS[counts.index(count)]
                raise InvalidRecord(f"{name}={count!r:.80}: expected a whole number from 0")
        taken = _checked(inference_ms) if inference_ms else None
        with self._lock:
            if taken:
                if len(self._samples.keys() | taken.keys()) > INFERENCE_NAMES_MAX:
                    raise InvalidRecord(
                        f"inference_ms: more than {INFERENCE_NAMES_MAX} names in one session of a sensor"
                    )
                for name, ms in taken.items():
                    self._samples.setdefault(name, deque(maxlen=INFERENCE_SAMPLES_MAX)).append(ms)
            self._totals = [*map(add, self._totals, counts)]
            was_changed, self._changed = self._changed, True
        return not was_changed

    def renew(self) -> None:
        """The daemon may know nothing: tell it at once."""
        self._reported_at = -QUIET_SECONDS_MIN  # due on any clock
        self._reported: object = None

    def due_at(self) -> float:
        """When to tell; infinity when there is nobody to tell, or nothing."""
        if self._link.phase is not Phase.OPEN:
            return math.inf
        if self._changed:
            return self._reported_at + SECONDS_MIN
        return self._reported_at + QUIET_SECONDS_MIN if self._standing() != self._reported else math.inf

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell, now or later, and somebody to tell it to."""
        return self.due_at() < math.inf

    def _standing(self) -> tuple[Position, Position]:
        return self._spool.next_position, self._link.acked

    def message(self, now: float) -> list[bytes]:
        """What there is to tell. When it cannot be sent: `renew`."""
        self._reported, self._reported_at = self._standing(), now
        with self._lock:
            self._changed = False
            totals = {name: min(total, INTEGER_MAX) for name, total in zip(COUNTERS, self._totals, strict=True)}
            inference_ms = {name: list(samples) for name, samples in self._samples.items() if samples}
            for samples in self._samples.values():
                samples.clear()
        return messages.telemetry(self._spool.report(self._link.acked), totals, inference_ms)


def _checked(inference_ms: Mapping[str, float]) -> dict[str, float]:
    taken = {check_id("inference_ms", name): to_number(value) for name, value in inference_ms.items()}
    for name, ms in taken.items():
        if not 0.0 <= ms <= INFERENCE_MS_MAX:
            got = inference_ms[name]
            raise InvalidRecord(
                f"inference_ms {name}={got!r:.80}: expected milliseconds from 0 to {INFERENCE_MS_MAX:.0f}"
            )
    return taken
