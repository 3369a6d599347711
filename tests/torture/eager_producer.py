"""A sensor that publishes as much as its spool takes, and keeps a ledger outside of everything it tests.

    python tests/torture/eager_producer.py ENDPOINT SPOOL_DIR NAME LEDGER SPOOL_BYTES TEXT_CHARS PAUSE_MS URGENT

The ledger has the lines of tests/producer.py, `P <event_id>` published and `A <event_id>` acked, and `F` for each time
that the spool was full. URGENT 1: each record is a message of its own. SIGTERM: it publishes no more, and ends when
everything is acked.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque

from sightlog import Event, Publisher, SpoolFull

FULL_PAUSE_SECONDS = 0.002
FLUSH_SECONDS = 120


def main() -> None:
    endpoint, spool_dir, name, ledger_path = sys.argv[1:5]
    spool_bytes, text_chars, pause_ms, is_urgent = map(int, sys.argv[5:])
    ledger = os.open(ledger_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    waiting: deque = deque()
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))

    def note_acks() -> None:
        while waiting and waiting[0][1].settled:
            event_id, receipt = waiting.popleft()
            assert receipt.status == "stored", receipt.reason
            os.write(ledger, f"A {event_id}\n".encode())

    with Publisher(endpoint, name, spool_dir, spool_bytes_max=spool_bytes) as publisher:
        while not stops:
            event = Event(name, llm_description="x" * text_chars)
            try:
                receipt = publisher.publish(event, urgent=bool(is_urgent))
            except SpoolFull:
                os.write(ledger, b"F\n")
                time.sleep(FULL_PAUSE_SECONDS)
            else:
                os.write(ledger, f"P {event.event_id}\n".encode())
                waiting.append((event.event_id, receipt))
                time.sleep(pause_ms / 1000)
            note_acks()
        assert publisher.flush(FLUSH_SECONDS)
        note_acks()
        assert not waiting


if __name__ == "__main__":
    main()
