"""A sensor process for the crash tests: publishes numbered events and keeps a ledger outside of everything it tests.

    python tests/producer.py ENDPOINT SPOOL_DIR NAME LEDGER COUNT

Every event has three detections, gets an amendment that adds a fourth, and an observation: applied twice or not at
all, it shows. The ledger has a line `P <event_id>` after publish() returned for all three, and `A <event_id>` after all
were acked.
"""

from __future__ import annotations

import os
import sys
from collections import deque

from sightlog import Detection, Event, Observation, Publisher

AHEAD_MAX = 300
"""Events published and not acked: without a bound a killed producer's next life would only deliver the last one's."""


def main() -> None:
    endpoint, spool_dir, name, ledger_path, count = sys.argv[1:]
    ledger = os.open(ledger_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    waiting: deque = deque()

    def note_acks(ahead_max: int) -> None:
        while waiting and (len(waiting) > ahead_max or all(receipt.settled for receipt in waiting[0][1])):
            event_id, receipts = waiting.popleft()
            assert {receipt.wait(60) for receipt in receipts} == {"stored"}, [receipt.reason for receipt in receipts]
            os.write(ledger, f"A {event_id}\n".encode())

    with Publisher(endpoint, name, spool_dir) as publisher:
        for _ in range(int(count)):
            event = Event(
                name,
                recording_id=name,
                detections=[Detection("person", 0.5, (1, 2, 3, 4))] * 3,
                llm_description="somebody at the door",
            )
            stored = publisher.publish(event)
            amended = publisher.amend(
                event.event_id,
                person_name=name,
                detections=[Detection("face", 0.5)],
                llm_description=f"{name} at the door",
                embedding=[0.5, 0.25],
                embedding_model="face",
            )
            observed = publisher.publish(Observation(f"{name} was there", "llm", event.event_id))
            os.write(ledger, f"P {event.event_id}\n".encode())
            waiting.append((event.event_id, (stored, amended, observed)))
            note_acks(AHEAD_MAX)
        publisher.flush(60)
        note_acks(0)


if __name__ == "__main__":
    main()
