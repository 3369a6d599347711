"""What goes from a spool to the daemon, and what its answers do here: the work of the publisher's thread.

That thread alone uses the connection and the link. Whoever publishes appends to the spool and calls `notice`; whoever
waits for an ack calls `want`, and is told by the receipt book.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

from sightlog.errors import AccessDenied, ProtocolError, SpoolInUse
from sightlog.protocol import messages
from sightlog.protocol.messages import START, Ack, Busy, Position, Refused, Welcome
from sightlog.spool.spool import Spool

from .receipts import Ended, ReceiptBook
from .session import IDLE, UNANSWERED_MAX, Link, Phase
from .telemetry import TelemetryReporter

if TYPE_CHECKING:
    from .connection import Connection

log = logging.getLogger("sightlog.publisher")

UNSYNCED_SECONDS_MAX: Final = 1.0
"""Records that got no ack for this long are made to survive a power cut in the spool."""
SPOOL_RETRY_SECONDS: Final = 1.0
COALESCE_SECONDS: Final = 0.2
"""How long records that nobody waits for are coalesced, behind those that were just sent. More: fewer messages, each of
which wakes the daemon up. Less: readers see them earlier, but the daemon lets them linger longer than that anyhow."""
COALESCE_RECORDS: Final = 250
"""So many are worth a message at once."""


class Delivery:
    """`serve` is the thread's loop; a simulation calls `send`, `receive`, `keep` and `due_at` by itself."""

    def __init__(
        self,
        producer: str,
        spool: Spool,
        link: Link,
        book: ReceiptBook,
        telemetry: TelemetryReporter,
        connection: Connection,
    ) -> None:
        self.producer = producer
        self._spool = spool
        self._link = link
        self._book = book
        self._telemetry = telemetry
        self._connection = connection
        self._wanted = START
        """Somebody waits for the ack of all up to here."""
        self._flushed = START
        """The daemon was told so."""
        self._denied: str | None = None
        """What the book was told of that."""
        self._is_waiting = False
        """Nothing is looked at any more before the connection ends its wait."""
        self._coalesces_until = -math.inf
        self._is_coalescing = False
        self._closing = False

    # -- from any thread, while the publisher's lock is held and the connection is open ------------------------------

    def notice(self) -> None:
        """There is something to send. While records are coalesced it waits, unless it is much."""
        # The thread says that it waits, and only then looks for work: what was there before this is seen by it.
        if self._is_waiting and (not self._is_coalescing or self._unsent >= COALESCE_RECORDS):
            self._connection.wake()

    def want(self, position: Position) -> None:
        """Somebody waits for the ack of all up to there."""
        if position > self._wanted:
            self._wanted = position
            if self._is_waiting:
                self._connection.wake()

    def close(self) -> None:
        """Have `serve` end."""
        self._closing = True
        self._connection.wake()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def serve(self) -> bool:
        """Send and receive until `close`. Returns whether last words were sent."""
        while not self._closing:
            try:
                self._is_waiting = True
                self._connection.wait(self._due_after_sending(time.monotonic()))
                self._is_waiting = False
                self.receive()
                self.attend(time.monotonic())
            except OSError as error:
                # A disk's trouble passes: the records are in the spool, and are sent when it can be read again.
                self._is_waiting = False
                self._spool.doubt()
                log.error("%s: cannot use the spool: %s", self.producer, error)
                if not self._closing:
                    self._connection.wait(SPOOL_RETRY_SECONDS)
        return self._telemetry.has_news and self._connection.send(self._telemetry.message(time.monotonic()))

    def _due_after_sending(self, now: float) -> float:
        """Send what may be sent now; returns for how many seconds there is nothing to do unless something happens."""
        self._is_coalescing = now < self._coalesces_until and not self._is_awaited and self._unsent < COALESCE_RECORDS
        if self._is_coalescing:
            return self._coalesces_until - now
        before = self._link.sent
        self.keep()
        stuck = self.send(now)
        due = self.due_at(now, stuck=stuck)
        if self._link.sent > before and not self._is_awaited:
            self._coalesces_until = now + COALESCE_SECONDS
            self._is_coalescing = True
            due = min(due, self._coalesces_until)
        return 0.0 if self._connection.is_ready(stuck=stuck) else due - now

    # -- to the daemon -----------------------------------------------------------------------------------------------

    def send(self, now: float) -> bool:
        """All that may be sent; True when the socket takes no more, or is not connected. Raises OSError."""
        link, spool = self._link, self._spool
        while True:
            wanted = self._wanted
            if link.hello_due(now):
                first = spool.first_after(link.acked)
                if not self._connection.send(messages.hello(spool.producer_id, self.producer, spool.epoch, first)):
                    return True
                link.greeted(first, now)
                continue
            if link.ping_due(now):
                if not self._connection.send(self._ping()):
                    return True
                link.pinged(now)
            if self._telemetry.due_at() <= now and not self._connection.send(self._telemetry.message(now)):
                self._telemetry.renew()
                return True
            records_max, bytes_max = link.room(now)
            chunk = spool.read_after(link.sent, records_max, bytes_max) if records_max else None
            if chunk is None:
                break
            if not link.continues(chunk.first):
                if link.hello_due(now):
                    continue
                break
            count = len(chunk.records)
            last = Position(chunk.first.epoch, chunk.first.seq + count - 1)
            # What an earlier session left is resolved epoch by epoch, each behind the ack of the one before.
            is_leftover = chunk.first.epoch < spool.epoch
            flush = chunk.first <= wanted <= last or is_leftover or link.fills(count, chunk.bytes)
            if not self._connection.send(messages.records(chunk.first, chunk.records, chunk.images, flush=flush)):
                return True
            link.transmitted(last, count, chunk.bytes, now)
            if flush:
                self._flushed = wanted
            if last == self._published:
                break
        # Somebody waits for records that were sent without the flag, or for what comes behind them.
        due = min(wanted, link.sent)
        if link.phase is Phase.OPEN and link.acked < due and due != self._flushed:
            if not self._connection.send(self._ping(flush=True)):
                return True
            self._flushed = due
        return False

    def _ping(self, *, flush: bool = False) -> list[bytes]:
        return messages.ping(self._spool.depth(self._link.acked), self._spool.size, flush=flush)

    def due_at(self, now: float, *, stuck: bool) -> float:
        """When to look again if nothing arrives and nothing new is published."""
        # Stuck: the connection says when it goes on; the question that is due cannot be asked before.
        due = now + IDLE if stuck else min(self._link.deadline(now), self._telemetry.due_at())
        due = min(due, self._connection.retry_at, self._spool.look_at)
        since = self._spool.unsynced_since
        return due if since is None else min(due, since + UNSYNCED_SECONDS_MAX)

    @property
    def _published(self) -> Position:
        """The last record's position."""
        epoch, seq = self._spool.next_position
        return Position(epoch, seq - 1)

    @property
    def _unsent(self) -> int:
        """How many records of this session are published and not sent."""
        published, sent = self._published, self._link.sent
        return published.seq - (sent.seq if sent.epoch == published.epoch else 0)

    @property
    def _is_awaited(self) -> bool:
        """Whether somebody waits for an ack."""
        return self._link.acked < self._wanted

    def keep(self) -> None:
        """See that what is published stays: in files that have a name, and after a second without an ack, synced.

        Raises OSError.
        """
        now = time.monotonic()
        if now >= self._spool.look_at:
            try:
                self._spool.look(self._link.acked)
            except SpoolInUse as error:
                if self._book.ended is None:
                    log.error("%s: %s", self.producer, error)
                    fate = "The record is not in a spool any more: it is sent for as long as this process lives"
                    self._book.end(Ended(SpoolInUse, f"{error}.", fate))
            except OSError as error:
                # Sending goes on: the files are open.
                log.error("%s: cannot look after the spool: %s", self.producer, error)
        since = self._spool.unsynced_since
        if since is not None and now - since >= UNSYNCED_SECONDS_MAX:
            self._spool.sync()

    # -- from the daemon ---------------------------------------------------------------------------------------------

    def attend(self, now: float) -> None:
        """Hear how handshakes ended."""
        self._connection.attend(now)
        denied = self._connection.denied
        if denied == self._denied:
            return
        if denied is None:
            log.info("%s: the daemon lets this producer in now", self.producer)
            self._book.admit()
        else:
            if self._denied is None:
                log.error("%s: %s", self.producer, AccessDenied(denied))
            self._link.lost()
            self._book.deny(denied)
        self._denied = denied

    def receive(self) -> None:
        """All answers that are there. Raises OSError of the spool."""
        while (frames := self._connection.receive()) is not None:
            self._take_in(frames)

    def _take_in(self, frames: list[bytes]) -> None:
        link, spool = self._link, self._spool
        try:
            reply = messages.decode_reply(frames)
            link.check(reply, spool.epoch)
        except ProtocolError as error:
            log.error("%s: %s", self.producer, error)
            link.unreadable(time.monotonic())
            return
        if isinstance(reply, (Ack, Welcome)) and spool.is_foreign(reply.last, link.acked):
            reply = Refused("fenced", "a process with a copy of this spool has published since.")
        # Whoever waits sees all that an ack changes at once.
        with self._book.changing():
            link.receive(reply, time.monotonic())
            if isinstance(reply, (Ack, Welcome)):
                try:
                    spool.drop_through(link.acked)
                finally:  # stored it is, whatever the spool's disk says
                    self._book.resolve(reply.last, reply.exceptions)
        if isinstance(reply, Welcome):
            if link.unanswered and link.unanswered % UNANSWERED_MAX == 0:
                first = spool.first_after(link.acked)
                log.error(
                    "%s: the connection ended %d times in a row behind records from %d/%d on, without an answer. They "
                    "stay in the spool, and are sent one by one. Look at the daemon's log, and by tcp at the network",
                    self.producer, link.unanswered, *first,
                )  # fmt: skip
            self._telemetry.renew()
        elif isinstance(reply, Busy):
            log.warning("%s: the daemon cannot write now: %s", self.producer, reply.reason)
            self._book.busy(reply.reason)
        elif link.phase in (Phase.FENCED, Phase.REFUSED) and self._book.ended is None:
            ended = Ended.by_daemon(link.phase, link.refusal or "")
            log.error("%s: %s", self.producer, ended.of_receipt())
            self._book.end(ended)
            if link.phase is Phase.FENCED:
                spool.fence()
