"""Many producers in one process, which is to be killed: each publishes, without ever waiting for an ack.

    python tests/torture/vanishing_producers.py ENDPOINT SPOOL_DIR LEDGER_DIR RECORDS TEXT_CHARS NAME...

Each has a ledger as of tests/producer.py. RECORDS is how many each publishes, a few milliseconds apart; 0: only what an
earlier life left is delivered, and the process ends by itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from sightlog import Event, Publisher

PAUSE_SECONDS = 0.002
FLUSH_SECONDS = 60


def main() -> None:
    endpoint, spool_dir, ledger_dir, records, text_chars = sys.argv[1:6]
    names = sys.argv[6:]
    publishers = {name: Publisher(endpoint, name, spool_dir) for name in names}
    if records == "0":
        for publisher in publishers.values():
            assert publisher.flush(FLUSH_SECONDS)
            publisher.close()
        return
    ledgers = {name: os.open(Path(ledger_dir) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in names}
    waiting = []
    for number in range(int(records)):
        for name, publisher in publishers.items():
            event = Event(name, llm_description="x" * int(text_chars))
            receipt = publisher.publish(event, urgent=number % 3 == 0)
            os.write(ledgers[name], f"P {event.event_id}\n".encode())
            waiting.append((name, event.event_id, receipt))
        for name, event_id, receipt in waiting:
            if receipt.settled:
                os.write(ledgers[name], f"A {event_id}\n".encode())
        waiting = [one for one in waiting if not one[2].settled]
        time.sleep(PAUSE_SECONDS)
    signal.pause()


if __name__ == "__main__":
    main()
