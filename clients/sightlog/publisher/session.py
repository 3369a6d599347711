"""The producer's side of the protocol: what may be sent now, and what an answer means. No I/O, no clock.

Times are seconds of one monotonic clock that the caller passes in.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final, NamedTuple

from sightlog.errors import ProtocolError
from sightlog.protocol.limits import MESSAGE_BYTES_MAX, MESSAGE_RECORDS_MAX
from sightlog.protocol.messages import START, Ack, Busy, Limits, Position, Refused, Reply, Resync, Welcome

SILENCE_MIN: Final = 0.25
"""How long an answer may be outstanding before the producer asks again; doubled each time up to SILENCE_MAX."""
SILENCE_MAX: Final = 5.0
IDLE: Final = 15.0
"""How often an idle producer shows that it is alive."""
MALFORMED_PAUSE: Final = 5.0
BUSY_PAUSE_MAX: Final = 60.0
"""However much longer the daemon says: twice what it ever does."""

UNANSWERED_MAX: Final = 5
"""Connections in a row that ended behind what was sent, without an answer. Then records are sent one by one: something
on the way may take no larger messages."""

_BEFORE_WELCOME: Final = Limits(window_records=1, window_bytes=MESSAGE_BYTES_MAX)


class Phase(Enum):
    """GREETING: hello is due or sent. OPEN: records may flow. FENCED, REFUSED: over for this session."""

    GREETING = "greeting"
    OPEN = "open"
    FENCED = "fenced"
    REFUSED = "refused"


class _InFlight(NamedTuple):
    last: Position
    records: int
    bytes: int


class Link:
    """One producer's connection, across reconnects.

    The caller asks `hello_due`, `room` and `ping_due`, sends, tells what it sent, and passes on each answer with
    `receive`. `acked` only grows; `sent` goes back when the daemon asks for records again.
    """

    def __init__(self) -> None:
        self.phase = Phase.GREETING
        self.acked = START
        self.sent = START
        self.refusal: str | None = None
        self.limits = _BEFORE_WELCOME
        self._first = START
        self._reached = START
        """The last of all that was ever sent."""
        self.unanswered = 0
        """How often in a row the daemon had to be greeted anew, and had none of what was sent since the time before."""
        self._tried: Position | None = None
        """The last record of the first message since the last welcome."""
        self._in_flight: deque[_InFlight] = deque()
        self._records = 0
        self._bytes = 0
        self._blocked_until = 0.0
        self._asked_at: float | None = None
        self._silence = SILENCE_MIN
        self._heard_at = 0.0

    # -- what may be sent --------------------------------------------------------------------------------------------

    def hello_due(self, now: float) -> bool:
        return self.phase is Phase.GREETING and now >= self._next_question()

    def ping_due(self, now: float) -> bool:
        return self.phase is Phase.OPEN and now >= self._next_question()

    def _next_question(self) -> float:
        if self._asked_at is not None:
            return max(self._asked_at + self._silence, self._blocked_until)
        if self.phase is Phase.GREETING:
            return self._blocked_until
        return self._heard_at + IDLE

    def room(self, now: float) -> tuple[int, int]:
        """(records, bytes) of the next message at most; (0, 0) for not now."""
        if self.phase is not Phase.OPEN or now < self._blocked_until:
            return 0, 0
        records = min(self.limits.message_records_max, self.limits.window_records - self._records)
        if self.unanswered >= UNANSWERED_MAX:
            records = min(records, 1)
        size = min(self.limits.message_bytes_max, self.limits.window_bytes - self._bytes)
        return (records, size) if records > 0 and size > 0 else (0, 0)

    def continues(self, first: Position) -> bool:
        """Whether a message that begins at `first` may follow what was sent.

        Behind a gap (a new epoch, or records that cannot be read back) the daemon has to be greeted anew, once all
        before the gap is acked: False then, and `hello_due` becomes true in time.
        """
        if first == (self.sent.epoch, self.sent.seq + 1):
            return True
        if not self._in_flight:
            self._greet()
        return False

    def fills(self, records: int, size: int) -> bool:
        """Whether nothing more could be sent behind a message of this size before an ack comes."""
        return self._records + records >= self.limits.window_records or self._bytes + size >= self.limits.window_bytes

    def deadline(self, now: float) -> float:
        """When to look again if nothing arrives and nothing new is to be sent."""
        if self.phase in (Phase.FENCED, Phase.REFUSED):
            return now + IDLE
        due = self._next_question()
        return min(due, self._blocked_until) if now < self._blocked_until else due

    # -- what was sent -----------------------------------------------------------------------------------------------

    def greeted(self, first: Position, now: float) -> None:
        self._first = first
        self._asked(now)

    def pinged(self, now: float) -> None:
        self._asked(now)

    def transmitted(self, last: Position, records: int, size: int, now: float) -> None:
        self.sent = last
        self._reached = max(self._reached, last)
        if self._tried is None:
            self._tried = last
        self._in_flight.append(_InFlight(last, records, size))
        self._records += records
        self._bytes += size
        if self._asked_at is None:
            self._asked_at, self._silence = now, SILENCE_MIN

    def _asked(self, now: float) -> None:
        self._silence = SILENCE_MIN if self._asked_at is None else min(self._silence * 2, SILENCE_MAX)
        self._asked_at = now

    # -- what arrived ------------------------------------------------------------------------------------------------

    def check(self, reply: Reply, epoch: int) -> None:
        """Raises ProtocolError for an answer that resolves what was never sent. `epoch` is this life's: of the sessions
        before it the daemon may have more than this one sent, and tells in a welcome, or in an ack right behind it."""
        if not isinstance(reply, (Ack, Welcome)) or reply.last <= max(self._reached, self.acked):
            return
        if reply.last.epoch >= epoch:
            sent = max(self._reached, self.acked)
            raise ProtocolError(
                f"the daemon resolves records up to {reply.last.epoch}/{reply.last.seq}, and what was sent ends at "
                f"{sent.epoch}/{sent.seq}. It is not believed: nothing was dropped, and the daemon is asked again"
            )

    def unreadable(self, now: float) -> None:
        """An answer could not be understood: it may have been an ack, and only a welcome tells."""
        if self.phase in (Phase.GREETING, Phase.OPEN):
            self._greet()
            self._blocked_until = now + MALFORMED_PAUSE

    def receive(self, reply: Reply, now: float) -> None:
        """Take an answer in. Look at `acked`, `phase`, `busy_reason` and `refusal` for what it changed."""
        self._heard_at = now
        self._asked_at = None
        if isinstance(reply, (Ack, Welcome)):
            self._resolve(reply.last)
        if isinstance(reply, Ack):
            self._tried, self.unanswered = None, 0
        elif self.phase in (Phase.FENCED, Phase.REFUSED):
            pass
        elif isinstance(reply, Welcome):
            if self.phase is Phase.GREETING:
                if self._tried is not None:
                    self.unanswered = self.unanswered + 1 if reply.last < self._tried else 0
                    self._tried = None
                self.phase = Phase.OPEN
                limits = reply.limits
                self.limits = limits._replace(
                    message_records_max=min(limits.message_records_max, MESSAGE_RECORDS_MAX),
                    message_bytes_max=min(limits.message_bytes_max, MESSAGE_BYTES_MAX),
                )
                # Before what was announced there is nothing to send, whatever the daemon has of it.
                before = Position(self._first.epoch, self._first.seq - 1)
                self._rewind(max(reply.last, before))
        elif isinstance(reply, Busy):
            # What was refused may have taken effect all the same: the welcome tells.
            self._greet()
            self._tried, self.unanswered = None, 0
            self._blocked_until = now + min(reply.retry_after, BUSY_PAUSE_MAX)
        elif isinstance(reply, Resync):
            if reply.last is None or not self.acked <= reply.last <= self.sent or reply.last.epoch != self.sent.epoch:
                self._greet()
            else:
                self._rewind(reply.last)
        elif isinstance(reply, Refused):
            self._refused(reply, now)
        if self._in_flight and self._asked_at is None:
            self._asked_at, self._silence = now, SILENCE_MIN

    def lost(self) -> None:
        """The daemon let this producer in no more: when it does, it has to be greeted."""
        if self.phase is Phase.OPEN:
            self._greet()

    def _resolve(self, last: Position) -> None:
        self._blocked_until = 0.0
        self.acked = max(self.acked, last)
        while self._in_flight and self._in_flight[0].last <= last:
            done = self._in_flight.popleft()
            self._records -= done.records
            self._bytes -= done.bytes

    def _rewind(self, last: Position) -> None:
        self.sent = last
        while self._in_flight and self._in_flight[-1].last > last:
            lost = self._in_flight.pop()
            self._records -= lost.records
            self._bytes -= lost.bytes

    def _greet(self) -> None:
        self.phase = Phase.GREETING
        self._asked_at = None
        self._rewind(self.acked)

    def _refused(self, reply: Refused, now: float) -> None:
        self.refusal = reply.reason
        if reply.code == "fenced":
            self.phase = Phase.FENCED
        elif reply.code == "protocol":
            self.phase = Phase.REFUSED
        else:
            self._greet()
            self._blocked_until = now + MALFORMED_PAUSE
