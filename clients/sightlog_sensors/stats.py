"""How long a sensor's own records took from `publish` to their ack, and how many there were."""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

from sightlog import Publisher, Receipt
from sightlog.publisher.publisher import CLOSE_TIMEOUT
from sightlog.records import Record

RESOLUTION: Final = 0.002
"""Seconds between looks at the receipts: what a measured time may be too long by."""
TIMES_MAX: Final = 10_000
"""Times kept, the newest."""
OPEN_MAX: Final = 10_000
"""Receipts watched at once; records published beyond it are counted as published only."""
REASONS_MAX: Final = 5


def open_publisher(options: argparse.Namespace) -> Publisher:
    """The publisher for a sensor's options, a measuring one when `--stats` was given."""
    if options.stats is None:
        return Publisher(options.endpoint, options.producer, options.spool_dir)
    return MeasuringPublisher(options.endpoint, options.producer, options.spool_dir, options.stats)


class MeasuringPublisher(Publisher):
    """A Publisher that writes a JSON file when it is closed:

    `producer`, `producer_id`, `published` (in this session), `carried_over` (in the spool at the start), `spooled`
    (left at the end), `acked`, `rejected_reasons` (at most 5), `ack_ms` (publish -> ack, at most the last 10,000).

    It looks at receipts instead of waiting for them: a waiting producer has the daemon commit at once.
    """

    def __init__(self, endpoint: str | None, producer: str, spool_dir: Path | None, file: Path) -> None:
        super().__init__(endpoint, producer, spool_dir)
        self._file = file
        self._carried_over = self.spooled
        self._published = 0
        self._acked = 0
        self._reasons: list[str] = []
        self._times: deque[float] = deque(maxlen=TIMES_MAX)
        self._watched: deque[tuple[float, Receipt]] = deque()
        self._changed = threading.Condition()
        self._written = False
        threading.Thread(target=self._watch, name=f"stats-{producer}", daemon=True).start()

    def publish(self, record: Record, *, urgent: bool = False) -> Receipt:
        began = time.monotonic()
        receipt = super().publish(record, urgent=urgent)
        with self._changed:
            self._published += 1
            if len(self._watched) < OPEN_MAX:
                self._watched.append((began, receipt))
                self._changed.notify()
        return receipt

    def _watch(self) -> None:
        while not self._written:
            with self._changed:
                self._changed.wait_for(lambda: self._watched or self._written)
                self._take_settled()
            time.sleep(RESOLUTION)

    def _take_settled(self) -> None:
        now = time.monotonic()
        # Acks are cumulative and in order: behind one that is open all are.
        while self._watched and self._watched[0][1].settled:
            began, receipt = self._watched.popleft()
            self._acked += 1
            self._times.append((now - began) * 1000)
            if receipt.reason is not None and len(self._reasons) < REASONS_MAX:
                self._reasons.append(f"{receipt.status}: {receipt.reason}")

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        super().close(timeout)
        with self._changed:
            if self._written:
                return
            self._take_settled()
            self._written = True
            self._changed.notify()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".tmp")
        unfinished.write_text(
            json.dumps(
                {
                    "producer": self.producer,
                    "producer_id": self.producer_id,
                    "published": self._published,
                    "carried_over": self._carried_over,
                    "spooled": self.spooled,
                    "acked": self._acked,
                    "rejected_reasons": self._reasons,
                    "ack_ms": [round(value, 3) for value in self._times],
                }
            )
        )
        os.replace(unfinished, self._file)
