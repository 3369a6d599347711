"""The producer's socket: its options, its keys, and what its handshakes come to. The only module here with zmq."""

from __future__ import annotations

import contextlib
import math
import os
import select
import struct
from pathlib import Path
from typing import Final

import zmq

from sightlog.errors import UsageError
from sightlog.protocol import keyfile
from sightlog.protocol.endpoint import is_loopback
from sightlog.protocol.keyfile import KeyFile

LAST_WORDS_MS: Final = 100  # for what was sent last to leave
TCP_SILENCE_MS: Final = 30_000
"""A peer that acknowledges nothing for this long is gone; the kernel's own patience is 15 minutes and more."""
TCP_PROBE_SECONDS: Final = 10
CONNECT_TIMEOUT_MS: Final = 10_000
UNCLEAR_FAILURES: Final = 3
"""Handshakes in a row that ended without a word: a daemon that is being restarted ends one so, too."""
RETRY_SECONDS: Final = 0.5
RETRY_SECONDS_MAX: Final = 5.0

_FAILURES: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)

# As numbers: an operation on an enum takes longer than the call that it is for.
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_POLLOUT: Final = int(zmq.POLLOUT)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

_EVENT: Final = struct.Struct("=HI")


def find_key(endpoint: str, key_file: str | os.PathLike[str] | None) -> KeyFile | None:
    """The key for a tcp endpoint: of `key_file`, or of `SIGHTLOG_KEY_FILE`. Raises UsageError."""
    path = key_file or os.environ.get("SIGHTLOG_KEY_FILE")
    if not endpoint.startswith("tcp://"):
        return None
    if not path:
        if is_loopback(endpoint):
            return None
        raise UsageError(
            f"endpoint {endpoint}: to another machine only with a key. Make one there with `sightlogd keys new NAME`, "
            "carry the file here, and give it as key_file, --key-file or SIGHTLOG_KEY_FILE"
        )
    if not zmq.has("curve"):
        raise UsageError("this libzmq was built without CURVE, so it knows no keys. Install pyzmq from PyPI")
    key = keyfile.read(Path(path), secret=True)
    if not key.secret or not key.server:
        what = "secret-key" if not key.secret else "server-key"
        raise UsageError(f"key file {path}: there is no {what} in it. Take the file that `sightlogd keys new` wrote")
    if zmq.curve_public(key.secret.encode()).decode() != key.public:
        raise UsageError(f"key file {path}: its two keys are not a pair. Take the file that `sightlogd keys new` wrote")
    return key


class Connection:
    """To one daemon, kept up by libzmq. By tcp it is watched, and made anew by `attend` where libzmq gives up.

    One thread uses it; `wake` is for the others. Raises UsageError.
    """

    def __init__(self, endpoint: str, key: KeyFile | None) -> None:
        self._endpoint = endpoint
        self._key = key
        self.denied: str | None = None
        """Why the daemon does not let this producer in; None while that is not known."""
        self.retry_at = math.inf
        self._retry_seconds = RETRY_SECONDS
        self._unclear = 0
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        try:
            self._open()
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            self._epoll.close()
            os.close(self._wake_fd)
            raise UsageError(f"cannot connect to {endpoint}: {error}. Check the endpoint") from error

    def _open(self) -> None:
        self._socket = socket = self._context.socket(zmq.DEALER)
        # No routing id of our own: every reconnect is a new peer to the daemon, which then asks for a hello. With a
        # fixed id it could take a later message for the continuation of one that the broken connection lost.
        socket.setsockopt(zmq.LINGER, 0)  # the spool has everything
        socket.setsockopt(zmq.IMMEDIATE, 1)  # not connected is EAGAIN, never a queue of stale messages
        socket.setsockopt(zmq.SNDHWM, 64)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if self._key is not None:
            self._use(self._key, socket)
        if self._endpoint.startswith("tcp://"):
            self._monitor = socket.get_monitor_socket(_FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        for opened in (socket, self._monitor):
            if opened is not None:
                self._epoll.register(opened.fileno(), select.EPOLLIN)
        socket.connect(self._endpoint)

    @staticmethod
    def _use(key: KeyFile, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, key.server.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
        socket.setsockopt(zmq.TCP_MAXRT, TCP_SILENCE_MS)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, TCP_SILENCE_MS // 1000)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, TCP_PROBE_SECONDS)

    def is_ready(self, *, stuck: bool) -> bool:
        """Whether there are messages; or with `stuck`, whether it takes some again.

        To be asked before every wait: libzmq's descriptor tells only what this, or sending or receiving, has not seen.
        """
        flags = _POLLIN | _POLLOUT if stuck else _POLLIN
        return self._socket is not None and bool(_events(self._socket) & flags)

    def wait(self, seconds: float) -> None:
        """Until something happens here, or `wake`."""
        if any(fd == self._wake_fd for fd, _ in self._epoll.poll(max(0.0, seconds))):
            os.eventfd_read(self._wake_fd)

    def wake(self) -> None:
        """End the wait that is under way, or else the next. From any thread, but never after `close`."""
        os.eventfd_write(self._wake_fd, 1)

    def send(self, frames: list[bytes]) -> bool:
        """False when it takes no more now, or is not connected."""
        socket = self._socket
        if socket is None:
            return False
        *before, last = frames
        try:
            for frame in before:
                socket.send(frame, _MORE)
            socket.send(last, _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[bytes] | None:
        """The next message, if there is one."""
        # Asking first is cheaper than the exception of a recv that finds nothing, at the end of every wake-up.
        if self._socket is None or not _events(self._socket) & _POLLIN:
            return None
        return _receive(self._socket)

    def attend(self, now: float) -> None:
        """Hear how handshakes ended, and connect anew when that is due. Look at `denied` for what it changed.

        libzmq never tries again after a refusal, and 20 times a second after a handshake that ended without a word.
        """
        while self._monitor is not None and _events(self._monitor) & _POLLIN:
            event, value = _EVENT.unpack(_receive(self._monitor)[0])
            self._ended(event, value, now)
        if now >= self.retry_at:
            self.retry_at = math.inf
            self._open()

    def _ended(self, event: int, value: int, now: float) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.denied, self._unclear, self._retry_seconds = None, 0, RETRY_SECONDS
            return
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._unclear += 1
            if self._unclear < UNCLEAR_FAILURES:
                return
        self.denied = _explain(event, value, self._endpoint, self._key)
        self._close()
        self.retry_at = now + self._retry_seconds
        self._retry_seconds = min(self._retry_seconds * 2, RETRY_SECONDS_MAX)

    def _close(self) -> None:
        socket, monitor = self._socket, self._monitor
        self._socket = self._monitor = None
        for closing in (socket, monitor):
            if closing is not None:
                with contextlib.suppress(FileNotFoundError):
                    self._epoll.unregister(closing.fileno())
        if socket is not None:
            if monitor is not None:
                socket.disable_monitor()
                monitor.close()
            socket.close()

    def close(self, *, linger: bool) -> None:
        """`linger`: give what was sent last a moment to leave."""
        if linger and self._socket is not None:
            self._socket.setsockopt(zmq.LINGER, LAST_WORDS_MS)
        self._close()
        self._context.term()
        self._epoll.close()
        os.close(self._wake_fd)


def _events(socket: zmq.Socket[bytes]) -> int:
    return int(socket.getsockopt(_EVENTS))


def _receive(socket: zmq.Socket[bytes]) -> list[bytes]:
    frame = socket.recv(_NOBLOCK, copy=False)
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(_NOBLOCK, copy=False)
        frames.append(frame.bytes)
    return frames


def _explain(event: int, value: int, endpoint: str, key: KeyFile | None) -> str:
    """What to tell people about a handshake that failed; `value` is the event's."""
    if key is None:  # the daemon mostly hangs up before it has said that it wants one
        return (
            f"the handshake with {endpoint} fails: the daemon there wants a key (make one with `sightlogd keys new "
            "NAME`, and give the file as key_file, --key-file or SIGHTLOG_KEY_FILE), or it is not sightlogd that "
            "listens, but perhaps a tunnel whose other end is down"
        )
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and value == 400:
        return (
            f"the daemon at {endpoint} does not allow the key {key.name} ({key.public}). "
            f"Allow it there: sightlogd keys allow {key.name} '{key.public}'"
        )
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return f"the daemon at {endpoint} cannot check keys now. Its log says why"
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return f"what listens at {endpoint} takes no keys. The port is that of [remote] listen in its config.toml"
    return (
        f"the handshake with {endpoint} fails: what listens there takes no keys (the port is that of [remote] listen "
        f"in its config.toml), or is not the daemon that the key file of {key.name} was made for (`sightlogd keys "
        "list` there shows its own key)"
    )
