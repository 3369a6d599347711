"""A sensor of the soak: events at a steady rate with pictures, what is learnt of them, observations; and a ledger.

    python tests/torture/soak_sensor.py ENDPOINT SPOOL_DIR NAME LEDGER PICTURES RATE DAY_SECONDS BEGAN STOP

Each DAY_SECONDS of the run are a day of its events, so that old days go while it runs. The ledger has a line
`P <event_id> <day> <records>` after publish() returned for all records of an event, and `A <event_id> <ms>` after all
of them were acked. When there is a file STOP, it delivers what it has and ends.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sightlog import Detection, Event, Observation, Publisher

FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
LOOK_SECONDS = 0.01
"""Between two looks for acks: asking by `wait` would hurry the daemon."""


def moment(elapsed: float, day_seconds: float) -> datetime:
    """What the clock of the events says so long after the soak began."""
    return FIRST_DAY + timedelta(days=elapsed / day_seconds)


def main() -> None:
    endpoint, spool_dir, name, ledger_path, pictures_dir, rate, day_seconds, began, stop = sys.argv[1:]
    pictures = [path.read_bytes() for path in sorted(Path(pictures_dir).iterdir())]
    ledger = os.open(ledger_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    waiting: deque = deque()

    def note_acks() -> None:
        while waiting and all(receipt.settled for receipt in waiting[0][2]):
            event_id, published, receipts = waiting.popleft()
            assert {receipt.status for receipt in receipts} == {"stored"}, [receipt.reason for receipt in receipts]
            os.write(ledger, f"A {event_id} {(time.monotonic() - published) * 1000:.1f}\n".encode())

    with Publisher(endpoint, name, spool_dir) as publisher:
        due, number = time.monotonic(), 0
        while not os.path.exists(stop):
            at = moment(time.time() - float(began), float(day_seconds))
            event = Event(
                name,
                recorded_at=at,
                recording_id=f"{name}-{os.getpid()}",
                detections=[Detection("person", 0.5, (1, 2, 3, 4))] * (1 + number % 3),
                thumbnail=pictures[number % len(pictures)],
            )
            published = time.monotonic()
            receipts = [publisher.publish(event, urgent=number % 20 == 0)]
            if number % 2:
                receipts.append(
                    publisher.amend(event.event_id, person_name=name, llm_description=f"{name} at the door")
                )
            if number % 4 == 3:
                receipts.append(
                    publisher.publish(Observation(f"{name} was there", "llm", event.event_id, recorded_at=at))
                )
            os.write(ledger, f"P {event.event_id} {at:%Y-%m-%d} {len(receipts)}\n".encode())
            waiting.append((event.event_id, published, receipts))
            number += 1
            due = max(due + 1 / float(rate), published)
            while time.monotonic() < due:
                note_acks()
                time.sleep(LOOK_SECONDS)
        while not publisher.flush(1):
            note_acks()
        note_acks()


if __name__ == "__main__":
    main()
