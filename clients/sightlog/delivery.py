"""What goes from a spool to the daemon, and what its answers do here. It waits for nothing, and knows no threads.

Whoever calls has the turn (`driver`). An exception may leave any of it half done: `mend` makes good for that.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from . import wire
from .errors import AccessDenied, ProtocolError
from .link import IDLE, Link, Phase
from .receipts import ReceiptBook, failure_of
from .spool import Spool
from .telemetry import Teller
from .wire import START, Ack, Busy, Position, Refused, Welcome

if TYPE_CHECKING:
    from .connection import Connection

log = logging.getLogger("sightlog.publisher")

UNSYNCED_SECONDS_MAX: Final = 1.0
"""Records that got no ack for this long are made to survive a power cut in the spool."""


def is_of_disk(error: BaseException | None) -> bool:
    """Of the spool's disk, and not what a signal's handler raised: TimeoutError is an OSError, too."""
    return isinstance(error, OSError) and error.errno is not None


class Delivery:
    """Call `send`, wait until `connection` has something or `due_at`, call `receive`, and so on."""

    def __init__(
        self, producer: str, spool: Spool, link: Link, book: ReceiptBook, teller: Teller, connection: Connection
    ) -> None:
        self.producer = producer
        self._spool = spool
        self._link = link
        self._book = book
        self._teller = teller
        self._connection = connection
        self.wanted = START
        """Somebody waits for the ack of all up to here."""
        self._flushed = START
        """The daemon was told so."""
        self._denied: str | None = None
        """What the book was told of that."""
        self._in_hand: list[bytes] | None = None
        """An answer that was received and is not taken in."""

    # -- to the daemon -----------------------------------------------------------------------------------------------

    def send(self, now: float) -> bool:
        """All that may be sent; True when the socket takes no more, or is not connected. Raises OSError."""
        link, spool = self._link, self._spool
        while True:
            wanted = self.wanted
            if link.hello_due(now):
                first = spool.first_after(link.acked)
                if not self._connection.send(wire.hello(spool.producer_id, self.producer, spool.epoch, first)):
                    return True
                link.greeted(first, now)
                continue
            if link.ping_due(now):
                if not self._connection.send(self._ping()):
                    return True
                link.pinged(now)
            if self._teller.due_at() <= now and not self._connection.send(self._teller.message(now)):
                self._teller.renew()
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
            # What an earlier life left is settled epoch by epoch, each behind the ack of the one before.
            is_leftover = chunk.first.epoch < spool.epoch
            flush = chunk.first <= wanted <= last or is_leftover or link.fills(count, chunk.bytes)
            if not self._connection.send(wire.records(chunk.first, chunk.records, chunk.images, flush=flush)):
                return True
            link.transmitted(last, count, chunk.bytes, now)
            if flush:
                self._flushed = wanted
            if not self.has_unsent:
                break
        # Somebody waits for records that were sent without the flag, or for what comes behind them.
        due = min(wanted, link.sent)
        if link.phase is Phase.OPEN and link.acked < due and due != self._flushed:
            if not self._connection.send(self._ping(flush=True)):
                return True
            self._flushed = due
        return False

    def _ping(self, *, flush: bool = False) -> list[bytes]:
        return wire.ping(self._spool.depth(), self._spool.size, flush=flush)

    def due_at(self, now: float, *, stuck: bool) -> float:
        """When to look again if nothing arrives and nothing new is published."""
        # Stuck: the connection says when it goes on; the question that is due cannot be asked before.
        due = now + IDLE if stuck else min(self._link.deadline(now), self._teller.due_at())
        due = min(due, self._connection.retry_at)
        since = self._spool.unsynced_since
        return due if since is None else min(due, since + UNSYNCED_SECONDS_MAX)

    @property
    def published(self) -> Position:
        """The last record's position."""
        epoch, seq = self._spool.next_position
        return Position(epoch, seq - 1)

    @property
    def has_unsent(self) -> bool:
        return self._link.sent != self.published

    @property
    def unsent(self) -> int:
        """How many records of this life are published and not sent."""
        return self.published.seq - (self.sent.seq if self.sent.epoch == self._spool.epoch else 0)

    @property
    def sent(self) -> Position:
        return self._link.sent

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for an ack."""
        return self._link.acked < self.wanted

    def sync_if_unacked_for_long(self) -> None:
        """Raises OSError."""
        since = self._spool.unsynced_since
        if since is not None and time.monotonic() - since >= UNSYNCED_SECONDS_MAX:
            self._spool.sync()

    def say_goodbye(self) -> bool:
        """Tell what is not told yet; False when there was nothing, or nobody to tell it to."""
        return self._teller.has_news and self._connection.send(self._teller.message(time.monotonic()))

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
        while True:
            # One that an exception came across is taken in once more: each step of that may be done twice.
            if self._in_hand is None and (frames := self._connection.receive()) is not None:
                self._in_hand = frames
            if self._in_hand is None:
                return
            try:
                self._take_in(self._in_hand)
            except OSError as error:
                if is_of_disk(error):
                    self._in_hand = None  # settled it is; the next ack drops what this one could not
                raise
            self._in_hand = None

    def _take_in(self, frames: list[bytes]) -> None:
        try:
            reply = wire.decode_reply(frames)
            self._link.check(reply, self._spool.epoch)
        except ProtocolError as error:
            log.error("%s: %s", self.producer, error)
            self._link.unreadable(time.monotonic())
            return
        if isinstance(reply, (Ack, Welcome)) and self._spool.is_foreign(reply.last):
            reply = Refused("fenced", "a process with a copy of this spool has published since.")
        self._link.receive(reply, time.monotonic())
        if isinstance(reply, (Ack, Welcome)):
            # In this order: settling wakes those who wait for the spool to be empty.
            try:
                self._spool.drop_through(reply.last)
            finally:  # stored it is, whatever the spool's disk says
                self._book.settle(reply.last, reply.exceptions)
            if isinstance(reply, Welcome):
                self._teller.renew()
        elif isinstance(reply, Busy):
            log.warning("%s: the daemon cannot write now: %s", self.producer, reply.reason)
            self._book.busy(reply.reason)
        elif self._link.phase in (Phase.FENCED, Phase.REFUSED):
            failure = failure_of(self._link.phase, self._link.refusal or "")
            log.error("%s: %s", self.producer, failure)
            self._book.fail(failure)
            if self._link.phase is Phase.FENCED:
                self._spool.fence()

    def mend(self) -> None:
        """A turn ended in the middle: half a message may be sent, or not noted. A new connection and its welcome tell.

        Raises OSError of the spool.
        """
        if self._in_hand is not None:
            self._take_in(self._in_hand)
            self._in_hand = None
        self._connection.renew()
        self._link.interrupted(self.published)
