"""The loop: receive, validate, commit, ack. One thread; the only module of the daemon with zmq.

libzmq's own thread goes on receiving during a commit, so its queue is the queue. `step` is one wait and one action.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
import zmq

from sightlog import wire
from sightlog.wire import FRAME_BYTES_MAX, Limits

from .batch import Batch, BatchLimits, Reason
from .config import Config
from .control import Client, Control, PurgeRequest, Request
from .doors import Doors
from .errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_STORAGE_FULL, STORAGE_LIMIT, Stop, WriteRefused
from .keys import Keys
from .logs import WARNING_SECONDS, RateLimit, Warnings
from .maintenance import Maintenance
from .metrics import Metrics
from .remote import Remote
from .session import Session, Sessions
from .store import Store

log = structlog.get_logger()

BACKLOG: Final = 1_024
RECEIVE_QUEUE_MESSAGES: Final = 16
"""A producer's messages that wait in memory; more wait in its own spool."""
WAL_BYTES_ALARM: Final = 64 * 1024 * 1024
ACK_QUEUE_MESSAGES: Final = 1_024
STOP_LINGER_MS: Final = 2_000
"""How long the last acks may take to leave after the socket is closed."""
WINDOW_BATCHES: Final = 4
RETRY_SECONDS: Final = 1.0
RETRY_SECONDS_MAX: Final = 30.0
CHORES_SECONDS: Final = 60.0
SOCKET_MODE: Final = 0o660


class Ingest:
    """Owns the socket, the sessions and the batch; writes through `store`. Call `serve`, then `close`.

    `tell` is given the reason whenever writing is refused, and None when it goes on.
    """

    def __init__(self, config: Config, store: Store, tell: Callable[[str | None], None]) -> None:
        self._config = config
        self._store = store
        self._tell = tell
        self._batch = Batch(
            BatchLimits(config.ingest.batch_records_max, config.ingest.batch_bytes_max, config.ingest.linger_ms / 1000)
        )
        limits = Limits(
            window_records=WINDOW_BATCHES * config.ingest.batch_records_max,
            window_bytes=config.ingest.batch_bytes_max,
        )
        self._sessions = Sessions(store.stored_of, store.exceptions_of, limits)
        self._stopped_by: signal.Signals | None = None
        self._refused: WriteRefused | None = None
        self._refused_until = 0.0
        self._retry_seconds = RETRY_SECONDS
        self._next_chores = time.monotonic() + CHORES_SECONDS
        self._maintain_at = 0.0
        self._slow = RateLimit(WARNING_SECONDS)
        self._warn = Warnings()
        self._metrics = Metrics(time.monotonic(), datetime.now(UTC))
        self._maintenance = Maintenance(config, store, self._metrics, self._warn)
        self._context = zmq.Context()
        transport, _, address = config.ingest.endpoint.partition("://")
        self._socket_path = Path(address) if transport == "ipc" else None
        self._socket_inode = 0
        self._socket = self._bind(config.ingest.endpoint)
        self._poller = zmq.Poller()
        self._doors = Doors(self._socket, self._open_remote(), self._poller)
        self._poller.register(self._maintenance.fileno(), zmq.POLLIN)
        self._control = Control(config.data_dir, self._poller, self._answer)

    def _open_remote(self) -> Remote | None:
        if not self._config.remote.listen:
            return None
        keys = Keys(self._config.keys_dir, os.environ.get("CREDENTIALS_DIRECTORY"))
        try:
            return Remote(self._config.remote.listen, keys, self._warn)
        except Stop:
            self._socket.close()
            self._context.term()
            raise

    def _bind(self, endpoint: str) -> zmq.Socket[bytes]:
        path = self._socket_path
        if path is not None and _is_listened_on(path):
            self._context.term()
            raise Stop(
                EXIT_CONFIG, f"another process listens on {endpoint}. Stop it, or give this daemon another --endpoint"
            )
        router = self._context.socket(zmq.ROUTER)
        # No ZMQ_HEARTBEAT_*: on a ROUTER it aborts the process when a client dies during back-pressure (libzmq #4767).
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a reply to nobody is an error, not silence
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        router.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        router.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES)
        router.setsockopt(zmq.SNDHWM, ACK_QUEUE_MESSAGES)
        router.setsockopt(zmq.LINGER, STOP_LINGER_MS)
        router.setsockopt(zmq.BACKLOG, BACKLOG)
        try:
            router.bind(endpoint)
            if path is not None:
                path.chmod(SOCKET_MODE)
                self._socket_inode = path.stat().st_ino
        except (zmq.ZMQError, OSError) as error:
            router.close(linger=0)
            self._context.term()
            code = EXIT_PERMISSION if error.errno in (1, 13) else EXIT_CONFIG
            raise Stop(
                code,
                f"cannot listen on {endpoint}: {os.strerror(error.errno or 0)}. Does its directory exist, may the "
                "daemon's user write there, and is the port free?",
            ) from error
        return router

    # -- the loop ----------------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """Until SIGTERM or SIGINT, within `signals`, or until the storage is full; returns the exit code.

        Raises Stop when it cannot go on at all.
        """
        exit_code = 0
        try:
            while self.step():
                pass
        except Stop as stop:
            if stop.exit_code != EXIT_STORAGE_FULL:
                raise
            log.error(str(stop))
            exit_code = stop.exit_code
        if exit_code == 0:
            self._commit(Reason.STOP)
        self._maintenance.finish()
        return exit_code

    def step(self) -> bool:
        """Wait for one thing, do it; False when it is time to stop."""
        ready = dict(self._poller.poll(self._wait_ms(time.monotonic())))
        if self._stopped_by is not None:
            log.info("stopping", signal=self._stopped_by.name)
            return False
        busy = self._doors.busy(ready)
        if busy:
            self._drain()
        if len(ready) > busy:
            self._control.serve({fd for fd in ready if isinstance(fd, int)})
        now = time.monotonic()
        reason = self._batch.due(now)
        if reason is not None:
            self._commit(reason)
        if now >= self._next_chores:
            self._do_chores(now)
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
        due = min(self._next_chores, self._maintenance.due)
        if self._batch:
            due = now if self._batch.due(now) else min(due, self._batch.deadline or due)
        return max(0, round((due - now) * 1000 + 0.5))

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT wake the poll and end the loop; again and again they change nothing."""
        awake, waker = socket.socketpair()
        for end in (awake, waker):
            end.setblocking(False)
        self._poller.register(awake, zmq.POLLIN)
        old_waker = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        old = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(old_waker)
            awake.close()
            waker.close()

    def _stop(self, number: int, _frame: object) -> None:
        # Nothing is logged here: what is interrupted may hold the lock of the log, and would wait for itself.
        self._stopped_by = signal.Signals(number)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """All messages that are there, until the batch is full."""
        while not self._batch.full and (message := self._doors.receive()) is not None:
            route, frames = message
            answer = self._sessions.receive(route, frames)
            now = time.monotonic()
            if answer.warning:
                self._warn("message", answer.warning)
            self._metrics.resent += answer.resent
            if answer.told:
                self._metrics.told(answer.told)
            if answer.reply:
                self._send(route, answer.reply)
            if self._refused and now < self._refused_until:
                if answer.parcel:
                    self._maintenance.refused(self._refused, [answer.parcel])
                    self._tell_busy(answer.parcel.session, now)
                continue
            if answer.dead_letter:
                self._batch.add_dead_letter(answer.dead_letter, now)
            if answer.parcel:
                self._batch.add(answer.parcel, now)
            if answer.flush:
                self._batch.flush()

    def _send(self, route: bytes, frames: list[bytes]) -> None:
        if not self._doors.send(route, frames):
            self._sessions.forget(route)  # what it misses here it asks for after its next hello

    def drop_remote(self) -> None:
        """Producers on other machines have to come in anew, with keys that are allowed now. Raises Stop."""
        self._doors.drop_remote()

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
        began = time.monotonic()
        try:
            self._maintenance.admit()
            paths = self._maintenance.thumbnails.save(batch.parcels)
            written = self._store.write(batch.parcels, paths, batch.dead_letters)
        except WriteRefused as error:
            self._refuse(error)
            return
        took = time.monotonic() - began
        self._metrics.pictures.stored += len(paths)
        self._recover()
        self._metrics.committed(batch.parcels, written.exceptions, took, time.time())
        exceptions: dict[Session, list[tuple[int, str, str]]] = {}
        for parcel, some in zip(batch.parcels, written.exceptions, strict=True):
            self._sessions.settle(parcel.session, parcel.last)
            exceptions.setdefault(parcel.session, []).extend(some)
        for session, some in exceptions.items():
            self._send(session.route, wire.ack(session.stored, some))
        self._report(batch, reason, took, exceptions, written.duplicates)
        records = batch.records
        batch.clear()
        self._store.checkpoint_if_due()
        # Behind the acks: what of this is lost in a crash is found in the database.
        self._maintenance.stored(records, written.changes)
        if self._store.wal_bytes > WAL_BYTES_ALARM:
            self._warn(
                "wal",
                f"the WAL has {self._store.wal_bytes >> 20} MB: a reader keeps a transaction open and holds up the "
                "checkpoint. End that program, or have it end its transactions",
            )

    def _report(
        self,
        batch: Batch,
        reason: Reason,
        took: float,
        exceptions: dict[Session, list[tuple[int, str, str]]],
        duplicates: list[str],
    ) -> None:
        log.debug("committed", records=batch.records, bytes=batch.size, ms=round(took * 1000, 2), reason=reason.value)
        if took * 1000 > self._config.log.slow_commit_ms and (held := self._slow.take()) is not None:
            log.warning("slow commit", ms=round(took * 1000, 1), records=batch.records, held_back=held)
        if duplicates:
            self._warn("duplicate", f"{duplicates[0]} is there already, the first is kept ({len(duplicates)} such)")
        for session, some in exceptions.items():
            rejected = [(seq, why) for seq, status, why in some if status == wire.REJECTED]
            if rejected:
                self._warn("rejected", f"{session.name}: rejected {len(rejected)} records, first: {rejected[0][1]}")

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
        self._maintenance.refused(error, self._batch.parcels)
        self._maintenance.disk_full(error)
        sessions = {parcel.session for parcel in self._batch.parcels}
        for letter in self._batch.dead_letters:
            log.warning("a malformed message is not kept", producer=letter.producer_id, reason=letter.reason)
        self._batch.clear()
        for session in sessions:
            self._tell_busy(session, now)

    def _tell_busy(self, session: Session, now: float) -> None:
        self._metrics.busy += 1
        self._sessions.rewind(session)
        self._send(session.route, wire.busy(str(self._refused), max(0.0, self._refused_until - now)))

    def _recover(self) -> None:
        if self._refused is not None:
            log.info("writing again", after=self._refused.code)
            self._refused, self._retry_seconds = None, RETRY_SECONDS
            self._maintenance.logs.writes_again()
            self._metrics.recovered(time.monotonic())
            self._tell(None)

    def _do_chores(self, now: float) -> None:
        self._next_chores = now + CHORES_SECONDS
        if not self._owns_socket():
            raise Stop(
                EXIT_IO_ERROR,
                f"the socket {self._socket_path} was removed or replaced: no producer can connect any more. "
                "Start the daemon again, and find out who cleans up there",
            )
        hours = self._config.store.amendment_hours_max
        try:
            expired = self._store.expire_amendments(datetime.now(UTC) - timedelta(hours=hours))
        except WriteRefused as error:
            self._warn("chores", f"cannot expire amendments: {error}")
            return
        if expired:
            log.warning("amendments without an event became dead letters", count=expired, hours=hours)

    def _owns_socket(self) -> bool:
        try:
            return self._socket_path is None or self._socket_path.stat().st_ino == self._socket_inode
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let the last acks leave, then give the socket up."""
        self._control.close()
        self._maintenance.close()
        self._doors.close()
        self._socket.close()
        self._context.term()
        if self._socket_path is not None and self._owns_socket():
            self._socket_path.unlink()


def _is_listened_on(path: Path) -> bool:
    """libzmq binds over the socket of another process without a word."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True
