"""Producer sessions: who is connected, what was received of them, what may be acked. No I/O.

A session belongs to a producer and follows it from connection to connection. `taken` is how far its records came into
a batch, `stored` how far they are durable; only the latter is ever acked. `received` is where the next records have to
go on: behind `taken`, or behind what the last hello skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sightlog.protocol import messages
from sightlog.protocol.messages import PRODUCERS_MAX, START, Limits, Position

from .decoder import Decoded, Hello, Malformed, Ping, Records, Telemetry, decode_body, decode_header, decode_record

SESSIONS_MAX: Final = 4_096
"""Connections remembered; beyond it the one unheard for the longest has to say hello again."""
MISSING_MAX: Final = 2**40
"""Of one hello: a producer that claims more is not counting records."""
WHOLE_WINDOWS: Final = 4
"""Producers with the whole window; more have to share as much, so that all windows together stay bounded too."""
WINDOW_BYTES_MIN: Final = 32_768
DEAD_LETTER_BYTES_MAX: Final = 4_096
"""Kept of a refused record or frame."""
STRANGER_SECONDS: Final = 30.0
"""A new producer that cannot be taken asks again so often."""
UNKNOWN: Final = "unknown"
"""Stands for the producer of a message that came before any hello."""

Exceptions = Sequence[tuple[int, str, str]]


@dataclass(slots=True, eq=False)
class Session:
    producer_id: str
    name: str
    route: bytes
    epoch: int
    """Of the session that is connected; an older one is fenced."""
    received: Position
    stored: Position
    taken: Position = START
    missing: int = 0
    """Records that were skipped before those of the batch, to be counted with it."""
    skipped: int = 0
    """Records that the last hello skipped: missing as soon as records come that are behind them."""
    spooled_records: int = 0
    spooled_bytes: int = 0
    gap_reported: bool = False

    @property
    def in_batch(self) -> bool:
        """Whether records of it wait for their commit."""
        return self.taken != self.stored


@dataclass(slots=True)
class Chunk:
    """What is new in one message, for one batch. `images` maps indices of `records` to encoded images."""

    session: Session
    first: Position
    records: list[Decoded]
    packed: list[bytes]
    images: dict[int, bytes] = field(default_factory=dict)
    size: int = 0

    @property
    def last(self) -> Position:
        return Position(self.first.epoch, self.first.seq + len(self.records) - 1)


class Reported(NamedTuple):
    """What a producer reported of itself."""

    producer_id: str
    name: str
    telemetry: Telemetry


class DeadLetter(NamedTuple):
    """A message that could not be taken apart."""

    producer_id: str
    reason: str
    message: bytes


@dataclass(slots=True)
class Answer:
    """What a message leads to: a reply to send now, records or a dead letter for the batch, a commit at once."""

    reply: list[bytes] | None = None
    chunk: Chunk | None = None
    dead_letter: DeadLetter | None = None
    flush: bool = False
    warning: str | None = None
    reported: Reported | None = None
    resent: int = 0
    """Records of the message that were received before."""
    busy: bool = False
    """The reply tells the producer to wait."""


class Sessions:
    """All sessions, by connection and by producer.

    `stored_of` tells the last position the store has of a producer (START for none), `exceptions_of` the
    (seq, status, reason) of its records in a range that were resolved but not stored, `producers` how many the store
    knows.
    """

    def __init__(
        self,
        stored_of: Callable[[str], Position],
        exceptions_of: Callable[[str, Position, Position], Exceptions],
        limits: Limits,
        producers: Callable[[], int],
    ) -> None:
        self._stored_of = stored_of
        self._producers = producers
        self._exceptions_of = exceptions_of
        self._limits = limits
        # By connection, the one unheard for the longest in front. None: fenced.
        self._by_route: dict[bytes, Session | None] = {}
        self._by_producer: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_producer)

    def receive(self, route: bytes, frames: list[bytes]) -> Answer:
        """One message from the connection `route`; never raises for what it says."""
        try:
            if not frames:
                raise Malformed("a message without frames, or of more bytes than any may have")
            header = decode_header(frames[0])
            if isinstance(header, Records):
                return self._records(route, header, frames)
            if len(frames) != 1:
                raise Malformed(f"{len(frames)} frames; expected 1")
            if isinstance(header, Hello):
                return self._hello(route, header)
            return self._ping(route, header) if isinstance(header, Ping) else self._telemetry(route, header)
        except Malformed as error:
            session = self._by_route.get(route)
            producer_id = session.producer_id if session else UNKNOWN
            message = b"".join(frame[:DEAD_LETTER_BYTES_MAX] for frame in frames[:2])
            return Answer(
                reply=messages.refused("malformed", str(error)),
                dead_letter=DeadLetter(producer_id, f"malformed message: {error}", message),
                warning=f"malformed message: {error}",
            )

    def _heard(self, route: bytes) -> Session | None:
        session = self._by_route.pop(route)
        self._by_route[route] = session
        return session

    # -- hello -------------------------------------------------------------------------------------------------------

    def _hello(self, route: bytes, hello: Hello) -> Answer:
        if hello.protocol != messages.PROTOCOL:
            reason = f"the daemon speaks protocol {messages.PROTOCOL}, the producer {hello.protocol}."
            return Answer(reply=messages.refused("protocol", reason), warning=f"{hello.name}: {reason}")
        first = Position(*hello.first)
        if first.epoch > hello.epoch:
            raise Malformed(f"hello: first is of epoch {first.epoch}, later than the producer's own {hello.epoch}")
        session = self._by_producer.get(hello.producer_id)
        if session is None:
            stored = self._stored_of(hello.producer_id)
            if stored == START and self._is_full():
                reason = (
                    f"the store knows {PRODUCERS_MAX:,} producers and takes no new one, such as {hello.name!r}. "
                    "A sensor whose spool_dir does not last is another one at each start: give it one that does. Then "
                    "remove those that never come again"
                )
                return Answer(reply=messages.busy(reason, STRANGER_SECONDS), warning=reason, busy=True)
            epoch = max(hello.epoch, stored.epoch)
            session = Session(hello.producer_id, hello.name, route, epoch, stored, stored, stored)
        if hello.epoch < session.epoch:
            reason = f"a newer process publishes as {hello.name!r} ({hello.producer_id})."
            return Answer(reply=messages.refused("fenced", reason), warning=f"fenced an older process: {reason}")
        self._attach(session, route, hello)
        warning = self._skip_to(session, first)
        session.gap_reported = False
        exceptions: Exceptions = ()
        if session.stored >= first:
            exceptions = self._exceptions_of(session.producer_id, first, session.stored)
        return Answer(reply=messages.welcome(session.stored, exceptions, self._limits_now()), warning=warning)

    def _is_full(self) -> bool:
        known = self._producers()
        if known + len(self._by_producer) < PRODUCERS_MAX:
            return False
        return known + sum(session.stored == START for session in self._by_producer.values()) >= PRODUCERS_MAX

    def _limits_now(self) -> Limits:
        whole = self._limits.window_bytes
        share = WHOLE_WINDOWS * whole // max(WHOLE_WINDOWS, len(self._by_producer))
        return self._limits._replace(window_bytes=min(whole, max(share, WINDOW_BYTES_MIN)))

    def _attach(self, session: Session, route: bytes, hello: Hello) -> None:
        if session.route != route:
            was_connected = self._by_route.pop(session.route, None) is session
            if was_connected and hello.epoch > session.epoch:
                self._by_route[session.route] = None
        if self._by_route.get(route) is not session:
            self.forget(route)  # one connection, another producer
        session.route, session.name, session.epoch = route, hello.name, hello.epoch
        self._by_producer[session.producer_id] = session
        self._by_route.pop(route, None)
        self._by_route[route] = session
        if len(self._by_route) > SESSIONS_MAX:
            self.forget(next(iter(self._by_route)))

    @staticmethod
    def _skip_to(session: Session, first: Position) -> str | None:
        """Let records flow from `first` on, whatever is missing before it; returns what to log about that."""
        taken, before = session.taken, Position(first.epoch, first.seq - 1)
        is_reported = session.received == before
        # Not where an earlier hello led to: a later session may find more in the spool than the one before announced.
        session.received, session.skipped = max(taken, before), 0
        if before <= taken:
            return None
        missing = before.seq - (taken.seq if taken.epoch == first.epoch else 0)
        if missing == 0 or taken == START:
            return None  # a new session; or a store that has never heard of this producer
        session.skipped = missing
        if is_reported:
            return None
        return (
            f"{session.name}: {missing} records before {first.epoch}/{first.seq} are neither in this database nor in "
            "the producer's spool. Was an older database restored, or was the spool damaged?"
        )

    # -- records -----------------------------------------------------------------------------------------------------

    def _records(self, route: bytes, header: Records, frames: list[bytes]) -> Answer:
        if route not in self._by_route:
            return Answer(reply=messages.resync(None))
        session = self._heard(route)
        if session is None:
            return Answer(reply=messages.refused("fenced", "a newer process publishes under this producer id."))
        if len(frames) != 2 + len(header.images):
            raise Malformed(f"{len(frames)} frames; expected 2 and {len(header.images)} images")
        packed = decode_body(frames[1])
        if any(index >= len(packed) for index in header.images) or len(set(header.images)) != len(header.images):
            raise Malformed(f"images {header.images}: expected different indices below {len(packed)}")
        first = Position(*header.first)
        received = session.received
        if first.epoch != received.epoch or first.seq > received.seq + 1:
            return self._gap(session)
        session.gap_reported = False
        known = received.seq + 1 - first.seq
        if known >= len(packed):
            return self._all_known(session, first, len(packed), header.flush)
        images = dict(zip(header.images, frames[2:], strict=True))
        if known:
            packed = packed[known:]
            images = {index - known: image for index, image in images.items() if index >= known}
        chunk = Chunk(
            session=session,
            first=Position(first.epoch, first.seq + known),
            records=[decode_record(record) for record in packed],
            packed=packed,
            images=images,
            size=sum(map(len, frames)),
        )
        session.received = session.taken = chunk.last
        session.missing, session.skipped = min(session.missing + session.skipped, MISSING_MAX), 0
        return Answer(chunk=chunk, flush=header.flush, resent=known)

    def _gap(self, session: Session) -> Answer:
        # Told once: what the producer sent before it read this is a gap too.
        if session.gap_reported:
            return Answer()
        session.gap_reported = True
        return Answer(reply=messages.resync(session.received))

    def _all_known(self, session: Session, first: Position, count: int, flush: bool) -> Answer:
        if session.in_batch:
            return Answer(flush=flush, resent=count)  # the ack comes with the commit
        exceptions = self._exceptions_of(session.producer_id, first, session.stored)
        return Answer(reply=messages.ack(session.stored, exceptions), resent=count)

    def _ping(self, route: bytes, ping: Ping) -> Answer:
        if route not in self._by_route:
            return Answer(reply=messages.resync(None))
        session = self._heard(route)
        if session is None:
            return Answer(reply=messages.refused("fenced", "a newer process publishes under this producer id."))
        session.spooled_records, session.spooled_bytes = ping.spooled_records, ping.spooled_bytes
        return Answer(reply=messages.pong(), flush=ping.flush)

    def _telemetry(self, route: bytes, telemetry: Telemetry) -> Answer:
        if route not in self._by_route:
            return Answer(reply=messages.resync(None))
        session = self._heard(route)
        if session is None:
            return Answer(reply=messages.refused("fenced", "a newer process publishes under this producer id."))
        epoch = telemetry.last[0]
        if epoch != session.epoch:
            raise Malformed(f"telemetry: last is of epoch {epoch}; the hello said {session.epoch}")
        session.spooled_records, session.spooled_bytes = telemetry.spooled_records, telemetry.spooled_bytes
        return Answer(reported=Reported(session.producer_id, session.name, telemetry))

    # -- what became of them -----------------------------------------------------------------------------------------

    def resolve(self, session: Session, last: Position) -> None:
        """All records up to `last` are durable."""
        session.stored, session.missing = last, 0
        if self._by_route.get(session.route) is not session:
            self._by_producer.pop(session.producer_id, None)

    def rewind(self, session: Session) -> None:
        """A commit was refused: the producer has to say hello and send again what is not stored.

        The refused commit may have taken effect all the same. Only a welcome tells what became of records that the
        producer has no ack of.
        """
        session.taken = session.stored
        self.forget(session.route)
        self._by_producer.pop(session.producer_id, None)

    def forget(self, route: bytes) -> None:
        """The connection is gone, or too quiet for too long. Its producer is greeted anew when it comes back."""
        session = self._by_route.pop(route, None)
        # With records in the batch the session has to stay: a hello that comes before the commit must find them.
        if session is not None and not session.in_batch:
            self._by_producer.pop(session.producer_id, None)
