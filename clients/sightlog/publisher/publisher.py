"""Publisher: what a sensor process holds to report what it sees."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sightlog.errors import NOT_TAKEN, InvalidRecord, ProtocolError, RecordRejected, SightlogError, UsageError
from sightlog.protocol import messages
from sightlog.protocol.encoding import check_id, encode_record
from sightlog.protocol.endpoint import check_endpoint, default_endpoint
from sightlog.protocol.messages import Position
from sightlog.records import Amendment, Event, Person, Record
from sightlog.spool.spool import Spool, default_spool_dir

from .connection import Connection, find_key
from .delivery import Delivery
from .receipts import CLOSED, FORKED, BatchReceipt, Ended, InsertResult, Receipt, ReceiptBook
from .session import Link, Phase
from .telemetry import TelemetryReporter

log = logging.getLogger("sightlog.publisher")

SPOOL_BYTES_MAX: Final = 64 * 1024 * 1024
INSERT_TIMEOUT: Final = 30.0
CLOSE_TIMEOUT: Final = 2.0


class Publisher:
    """Reports records to the daemon: durable in the spool first, then sent until acked.

    `producer` names the sensor; its spool is `spool_dir/producer`, and one process at a time may have it. Threads may
    share a publisher; a forked child has to make its own, with a producer name of its own. A `tcp://` endpoint on
    another machine needs a `key_file`, which `sightlogd keys new` makes there.

    Raises SpoolInUse, SpoolDamaged, UsageError. The daemon need not be running.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        producer: str = "sensor",
        spool_dir: str | os.PathLike[str] | None = None,
        *,
        key_file: str | os.PathLike[str] | None = None,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
    ) -> None:
        self.endpoint = check_endpoint(endpoint or default_endpoint())
        self.producer = check_id("producer", producer)
        key = find_key(self.endpoint, key_file)
        self._spool = Spool(Path(spool_dir or default_spool_dir()) / producer, producer, spool_bytes_max)
        self._link = Link()
        self._book = ReceiptBook(self._ask)
        self._telemetry = TelemetryReporter(self._link, self._spool)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closing = False
        try:
            self._connection = Connection(self.endpoint, key)
        except UsageError:
            self._spool.close()
            raise
        self._delivery = Delivery(producer, self._spool, self._link, self._book, self._telemetry, self._connection)
        self._thread = threading.Thread(target=self._run, name=f"sightlog-{producer}", daemon=True)
        self._thread.start()

    # -- publishing --------------------------------------------------------------------------------------------------

    def publish(self, record: Record, *, urgent: bool = False) -> Receipt:
        """Spool one record and return at once. `urgent` asks the daemon not to wait for more before it commits.

        Raises InvalidRecord (nothing was spooled), SpoolFull, ProducerFenced, PublisherClosed.
        """
        encoded = [_encoded(record)]
        self._check_process()
        with self._lock:
            self._check_usable()
            receipt = self._book.single(self._spool.next_position)
            self._append(encoded, urgent, receipt)
        return receipt

    def publish_many(self, records: Iterable[Record], *, urgent: bool = False) -> BatchReceipt:
        """Spool several records with one write: all of them, or none when it raises (as `publish` does).

        Raises InvalidRecord for an empty list too.
        """
        encoded = [_encoded(record, f"record {index}: ") for index, record in enumerate(records)]
        if not encoded:
            raise InvalidRecord(f"publish_many() got no records. {NOT_TAKEN}")
        self._check_process()
        with self._lock:
            self._check_usable()
            first = self._spool.next_position
            receipt = self._book.batch(first, Position(first.epoch, first.seq + len(encoded) - 1))
            self._append(encoded, urgent, receipt)
        return receipt

    def _append(self, encoded: Sequence[tuple[bytes, bytes]], urgent: bool, receipt: Receipt | BatchReceipt) -> None:
        try:
            last = self._spool.append(encoded, self._link.acked)
        except BaseException:
            # The exception's traceback may keep it alive, and the next record gets its position.
            self._book.forget(receipt)
            raise
        if urgent:
            self._delivery.want(last)
        else:
            self._delivery.notice()

    def insert_event(self, event: Event, timeout: float = INSERT_TIMEOUT) -> bool:
        """Publish and wait for the ack: True for stored, False for a duplicate of a known `event_id`.

        Raises RecordRejected, DatabaseWriteError when the daemon says that it cannot write, AckTimeout after `timeout`
        seconds. After the latter two the event is still in the spool and goes on being sent.
        """
        receipt = self.publish(event, urgent=True)
        receipt._wait_resolved(timeout, busy_raises=True)
        if receipt.status == messages.REJECTED:
            raise RecordRejected(receipt.reason or "")
        return receipt.status == messages.STORED

    def insert_events(self, events: Iterable[Event], timeout: float = INSERT_TIMEOUT) -> InsertResult:
        """Publish several and wait for all acks. A rejected one raises nothing: look at `.rejected` and `.reasons`.

        Raises DatabaseWriteError and AckTimeout as `insert_event` does.
        """
        events = list(events)
        if not events:
            return InsertResult(0, 0, 0, {})
        receipt = self.publish_many(events, urgent=True)
        receipt._wait_resolved(timeout, busy_raises=True)
        return receipt.wait()

    def amend(self, event_id: str, *, urgent: bool = False, **fields: Any) -> Receipt:
        """Add to an event what was learnt later; `fields` are those of `Amendment`. The event may come afterwards."""
        return self.publish(Amendment(event_id, **fields), urgent=urgent)

    def mark_alert_sent(self, event_id: str, site: str = "default") -> Receipt:
        """Somebody was told about this event."""
        return self.amend(event_id, site=site, alert_sent=True, urgent=True)

    def add_person(self, name: str, display_name: str | None = None, site: str = "default") -> Receipt:
        """Make a person known. A name the site has already is rejected: see the receipt."""
        return self.publish(Person(name, display_name, site))

    def telemetry(
        self,
        *,
        frames_processed: int = 0,
        motion_detected: int = 0,
        events_created: int = 0,
        events_suppressed: int = 0,
        inference_ms: Mapping[str, float] | None = None,
    ) -> None:
        """Add to what this sensor did, and the milliseconds that its models took, by name. Costs about a microsecond.

        Told once a second while the daemon is there. Kept in memory alone: of what is not told yet, counts are told
        later, and 100 times a name. Raises InvalidRecord for what is negative or no number, and for more than 16 names;
        ProducerFenced and PublisherClosed as `publish` does.
        """
        counts = (frames_processed, motion_detected, events_created, events_suppressed)
        self._check_process()
        with self._lock:
            self._check_usable()
            if self._telemetry.add(counts, inference_ms):
                self._delivery.notice()

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def producer_id(self) -> str:
        """The durable identity behind the name, as the daemon's `producers` table has it."""
        return self._spool.producer_id

    @property
    def connected(self) -> bool:
        """Whether the daemon answered and takes records."""
        return self._link.phase is Phase.OPEN

    @property
    def spooled(self) -> int:
        """Records published and not acked yet, those left by earlier sessions included."""
        return self._spool.depth(self._link.acked)

    @property
    def published(self) -> int:
        """Records published in all sessions of this spool."""
        return self._spool.published

    @property
    def lost(self) -> int:
        """Records that damaged spool files could not give back, in all sessions."""
        return self._spool.lost

    def flush(self, timeout: float | None = None) -> bool:
        """Block until nothing is spooled any more; False when `timeout` seconds were not enough."""
        epoch, seq = self._spool.next_position
        return self._book.wait_until(lambda: self.spooled == 0, Position(epoch, seq - 1), timeout)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Give the daemon `timeout` seconds to take what is spooled; the rest is sent in the next session.
        Idempotent."""
        if os.getpid() != self._pid or self._closing:
            return
        try:
            if self._book.ended is None and not self.flush(timeout):
                log.info("%s: %d records stay in the spool until the next start", self.producer, self.spooled)
        except SightlogError as error:
            log.warning("%s: %s", self.producer, error)
        finally:
            with self._lock:
                if not self._closing:
                    self._closing = True
                    self._delivery.close()
            self._thread.join()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_process(self) -> None:
        # Before any lock is taken: the parent's thread may have had it when it forked, and never gives it back here.
        if os.getpid() != self._pid:
            raise FORKED.of_call()

    def _check_usable(self) -> None:
        """While `_lock` is held: from here on to its release the spool and the connection are open."""
        if self._book.ended is not None:
            raise self._book.ended.of_call()
        if self._closing:
            raise CLOSED.of_call()

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _ask(self, position: Position) -> None:
        if os.getpid() != self._pid:
            raise FORKED.of_receipt()
        with self._lock:
            if not self._closing:
                self._delivery.want(position)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        told = False
        ended = CLOSED
        try:
            told = self._delivery.serve()
        except Exception as error:
            # A thread that dies silently would spool for ever: whoever publishes next hears of it.
            log.exception("%s: the publisher's thread failed; what is published is kept in the spool", self.producer)
            ended = Ended(ProtocolError, f"the publisher's thread failed: {error!r}. Restart this process.")
        finally:
            with self._lock:
                self._closing = True
            self._connection.close(linger=told)
            self._spool.close(self._link.acked)
            if self._book.ended is None:
                self._book.end(ended)


def _encoded(record: Record, which: str = "") -> tuple[bytes, bytes]:
    try:
        return encode_record(record)
    except InvalidRecord as error:
        raise InvalidRecord(f"{which}{error}. {NOT_TAKEN}") from None
