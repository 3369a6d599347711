"""Who uses the socket: a caller that waits for an ack, or else the publisher's own thread.

A caller that waits sends and listens itself: it wakes no thread that would have to wake it again. One at a time has
the turn. While a caller has it, the thread sleeps at the gate, a second epoll around the connection's own, and nothing
that arrives wakes it. Who finds the turn taken wakes whoever has it, and waits for the book.

A signal may raise an exception in the caller at any point, and its handler may publish and wait in the middle of a
wait. So the turn is no lock: a lock does not say whose it is, and one that was acquired a moment before the exception
would never be released. Nor does anybody rely on a step that came to its end: a torn one is mended by the next.
"""

from __future__ import annotations

import contextlib
import logging
import math
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from .connection import Connection
from .delivery import Delivery, is_of_disk
from .waker import Waker

log = logging.getLogger("sightlog.publisher")

SPOOL_RETRY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 1.0
"""Who leaves wakes the thread that waits for the turn, unless a signal tears it out of that."""
NAP_SECONDS: Final = 0.2
"""How long records gather that nobody waits for, behind those that were just sent. More: fewer messages, each of which
wakes the daemon up. Less: readers see them earlier, but the daemon lets them linger longer than that anyhow."""
NAP_RECORDS: Final = 250
"""So many are worth a message at once."""


class _Turn:
    """Of one call, or of the publisher's thread."""

    __slots__ = ("caller", "is_waiting")

    def __init__(self, caller: int | None) -> None:
        self.caller = caller
        self.is_waiting = False
        """Nothing is under way: the handler of a signal, which runs in the same thread, may take over."""


class _Step:
    """Something that is done as a whole, or else is `torn`: then the next one mends it first.

    OSError is of the spool's disk, and comes in between.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self.torn = False

    def __enter__(self) -> None:
        if self.torn:
            self._delivery.mend()
        self.torn = True

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.torn = error is not None and not is_of_disk(error)


class Driver:
    """`serve` is what the publisher's thread does until `closing`; `drive` is for everybody else."""

    def __init__(self, delivery: Delivery, connection: Connection, waker: Waker) -> None:
        self._delivery = delivery
        self._connection = connection
        self._waker = waker
        self._gate = select.epoll()
        self._gate.register(connection.fileno(), select.EPOLLIN)
        self._holder: dict[None, _Turn] = {}
        self._threads = _Turn(None)
        self._step = _Step(delivery)
        self._has_heard = True
        """Nothing was done since that libzmq's descriptor could have told of."""
        self._nap_until = -math.inf
        self._is_napping = False
        self._thread_due = -math.inf
        """When the thread looks by itself, whatever happens; infinity when it waits for the turn."""
        self.closing = False

    # -- the turn ----------------------------------------------------------------------------------------------------

    def _take(self, turn: _Turn) -> bool:
        # One step that no signal can divide, and afterwards it can be seen whose it is.
        holder = self._holder.setdefault(None, turn)
        if holder is not turn and holder.caller == turn.caller and holder.is_waiting:
            self._holder[None] = holder = turn
        return holder is turn

    def _has(self, turn: _Turn) -> bool:
        return self._holder.get(None) is turn

    def _leave(self, turn: _Turn) -> None:
        turn.is_waiting = False  # an exception may have ended the wait, and from here on nobody may take over
        if not self._has(turn):
            return
        due = self._delivery.due_at(time.monotonic(), stuck=False)
        is_needed = self.closing or not self._has_heard or self._delivery.has_unsent or due < self._thread_due
        self._gate.modify(self._connection.fileno(), select.EPOLLIN)
        if is_needed:
            self._waker.wake()
        del self._holder[None]
        # Looked at behind that: the thread says that it waits before it looks whether the turn is free.
        if self._thread_due == math.inf:
            self._waker.wake()

    def notice(self, *, urgent: bool) -> None:
        """Something was published. Unless it is urgent, or much, it may wait until the thread's nap is over."""
        if urgent or not self._is_napping or self._delivery.unsent >= NAP_RECORDS:
            self._waker.wake()

    # -- a caller ----------------------------------------------------------------------------------------------------

    def drive(self, done: Callable[[], bool], deadline: float | None, *, others: bool = False) -> None:
        """Send and receive until `done()`, or the deadline, or somebody else has to: then he knows.

        `others` wait too: what several publish at once is one commit when the thread sends it, and several when the
        first of them sends at once (four threads: 1,750 events/s and 1,050).
        Raises what `done` does.
        """
        turn = _Turn(threading.get_ident())
        try:
            try:
                if self._take(turn) and not self.closing and not others:
                    self._drive(turn, done, math.inf if deadline is None else deadline)
                else:
                    self._waker.wake()
            finally:
                self._leave(turn)
        except OSError as error:
            if not is_of_disk(error):
                raise
            # The thread meets it too, and has patience.
        finally:  # a signal may have come in between
            self._leave(turn)

    def _drive(self, turn: _Turn, done: Callable[[], bool], deadline: float) -> None:
        self._gate.modify(self._connection.fileno(), 0)
        while not done() and not self.closing:
            now = time.monotonic()
            due = self._tell(now)
            if now >= deadline:
                return
            turn.is_waiting = True
            self._connection.wait(min(due, deadline) - now)
            turn.is_waiting = False
            if not self._has(turn):
                return
            self._hear()

    # -- the thread --------------------------------------------------------------------------------------------------

    def serve(self) -> bool:
        """Send and receive whenever no caller does, until `close`. Returns whether last words were sent."""
        while True:
            self._await_turn()
            try:
                self._hear()
                if self.closing:  # not sooner: who closes may find the waker set, and it is `_hear` that clears it
                    break
                now = time.monotonic()
                self._thread_due = self._tell_now_or_later(now)
            except OSError as error:
                if self.closing:
                    break
                # A disk's trouble passes: the records are in the spool, and are sent when it can be read again.
                log.error("%s: cannot use the spool: %s", self._delivery.producer, error)
                del self._holder[None]
                select.select([self._waker.fd], [], [], SPOOL_RETRY_SECONDS)
                continue
            self._is_napping = now < self._nap_until
            del self._holder[None]
            self._gate.poll(max(0.0, self._thread_due - now))
            # Whoever found it napping had appended before this, and what he appended is looked at behind it.
            self._is_napping = False
        with contextlib.suppress(OSError), self._step:
            return self._delivery.say_goodbye()
        return False

    def _tell_now_or_later(self, now: float) -> float:
        delivery = self._delivery
        if now < self._nap_until and not delivery.is_awaited and delivery.unsent < NAP_RECORDS:
            return self._nap_until
        before = delivery.sent
        due = self._tell(now)
        self._nap_until = now + NAP_SECONDS if delivery.sent > before and not delivery.is_awaited else now
        return min(due, self._nap_until) if self._nap_until > now else due

    def _await_turn(self) -> None:
        self._thread_due = math.inf
        while not self._take(self._threads):
            if self._delivery.has_unsent:
                self._waker.wake()  # whoever has it, for what came during a nap
            self._gate.poll(LOOK_SECONDS)

    def close(self) -> None:
        """Have the thread end, also where it is a caller's turn."""
        self.closing = True
        self.drive(lambda: True, None)

    def end(self) -> None:
        """The thread's last step: from now on nobody gets the turn."""
        self.closing = True
        self._await_turn()
        self._gate.close()

    # -- a step, of whoever has the turn -----------------------------------------------------------------------------

    def _tell(self, now: float) -> float:
        """Send what may be sent; returns when to look again if nothing arrives."""
        self._has_heard = False
        with self._step:
            stuck = self._delivery.send(now)
            self._delivery.sync_if_unacked_for_long()
            due = self._delivery.due_at(now, stuck=stuck)
            return now if self._connection.is_ready(stuck=stuck) else due

    def _hear(self) -> None:
        with self._step:
            self._waker.clear()
            self._delivery.receive()
            self._delivery.attend(time.monotonic())
        self._has_heard = True
