"""The socket that producers connect to: bound here, or handed over by the service manager."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog
import zmq

from sightlog.protocol.limits import FRAME_BYTES_MAX
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_TRY_AGAIN, Stop
from sightlogd.store.guard import identity_of

from .accepting import Gate

log = structlog.get_logger()

BACKLOG: Final = 1_024
RECEIVE_QUEUE_MESSAGES: Final = 2
"""A connection's messages that wait in memory; more wait in the producer's own spool. libzmq counts them, not their
bytes, and 16 were no faster."""
ACK_QUEUE_MESSAGES: Final = 64
"""Far more than an honest producer leaves unread: there is an ack for each message of its window at most."""
STOP_LINGER_MS: Final = 2_000
"""How long the last acks may take to leave after the socket is closed."""
SOCKET_MODE: Final = 0o660
HANDSHAKE_MS: Final = 10_000
"""Who says nothing, or no ZMTP, is dropped after this long."""
LOCK_SECONDS: Final = 2.0
"""Another daemon that is just binding a socket in the same directory gets this long."""


class Listener:
    """`router` is the socket, `gate` has those who wait, `endpoint` says where: that of the socket handed over, or
    else the one given. Raises Stop.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, handed: socket.socket | None) -> None:
        self.endpoint = f"ipc://{handed.getsockname()}" if handed is not None else endpoint
        transport, _, address = self.endpoint.partition("://")
        self._path = Path(address) if transport == "ipc" else None
        self._is_handed = handed is not None
        self._context = context
        self.router = make_router(context)
        try:
            if handed is not None:
                if self.endpoint != endpoint:
                    log.warning(
                        "the socket handed over is not [ingest] endpoint", handed=self.endpoint, endpoint=endpoint
                    )
                self.gate = bind(self.router, self.endpoint, Gate(handed))
            elif self._path is not None:
                with _one_at_a_time(self._path.parent):
                    _check_free(self._path)
                    self.gate = bind(self.router, self.endpoint, Gate(_listening_at(self._path)))
            else:
                self.gate = bind(self.router, self.endpoint, Gate(listening(self.endpoint)))
            if self._path is not None:
                self._identity = identity_of(self._path)
        except Stop:
            self.router.close(linger=0)
            raise
        except (zmq.ZMQError, OSError) as error:
            self.router.close(linger=0)
            # A folder that is missing, or a port that is taken, may pass: as for other machines (remote).
            code = EXIT_PERMISSION if error.errno in (errno.EPERM, errno.EACCES) else EXIT_IO_ERROR
            raise Stop(
                code,
                f"cannot listen on {self.endpoint}: {os.strerror(error.errno or 0)}. Does its directory exist, may the "
                "daemon's user write there, and is the port free?",
            ) from error

    def check(self) -> None:
        """Raises Stop when no producer can connect any more."""
        if not self._is_in_place():
            raise Stop(
                EXIT_IO_ERROR,
                f"the socket {self._path} was removed or replaced: no producer can connect any more. "
                "Start the daemon again, and find out who cleans up there",
            )

    def drop(self) -> None:
        """All connections, with what waits of them in memory. Who waits to come in stays. Raises Stop."""
        self.router.close(linger=0)
        self.router = make_router(self._context)
        bind(self.router, self.endpoint, self.gate)

    def _is_in_place(self) -> bool:
        try:
            return self._path is None or identity_of(self._path) == self._identity
        except OSError:
            return False

    def close(self) -> None:
        """The last acks leave within STOP_LINGER_MS. What the manager handed over stays there for the next start."""
        self.router.close()
        self.gate.close()
        if self._path is not None and not self._is_handed and self._is_in_place():
            self._path.unlink()


def make_router(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """With the limits that hold for every producer, not bound yet."""
    router = context.socket(zmq.ROUTER)
    # No ZMQ_HEARTBEAT_*: on a ROUTER it aborts the process when a client dies during back-pressure (libzmq #4767).
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a reply to nobody is an error, not silence
    router.setsockopt(zmq.ROUTER_HANDOVER, 1)
    router.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
    router.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES)
    router.setsockopt(zmq.SNDHWM, ACK_QUEUE_MESSAGES)
    router.setsockopt(zmq.LINGER, STOP_LINGER_MS)
    router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    return router


def bind(router: zmq.Socket[bytes], endpoint: str, gate: Gate) -> Gate:
    """To a socket that listens already; nobody comes in before the gate says so. Raises Stop, zmq.ZMQError."""
    try:
        router.setsockopt(zmq.USE_FD, gate.hand_over())
        router.bind(endpoint)
        gate.hold()
    except BaseException:
        gate.close()
        raise
    return gate


def listening(endpoint: str) -> socket.socket:
    """By tcp. Not by libzmq, which asks for the machine's network cards first, and aborts where the service may not.

    Raises OSError.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    host = "0.0.0.0" if host == "*" else host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server(
        (host, int(port)), family=family, backlog=BACKLOG, dualstack_ipv6=family == socket.AF_INET6
    )


def _listening_at(path: Path) -> socket.socket:
    """A dead process's socket is replaced. Raises OSError."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(os.fspath(path))
        path.chmod(SOCKET_MODE)
        server.listen(BACKLOG)
    except OSError:
        server.close()
        raise
    return server


@contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Two daemons that start at once do not both find a path free. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Anybody who may read the directory can hold this up, but not for good.
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.05)
        yield
    finally:
        os.close(fd)


def _check_free(path: Path) -> None:
    """libzmq binds over whatever is there without a word: another process's socket, any file. Raises Stop, OSError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Stop(
            EXIT_CONFIG, f"{path} is there, and is not a socket. Move it away, or give this daemon another --endpoint"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # a dead process's
        except OSError:
            pass  # one that is busy, or of somebody who lets nobody in
    raise Stop(EXIT_TRY_AGAIN, f"another process listens on {path}. Stop it, or give this daemon another --endpoint")
