"""Receipts: what a program holds while its records are on their way."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from .errors import AccessDenied, AckTimeout, DatabaseWriteError, ProducerFenced, ProtocolError, SightlogError
from .link import Phase
from .wire import DUPLICATE, REJECTED, START, STORED, Position

Drive = Callable[[Position, Callable[[], bool], float | None], None]
"""(position, whether it is done, deadline or None)"""


@dataclass(frozen=True, slots=True)
class InsertResult:
    """What became of several records. `reasons` maps the index of each one not stored to why."""

    stored: int
    duplicates: int
    rejected: int
    reasons: dict[int, str]


class _Pending:
    """Consecutive records waiting for their ack."""

    __slots__ = ("__weakref__", "_book", "_callbacks", "_exceptions", "_settled", "first", "last")

    def __init__(self, book: ReceiptBook, first: Position, last: Position) -> None:
        self._book = book
        self.first = first
        self.last = last
        self._settled = False
        self._exceptions: dict[int, tuple[str, str]] | None = None
        """(status, reason) by seq, of those not simply stored."""
        self._callbacks: list[Callable[[], None]] | None = None

    @property
    def settled(self) -> bool:
        return self._settled

    def _wait_settled(self, timeout: float | None, *, busy_raises: bool = False) -> None:
        self._book.wait(self, timeout, busy_raises=busy_raises)

    def _except(self, seq: int, status: str, reason: str) -> None:
        if self._exceptions is None:
            self._exceptions = {}
        self._exceptions[seq] = status, reason

    def _call_back(self) -> None:
        for callback in self._callbacks or ():
            callback()
        self._callbacks = None  # not sooner: where a signal raises, all are called once more

    def _await_settled(self) -> Generator[object, None, None]:
        # Woken is not settled: it may be denied, and let in again before the loop comes to this.
        while not self._settled:
            yield from self._await_news()
            self._book.check_failure(self)

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
        return self._status() if self._settled else None

    def _status(self) -> str:
        return self._exceptions[self.last.seq][0] if self._exceptions else STORED

    @property
    def reason(self) -> str | None:
        return self._exceptions[self.last.seq][1] if self._exceptions else None

    def wait(self, timeout: float | None = None) -> str:
        """Block until the daemon settled the record, `timeout` seconds at most; returns the status.

        Raises AckTimeout; the record stays in the spool and goes on being sent.
        """
        self._wait_settled(timeout)
        return self._status()

    def __await__(self) -> Generator[object, None, str]:
        yield from self._await_settled()
        return self._status()


class BatchReceipt(_Pending):
    """For the records of one `publish_many`. `wait` and `await` give an `InsertResult`."""

    __slots__ = ()

    @property
    def result(self) -> InsertResult | None:
        return self._result() if self._settled else None

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
        """Block until all of them are settled, `timeout` seconds at most. Raises AckTimeout."""
        self._wait_settled(timeout)
        return self._result()

    def __await__(self) -> Generator[object, None, InsertResult]:
        yield from self._await_settled()
        return self._result()


class ReceiptBook:
    """The receipts somebody still holds, in order. Forgotten ones cost nothing: only weak references are kept.

    `ask` has somebody get the ack of all up to a position. `drive` gets it, as far as the caller can: it returns when
    that is done, when it is too late, or when others do it already.
    """

    def __init__(self, ask: Callable[[Position], None], drive: Drive) -> None:
        self._ask = ask
        self._drive = drive
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Ordered by position. An OrderedDict, because emptying a plain dict from its front takes quadratic time.
        self._open: OrderedDict[Position, weakref.ref[_Pending]] = OrderedDict()
        self._spans: list[weakref.ref[BatchReceipt]] = []
        self.acked = START
        """All receipts up to here are settled."""
        self.waiting: set[object] = set()
        """Callers that wait for what others hear."""
        self.busy_reason: str | None = None
        self.failure: SightlogError | None = None
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

    def settle(self, acked: Position, exceptions: Sequence[tuple[int, str, str]]) -> None:
        """All up to `acked` is settled; `exceptions` are of its epoch. Twice is as good as once."""
        with self._lock:
            self.busy_reason = None
            for seq, status, reason in exceptions:
                position = Position(acked.epoch, seq)
                # A welcome may repeat what an ack told that overtook it.
                receipt = self._holder(position) if position > self.acked else None
                if receipt is not None:
                    receipt._except(seq, status, reason)
            while (last := self._oldest()) is not None and last <= acked:
                reference = self._open.get(last)
                done = reference() if reference is not None else None
                if done is not None:
                    done._settled = True
                    done._call_back()
                self._open.pop(last, None)
            self._spans = [span for span in self._spans if (held := span()) is not None and not held._settled]
            self.acked = max(self.acked, acked)
            self._changed.notify_all()

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
        with self._lock:
            self.busy_reason = reason
            self._changed.notify_all()

    def fail(self, failure: SightlogError) -> None:
        """No more acks will come in this life: wake everybody who waits."""
        with self._lock:
            self.failure = failure
            self._wake_all()

    def deny(self, reason: str) -> None:
        """No acks will come until somebody lets this producer in: wake everybody who waits."""
        with self._lock:
            self._denial = reason
            self._wake_all()

    def admit(self) -> None:
        """They come again."""
        with self._lock:
            self._denial = None

    def _wake_all(self) -> None:
        for reference in list(self._open.values()):
            receipt = reference()
            if receipt is not None:
                receipt._call_back()
        self._changed.notify_all()

    @property
    def _hopeless(self) -> SightlogError | None:
        # A new one each time: an exception that is raised again and again collects tracebacks.
        return self.failure or (AccessDenied(self._denial) if self._denial is not None else None)

    def check_failure(self, receipt: _Pending) -> None:
        if not receipt._settled and (hopeless := self._hopeless) is not None:
            raise hopeless

    def notify(self, receipt: _Pending, callback: Callable[[], None]) -> None:
        """Call back, from another thread perhaps, when `receipt` is settled, or will not be for now or ever."""
        with self._lock:
            if receipt._settled or self._hopeless is not None:
                callback()
                return
            receipt._callbacks = [*(receipt._callbacks or ()), callback]
        self._ask(receipt.last)

    def wait(self, receipt: _Pending, timeout: float | None, *, busy_raises: bool) -> None:
        def is_settled() -> bool:
            # Asked with the lock held: behind it an ack of other records may have taken the reason away.
            if busy_raises and not receipt._settled and self.busy_reason is not None:
                raise DatabaseWriteError(self.busy_reason)
            return receipt._settled

        if not receipt._settled and not self.wait_until(is_settled, receipt.last, timeout):
            said = f"; the daemon says: {self.busy_reason}." if self.busy_reason else "; is sightlogd running?"
            raise AckTimeout(f"no ack within {timeout:.3g} s{said} The record is in the spool and goes on being sent")

    def wait_until(self, done: Callable[[], bool], position: Position, timeout: float | None) -> bool:
        """Block until `done()`, checked whenever an answer came, by the ack of all up to `position`.

        Raises what keeps acks from coming.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        def is_over() -> bool:
            if done():
                return True
            if (hopeless := self._hopeless) is not None:
                raise hopeless
            return False

        def is_over_now() -> bool:
            with self._lock:
                return is_over()

        self._drive(position, is_over_now, deadline)
        me = object()
        try:
            self.waiting.add(me)
            with self._lock:
                while not is_over():
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._changed.wait(left)
        finally:
            self.waiting.discard(me)
        return True


def failure_of(phase: Phase, reason: str) -> SightlogError:
    """The error for a life that the daemon ended."""
    if phase is Phase.FENCED:
        return ProducerFenced(
            f"{reason} Two copies of one spool are in use: give each machine or process a spool directory of its own. "
            "What is spooled here is kept, and sent under a new producer id when this producer starts again"
        )
    return ProtocolError(f"{reason} Install matching versions of sightlog on both sides; what is spooled is kept")
