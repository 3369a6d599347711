"""The loop: receive, validate, commit, ack. One thread.

libzmq's own thread goes on receiving during a commit, so its queue is the queue. `step` is one wait and one action.
"""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import structlog
import zmq

from sightlog.protocol import messages
from sightlog.protocol.messages import Limits
from sightlogd.config import Config, changed_keys
from sightlogd.errors import EXIT_STORAGE_FULL, STORAGE_LIMIT, Stop, WriteRefused
from sightlogd.logs import WARNING_SECONDS, RateLimit, Warnings
from sightlogd.metrics.metrics import Metrics
from sightlogd.metrics.process import give_back, resident_bytes
from sightlogd.protocol.batch import Batch, BatchLimits, Reason
from sightlogd.protocol.session import Session, Sessions
from sightlogd.store import FilesGone, Store, Written
from sightlogd.transport.local import Listener
from sightlogd.transport.remote import open_remote
from sightlogd.transport.sockets import Sockets

from .background import Maintenance
from .clock import Waiting
from .control import Client, Control, PurgeRequest, Request
from .watchdog import STOPS, Watchdog

log = structlog.get_logger()

WINDOW_BATCHES: Final = 4
RETRY_SECONDS: Final = 1.0
RETRY_SECONDS_MAX: Final = 30.0
CHORES_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 1.0
"""Between two looks whether the control socket is still there."""
WAKE_BYTES: Final = 4_096
NAMES_SHOWN: Final = 5
WEIGH_SECONDS: Final = 0.02
"""Between two looks at the memory while messages come."""
MEMORY_MAX: Final = 192 * 1024 * 1024
"""Resident; the unit's MemoryHigh= is twice as much. libzmq bounds neither the frames of a message nor all connections
together."""
DROPPED_SECONDS: Final = 0.1
"""libzmq's own threads free what was queued, most of it so soon."""
FREED_SECONDS: Final = 2.0
"""All of it: what is free is given back to the system meanwhile."""
MEMORY_MORE: Final = 32 * 1024 * 1024
"""With what cannot be given back: so much more is allowed the next time."""


class Ingest:
    """Owns the socket, the sessions and the batch; writes through `store`. Call `serve`, then `close`.

    `tell` is given the reason whenever writing is refused, and None when it goes on; `show` how much is stored, now and
    then. `handed` is a socket that listens already. Raises Stop.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        tell: Callable[[str | None], None],
        show: Callable[[str], None],
        watchdog: Watchdog,
        handed: socket.socket | None,
    ) -> None:
        self._config = config
        self._store = store
        self._tell = tell
        self._watchdog = watchdog
        self._batch = Batch(
            BatchLimits(config.ingest.batch_records_max, config.ingest.batch_bytes_max, config.ingest.linger_ms / 1000)
        )
        limits = Limits(
            window_records=WINDOW_BATCHES * config.ingest.batch_records_max,
            window_bytes=config.ingest.batch_bytes_max,
        )
        self._sessions = Sessions(store.stored_of, store.exceptions_of, limits, store.count_producers)
        self._stopped_by: signal.Signals | None = None
        self._is_to_reload = False
        self._refused: WriteRefused | None = None
        self._refused_until = 0.0
        self._retry_seconds = RETRY_SECONDS
        self._next_chores = time.monotonic() + CHORES_SECONDS
        self._next_look = 0.0
        self._weigh_at = 0.0
        self._memory_max: float = MEMORY_MAX
        self._freed_at = 0.0
        self._is_to_look = False
        self._maintain_at = 0.0
        self._slow = RateLimit(WARNING_SECONDS)
        self._warn = Warnings()
        self._metrics = Metrics(time.monotonic(), datetime.now(UTC))
        self._waiting = Waiting(datetime.now(UTC), time.monotonic())
        self._maintenance = Maintenance(config, store, self._metrics, self._warn, show)
        remote = open_remote(config, self._warn)
        self._context = zmq.Context()
        try:
            self._listener = Listener(self._context, config.ingest.endpoint, handed)
        except Stop:
            if remote is not None:
                remote.close()
            self._context.term()
            raise
        self._poller = zmq.Poller()
        self._sockets = Sockets(self._listener, remote, self._poller, self._warn)
        self._poller.register(self._maintenance.fileno(), zmq.POLLIN)
        self._control = Control(config.data_dir, self._poller, self._answer)

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return self._listener.endpoint

    def change(self, config: Config) -> list[str]:
        """Take over [storage] and [log], and look at the keys of those who came from elsewhere again.

        Returns the keys of the configuration, changed too, that take a start anew. Raises Stop.
        """
        late = changed_keys(self._config, config, but=("storage", "log"))
        self._config = msgspec.structs.replace(self._config, storage=config.storage, log=config.log)
        self._maintenance.budget.change(config.storage)
        self.drop_remote()
        return late

    # -- the loop ----------------------------------------------------------------------------------------------------

    def serve(self) -> Stop | None:
        """Until SIGTERM or SIGINT, within `signals`, or until the storage is full, which it returns.

        Raises Stop when it cannot go on at all.
        """
        full = None
        try:
            while self.step():
                pass
        except FilesGone:
            with contextlib.suppress(
                OSError
            ):  # what was acked is in the day logs too, should the database not come back
                self._maintenance.logs.write_all()
            raise
        except Stop as stop:
            if stop.exit_code != EXIT_STORAGE_FULL:
                raise
            log.error(str(stop))
            full = stop
        if full is None:
            self._commit(Reason.STOP)
        self._maintenance.finish()
        return full

    def step(self) -> bool:
        """Wait for one thing, do it; False when it is time to stop."""
        ready = dict(self._poller.poll(self._wait_ms(time.monotonic())))
        self._watchdog.beat()
        if self._stopped_by is not None:
            self._watchdog.stopping()
            log.info("stopping", signal=self._stopped_by.name)
            return False
        if self._is_to_reload:
            self._is_to_reload = False
            with contextlib.suppress(BlockingIOError):
                self._awake.recv(WAKE_BYTES)
            self._reload()
        busy = self._sockets.busy(ready, time.monotonic())
        if busy:
            self._drain()
        if len(ready) > busy:
            self._control.serve({fd for fd in ready if isinstance(fd, int)})
        now = time.monotonic()
        reason = self._batch.due(now)
        if reason is not None:
            self._commit(reason)
        if now >= self._next_look:  # not worth a wake-up, but one behind the last commit
            self._next_look, self._is_to_look = now + LOOK_SECONDS, False
            self._control.check()
            self._maintenance.look_at_database()
        if now >= self._next_chores:
            self._do_chores(now)
        if now >= self._sockets.check_at:
            self._sockets.check()
        if self._refused and self._refused.code == STORAGE_LIMIT and self._maintenance.budget.over_limit is None:
            self._recover()  # a purge made room, and perhaps nobody sends anything for hours
        is_due = self._maintenance.fileno() in ready or now >= self._maintenance.due
        # While producers send, a fifth of the time at most.
        if is_due and (not busy or now >= self._maintain_at):
            self._maintenance.step(now)
            ended = time.monotonic()
            self._maintain_at = ended + 4 * (ended - now)
        return True

    def _wait_ms(self, now: float) -> int:
        if self._stopped_by is not None or self._is_to_reload:
            return 0  # a reload may have taken this one's wake-up away
        due = min(self._next_chores, self._maintenance.due, self._sockets.check_at)
        if self._is_to_look:
            due = min(due, self._next_look)
        if self._batch:
            due = now if self._batch.due(now) else min(due, self._batch.deadline or due)
        return max(0, round(min(due - now, self._watchdog.turn_seconds) * 1000 + 0.5))

    @contextlib.contextmanager
    def signals(self, reload: Callable[[], None]) -> Iterator[None]:
        """SIGTERM and SIGINT wake the poll and end the loop; again and again they change nothing. SIGHUP: `reload`.

        On a terminal SIGHUP means that it was closed, and the daemon ends with it as everything else does.
        """
        awake, waker = socket.socketpair()
        for end in (awake, waker):
            end.setblocking(False)
        self._poller.register(awake, zmq.POLLIN)
        old_waker = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        numbers = [*STOPS, *([] if sys.stderr.isatty() else [signal.SIGHUP])]
        old = {number: signal.signal(number, self._signalled) for number in numbers}
        self._awake, self._reload = awake, reload
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(old_waker)
            awake.close()
            waker.close()

    def _signalled(self, number: int, _frame: object) -> None:
        # Nothing is logged here: what is interrupted may hold the lock of the log, and would wait for itself.
        if number == signal.SIGHUP:
            self._is_to_reload = True
        else:
            self._stopped_by = signal.Signals(number)

    def stop_is_wanted(self) -> bool:
        """Also while a commit keeps the loop, and with it Python's handler, from running. For any thread."""
        try:
            return any(number in STOPS for number in self._awake.recv(WAKE_BYTES, socket.MSG_PEEK))
        except OSError:  # no signal; or the end was reached meanwhile
            return False

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """All messages that are there, until the batch is full."""
        while not self._batch.full and (message := self._sockets.receive()) is not None:
            route, frames = message
            now = time.monotonic()
            if now >= self._weigh_at and self._is_too_heavy(now):
                self._drop_all()
                break
            try:
                answer = self._sessions.receive(route, frames)
            except WriteRefused as error:  # what is stored of a producer cannot be told
                self._warn("hello", str(error))
                self._send(route, messages.busy(str(error), RETRY_SECONDS))
                continue
            if answer.warning:
                self._warn("message", answer.warning)
            self._metrics.resent += answer.resent
            self._metrics.busy += answer.busy
            if answer.reported:
                self._metrics.reported(answer.reported)
            if answer.reply:
                self._send(route, answer.reply)
            if self._refused and now < self._refused_until:
                if answer.chunk:
                    self._maintenance.refused(self._refused, [answer.chunk])
                    self._tell_busy(answer.chunk.session, now)
                continue
            if answer.dead_letter:
                self._batch.add_dead_letter(answer.dead_letter, now)
            if answer.chunk:
                self._batch.add(answer.chunk, now)
            if answer.flush:
                self._batch.flush()

    def _is_too_heavy(self, now: float) -> bool:
        """Whether messages fill the memory faster than they are read."""
        self._weigh_at = now + WEIGH_SECONDS
        if now < self._freed_at or self._memory_max == math.inf:
            give_back()
            self._memory_max = min(self._memory_max, max(MEMORY_MAX, resident_bytes() + MEMORY_MORE))
        if resident_bytes() <= self._memory_max:
            return False
        give_back()
        return resident_bytes() > self._memory_max

    def _drop_all(self) -> None:
        """Raises Stop."""
        self._warn(
            "memory",
            f"messages of producers take too much memory ({resident_bytes() >> 20} MB): all connections are dropped, "
            "and honest producers send again what is in their spools. Find out who sends so much (ss -xp, ss -tp)",
        )
        self._metrics.connections_dropped += 1
        self._sockets.drop_all()
        now = time.monotonic()
        self._weigh_at, self._freed_at = now + DROPPED_SECONDS, now + FREED_SECONDS
        self._memory_max = math.inf  # until the first look

    def _send(self, route: bytes, frames: list[bytes]) -> None:
        if not self._sockets.send(route, frames):
            self._sessions.forget(route)  # what it misses here it asks for after its next hello

    def drop_remote(self) -> None:
        """Producers on other machines have to come in anew, with keys that are allowed now. Raises Stop."""
        self._sockets.drop_remote()

    def _answer(self, request: Request, client: Client) -> None:
        if isinstance(request, PurgeRequest):
            self._maintenance.answer(request, client)
            return
        self.drop_remote()
        client.tell("all connections from other machines were dropped; those that are allowed come back by themselves")
        client.end(0)

    # -- committing --------------------------------------------------------------------------------------------------

    def _commit(self, reason: Reason) -> None:
        batch = self._batch
        if not batch:
            return
        self._is_to_look = True
        began = time.monotonic()
        try:
            self._maintenance.admit()
            paths = self._maintenance.thumbnails.save(batch.chunks)
            written = self._store.write(batch.chunks, paths, batch.dead_letters)
        except WriteRefused as error:
            self._refuse(error)
            return
        took = time.monotonic() - began
        wall = time.time()
        exceptions: dict[Session, list[tuple[int, str, str]]] = {}
        for chunk, some in zip(batch.chunks, written.exceptions, strict=True):
            self._sessions.resolve(chunk.session, chunk.last)
            exceptions.setdefault(chunk.session, []).extend(some)
        for session, some in exceptions.items():
            self._send(session.route, messages.ack(session.stored, some))
        # Behind the acks, which somebody may wait for.
        self._recover()
        self._metrics.pictures.stored += len(paths)
        self._metrics.committed(batch.chunks, written.exceptions, took, wall)
        self._report(batch, reason, took, exceptions, written)
        records, size = batch.records, batch.size
        batch.clear()
        self._store.checkpoint_if_due()
        # What of this is lost in a crash is found in the database.
        self._maintenance.stored(records, size, written.changes)
        if self._store.wal_is_held_up:
            self._warn_of_holders()

    def _warn_of_holders(self) -> None:
        found = self._store.wal_holders()
        who = ", ".join(map(str, found)) or "which one is not known"
        self._warn(
            "wal",
            f"the WAL has {self._store.wal_bytes >> 20} MB: a reader keeps a transaction open and holds up the "
            f"checkpoint: {who}. End that program, or have it end its transactions",
        )

    def _report(
        self,
        batch: Batch,
        reason: Reason,
        took: float,
        exceptions: dict[Session, list[tuple[int, str, str]]],
        written: Written,
    ) -> None:
        log.debug("committed", records=batch.records, bytes=batch.size, ms=round(took * 1000, 2), reason=reason.value)
        if took * 1000 > self._config.log.slow_commit_ms and (held := self._slow.take()) is not None:
            log.warning("slow commit", ms=round(took * 1000, 1), records=batch.records, held_back=held)
        if written.duplicates:
            first, count = written.duplicates[0], len(written.duplicates)
            self._warn("duplicate", f"{first} is there already, the first is kept ({count} such)")
        if written.ahead:
            self._warn_of_clocks(dict(written.ahead))
        if written.unapplied:
            first, count = written.unapplied[0], len(written.unapplied)
            self._warn(
                "unapplied", f"an amendment that waited for its event is a dead letter now: {first} ({count} such)"
            )
        for session, some in exceptions.items():
            rejected = [(seq, why) for seq, status, why in some if status == messages.REJECTED]
            if rejected:
                self._warn("rejected", f"{session.name}: rejected {len(rejected)} records, first: {rejected[0][1]}")

    def _warn_of_clocks(self, ahead: dict[str, str]) -> None:
        """By producer, when something was recorded."""
        some = ", ".join(f"{name} ({moment})" for name, moment in list(ahead.items())[:NAMES_SHOWN])
        more = f" and {len(ahead) - NAMES_SHOWN} more" if len(ahead) > NAMES_SHOWN else ""
        self._warn(
            "ahead",
            f"stored what is more than a day ahead of the clock here, from {some}{more}: whose clock is wrong? Lists "
            "leave it out, and its days are the first to be removed",
        )

    def _refuse(self, error: WriteRefused) -> None:
        """Nothing of the batch is stored as far as anybody may rely on: the producers keep it and send it again."""
        now = time.monotonic()
        self._metrics.refused(now, by_budget=error.code == STORAGE_LIMIT)
        if self._refused is None:
            log.error("cannot write; producers keep their records", reason=str(error))
            self._tell(str(error))
        else:
            self._warn("refused", f"still cannot write: {error}")
            self._retry_seconds = min(self._retry_seconds * 2, RETRY_SECONDS_MAX)
        self._refused, self._refused_until = error, now + self._retry_seconds
        self._maintenance.refused(error, self._batch.chunks)
        self._maintenance.disk_full(error)
        sessions = {chunk.session for chunk in self._batch.chunks}
        for dead_letter in self._batch.dead_letters:
            log.warning("a malformed message is not kept", producer=dead_letter.producer_id, reason=dead_letter.reason)
        self._batch.clear()
        for session in sessions:
            self._tell_busy(session, now)

    def _tell_busy(self, session: Session, now: float) -> None:
        self._metrics.busy += 1
        self._sessions.rewind(session)
        self._send(session.route, messages.busy(str(self._refused), max(0.0, self._refused_until - now)))

    def _recover(self) -> None:
        if self._refused is not None:
            log.info("writing again", after=self._refused.code)
            self._refused, self._retry_seconds = None, RETRY_SECONDS
            self._maintenance.logs.writes_again()
            self._metrics.recovered(time.monotonic())
            self._tell(None)

    def _do_chores(self, now: float) -> None:
        self._next_chores = now + CHORES_SECONDS
        self._listener.check()
        wall, hours = datetime.now(UTC), self._config.store.amendment_hours_max
        self._waiting.look(wall, now)
        try:
            expired = self._store.expire_amendments(*self._waiting.too_old(wall, now, timedelta(hours=hours)))
        except WriteRefused as error:
            self._warn("chores", f"cannot expire amendments: {error}")
            return
        if expired:
            log.warning("amendments without an event became dead letters", count=expired, hours=hours)

    def close(self) -> None:
        """Let the last acks leave, then give the socket up."""
        self._control.close()
        self._maintenance.close()
        self._sockets.close()
        self._listener.close()
        self._context.term()
