"""The lock: reads what is stored about who stands at the door, and decides once whether to open.

It reads the database, not the sensors: a decision rests only on what is durable, and stands beside its reasons.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sightlog import Event, NotNow, Reader

from . import process
from .process import Stop
from .stats import open_publisher

log = logging.getLogger("sightlog.lock")

POLL_SECONDS: Final = 0.2
RECENT_EVENTS: Final = 50
FRESH: Final = timedelta(seconds=30)
"""Nobody stands at the door any more for an older event, and a clock is wrong for one so far ahead: neither opens."""


class Decisions:
    """Which events to decide now, each once. `grace` is how many seconds a face may wait for its name."""

    def __init__(self, grace: float, recording_id: str | None = None) -> None:
        self._grace = grace
        self._recording_id = recording_id
        self._faces_since: dict[str, float] = {}
        self._decided: set[str] = set()

    def due(self, events: Sequence[Event], now: datetime, clock: float) -> list[tuple[Event, bool]]:
        """(event, unlock or not), given the recent events, the time and the seconds of a monotonic clock."""
        recent = {event.event_id for event in events}
        self._faces_since = {known: since for known, since in self._faces_since.items() if known in recent}
        self._decided &= recent
        due = []
        for event in events:
            if (
                event.event_id in self._decided
                or event.unlock_granted is not None
                or abs(now - event.recorded_at) > FRESH
                or (self._recording_id is not None and event.recording_id != self._recording_id)
            ):
                continue
            if event.person_name is not None:
                due.append((event, True))
            elif any(detection.label == "face" for detection in event.detections):
                since = self._faces_since.setdefault(event.event_id, clock)
                if clock - since >= self._grace:
                    due.append((event, False))
        return due

    def made(self, event: Event) -> None:
        """The decision about `event` is published."""
        self._decided.add(event.event_id)


def _parser() -> argparse.ArgumentParser:
    parser = process.make_parser("lock", "Unlocks for people who are known, and writes down every decision.")
    parser.add_argument("--database", type=Path, required=True, metavar="FILE", help="DATA_DIR/events.db")
    parser.add_argument("--recording-id", metavar="ID", help="decide for this recording's events only (default: all)")
    parser.add_argument(
        "--grace", type=float, default=1.0, metavar="SECONDS", help="a face without a name is refused after (1)"
    )
    return parser


def _decide(options: argparse.Namespace, stop: Stop) -> None:
    decisions = Decisions(options.grace, options.recording_id)
    with Reader(options.database) as reader, open_publisher(options) as pub:
        while not stop.wait(POLL_SECONDS):
            try:
                events = reader.get_recent_events(RECENT_EVENTS)
                for event, unlock in decisions.due(events, datetime.now(UTC), time.monotonic()):
                    # A real lock drives its bolt here.
                    pub.amend(
                        event.event_id,
                        unlock_granted=unlock,
                        door_action="unlocked" if unlock else "locked",
                        urgent=True,
                    )
                    decisions.made(event)
            except NotNow as error:
                log.warning("%s", error)


def main(arguments: Sequence[str] | None = None) -> int:
    return process.run(_parser(), arguments, _decide)


if __name__ == "__main__":
    sys.exit(main())
