"""Receipts: what a program holds while its records are on their way."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sightlog.errors import (
    NOT_TAKEN,
    AccessDenied,
    AckTimeout,
    DatabaseWriteError,
    ProducerFenced,
    ProtocolError,
    PublisherClosed,
    SightlogError,
)
from sightlog.protocol.messages import DUPLICATE, REJECTED, STORED, Position

from .session import Phase

_NEXT_SESSION: Final = "The record is in the spool, and is sent when this producer starts again"


class Ended(NamedTuple):
    """Why no ack comes any more in this session. Whoever hears of it gets an error of his own, made anew: what is
    raised again and again collects tracebacks, and whoever publishes has to hear something else than whoever waits."""

    error: type[SightlogError]
    why: str
    fate: str = _NEXT_SESSION
    """What becomes of a record that was taken."""

    def of_call(self) -> SightlogError:
        """For a call that publishes."""
        return self.error(f"{self.why} {NOT_TAKEN}")

    def of_receipt(self) -> SightlogError:
        """For whoever waits for an ack."""
        return self.error(f"{self.why} {self.fate}")

    @classmethod
    def by_daemon(cls, phase: Phase, reason: str) -> Ended:
        if phase is Phase.FENCED:
            why = f"{reason} Two copies of one spool are in use: give each process a spool directory of its own."
            fate = "The record is in the spool, and is sent under a new producer id when this producer starts again"
            return cls(ProducerFenced, why, fate)
        return cls(ProtocolError, f"{reason} Install matching versions of sightlog on both sides.")


CLOSED: Final = Ended(PublisherClosed, "This Publisher is closed; make a new one.")
FORKED: Final = Ended(
    PublisherClosed,
    "This Publisher was made before a fork and belongs to the parent. Make one in the child, of another name.",
    "What the parent published is in its spool, and it is the parent that sends it",
)


@dataclass(frozen=True, slots=True)
class InsertResult:
    """What became of several records. `reasons` maps the index of each one not stored to why."""

    stored: int
    duplicates: int
    rejected: int
    reasons: dict[int, str]


class _Pending:
    """Consecutive records waiting for their ack."""

    __slots__ = ("__weakref__", "_book", "_callbacks", "_exceptions", "_resolved", "first", "last")

    def __init__(self, book: ReceiptBook, first: Position, last: Position) -> None:
        self._book = book
        self.first = first
        self.last = last
        self._resolved = False
        self._exceptions: dict[int, tuple[str, str]] | None = None
        """(status, reason) by seq, of those not simply stored."""
        self._callbacks: list[Callable[[], None]] | None = None

    @property
    def settled(self) -> bool:
        return self._resolved

    def _wait_resolved(self, timeout: float | None, *, busy_raises: bool = False) -> None:
        self._book.wait(self, timeout, busy_raises=busy_raises)

    def _except(self, seq: int, status: str, reason: str) -> None:
        if self._exceptions is None:
            self._exceptions = {}
        self._exceptions[seq] = status, reason

    def _call_back(self) -> None:
        for callback in self._callbacks or ():
            callback()
        self._callbacks = None

    def _await_resolved(self) -> Generator[object, None, None]:
        # Woken is not resolved: it may be denied, and let in again before the loop comes to this.
        while not self._resolved:
            yield from self._await_news()
            self._book.check(self)

    def _await_news(self) -> Generator[object, None, None]:
        import asyncio  # 20 ms that a sensor which never awaits does not pay

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        def from_thread() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done)

        self._book.notify(self, from_thread)
        yield from future


class Receipt(_Pending):
    """For one record. `wait` blocks; `await receipt` does not.

    `status` is None until the ack came, then "stored", "duplicate" or "rejected"; `reason` says why for the latter two.
    """

    __slots__ = ()

    @property
    def status(self) -> str | None:
        return self._status() if self._resolved else None

    def _status(self) -> str:
        return self._exceptions[self.last.seq][0] if self._exceptions else STORED

    @property
    def reason(self) -> str | None:
        return self._exceptions[self.last.seq][1] if self._exceptions else None

    def wait(self, timeout: float | None = None) -> str:
        """Block until the daemon resolved the record, `timeout` seconds at most; returns the status.

        Raises AckTimeout; the record stays in the spool and goes on being sent.
        """
        self._wait_resolved(timeout)
        return self._status()

    def __await__(self) -> Generator[object, None, str]:
        yield from self._await_resolved()
        return self._status()


class BatchReceipt(_Pending):
    """For the records of one `publish_many`. `wait` and `await` give an `InsertResult`."""

    __slots__ = ()

    @property
    def result(self) -> InsertResult | None:
        return self._result() if self._resolved else None

    def _result(self) -> InsertResult:
        exceptions = self._exceptions or {}
        statuses = [status for status, _ in exceptions.values()]
        return InsertResult(
            stored=self.last.seq - self.first.seq + 1 - len(statuses),
            duplicates=statuses.count(DUPLICATE),
            rejected=statuses.count(REJECTED),
            reasons={seq - self.first.seq: reason for seq, (_, reason) in exceptions.items()},
        )

    def wait(self, timeout: float | None = None) -> InsertResult:
        """Block until all of them are resolved, `timeout` seconds at most. Raises AckTimeout."""
        self._wait_resolved(timeout)
        return self._result()

    def __await__(self) -> Generator[object, None, InsertResult]:
        yield from self._await_resolved()
        return self._result()


class ReceiptBook:
    """The receipts somebody still holds, in order. Forgotten ones cost nothing: only weak references are kept.

    `ask` has the publisher's thread get the ack of all up to a position.
    """

    def __init__(self, ask: Callable[[Position], None]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Ordered by position. An OrderedDict, because emptying a plain dict from its front takes quadratic time.
        self._open: OrderedDict[Position, weakref.ref[_Pending]] = OrderedDict()
        self._spans: list[weakref.ref[BatchReceipt]] = []
        self.busy_reason: str | None = None
        self.ended: Ended | None = None
        self._denial: str | None = None

    def single(self, position: Position) -> Receipt:
        """Make the receipt *before* the record can be sent: its ack may be faster than the publishing thread."""
        receipt = Receipt(self, position, position)
        self._remember(receipt)
        return receipt

    def batch(self, first: Position, last: Position) -> BatchReceipt:
        receipt = BatchReceipt(self, first, last)
        self._remember(receipt)
        with self._lock:
            self._spans.append(weakref.ref(receipt))
        return receipt

    def forget(self, receipt: _Pending) -> None:
        """Its records were not spooled after all."""
        with self._lock:
            self._open.pop(receipt.last, None)
            self._spans = [span for span in self._spans if span() is not receipt]

    def _remember(self, receipt: _Pending) -> None:
        last = receipt.last
        # pop() from a destructor, which may run in any thread, is one atomic step
        self._open[last] = weakref.ref(receipt, lambda _: self._open.pop(last, None))

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """What changes within, whoever waits sees at once, and is woken."""
        with self._lock:
            yield
            self._changed.notify_all()

    def resolve(self, acked: Position, exceptions: Sequence[tuple[int, str, str]]) -> None:
        """Within `changing`: all up to `acked` is resolved; `exceptions` are of its epoch. Twice is as good as once."""
        self.busy_reason = None
        for seq, status, reason in exceptions:
            receipt = self._holder(Position(acked.epoch, seq))
            if receipt is not None:
                receipt._except(seq, status, reason)
        while (last := self._oldest()) is not None and last <= acked:
            reference = self._open.pop(last, None)
            done = reference() if reference is not None else None
            if done is not None:
                done._resolved = True
                done._call_back()
        self._spans = [span for span in self._spans if (held := span()) is not None and not held._resolved]

    def _oldest(self) -> Position | None:
        while True:
            try:
                return next(iter(self._open), None)
            except RuntimeError:  # a receipt died in another thread between iter() and next()
                continue

    def _holder(self, position: Position) -> _Pending | None:
        reference = self._open.get(position)
        single = reference() if reference is not None else None
        if single is not None and single.first == position:
            return single
        held = (span() for span in self._spans)
        return next((batch for batch in held if batch is not None and batch.first <= position <= batch.last), None)

    def busy(self, reason: str) -> None:
        with self.changing():
            self.busy_reason = reason

    def end(self, ended: Ended) -> None:
        """No more acks will come in this session: wake everybody who waits."""
        with self.changing():
            self.ended = ended
            self._call_back_all()

    def deny(self, reason: str) -> None:
        """No acks will come until somebody lets this producer in: wake everybody who waits."""
        with self.changing():
            self._denial = reason
            self._call_back_all()

    def admit(self) -> None:
        """They come again."""
        with self._lock:
            self._denial = None

    def _call_back_all(self) -> None:
        for reference in list(self._open.values()):
            receipt = reference()
            if receipt is not None:
                receipt._call_back()

    def _hopeless(self) -> SightlogError | None:
        if self.ended is not None:
            return self.ended.of_receipt()
        return AccessDenied(self._denial) if self._denial is not None else None

    def check(self, receipt: _Pending) -> None:
        """Raises what keeps its ack from coming."""
        if not receipt._resolved and (hopeless := self._hopeless()) is not None:
            raise hopeless

    def notify(self, receipt: _Pending, callback: Callable[[], None]) -> None:
        """Call back, from another thread perhaps, when `receipt` is resolved, or will not be for now or ever."""
        self._ask(receipt.last)
        with self._lock:
            if receipt._resolved or self._hopeless() is not None:
                callback()
                return
            receipt._callbacks = [*(receipt._callbacks or ()), callback]

    def wait(self, receipt: _Pending, timeout: float | None, *, busy_raises: bool) -> None:
        def is_resolved() -> bool:
            # Asked with the lock held: behind it an ack of other records may have taken the reason away.
            if busy_raises and not receipt._resolved and self.busy_reason is not None:
                raise DatabaseWriteError(self.busy_reason)
            return receipt._resolved

        if not receipt._resolved and not self.wait_until(is_resolved, receipt.last, timeout):
            said = f"; the daemon says: {self.busy_reason}." if self.busy_reason else "; is sightlogd running?"
            raise AckTimeout(f"no ack within {timeout:.3g} s{said} The record is in the spool and goes on being sent")

    def wait_until(self, done: Callable[[], bool], position: Position, timeout: float | None) -> bool:
        """Block until `done()`, checked whenever an answer came, by the ack of all up to `position`.

        Raises what keeps acks from coming.
        """

        def is_over() -> bool:
            if done():
                return True
            if (hopeless := self._hopeless()) is not None:
                raise hopeless
            return False

        self._ask(position)
        with self._lock:
            return self._changed.wait_for(is_over, timeout)
