"""The control socket: `sightlogd purge` and `keys revoke` ask the running daemon. For its user and root only.

One request, a line of JSON; then lines of JSON until the answer is complete: `text` to be shown, at last `exit_code`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import structlog
from msgspec import Struct

from sightlogd.errors import EXIT_IO_ERROR
from sightlogd.protocol.decoder import DECODE_ERRORS
from sightlogd.store.guard import Identity, identity_of

log = structlog.get_logger()

NAME: Final = "control.sock"
REQUEST_BYTES_MAX: Final = 4_096
CLIENTS_MAX: Final = 4
_READABLE: Final = 1  # POLLIN, also zmq's


class PurgeRequest(Struct, tag_field="command", tag="purge", forbid_unknown_fields=True):
    dry_run: bool = False
    force: bool = False
    before: str | None = None
    day: str | None = None


class RevokeRequest(Struct, tag_field="command", tag="revoke", forbid_unknown_fields=True):
    """Drop all producers on other machines: who is still allowed comes back."""


Request = PurgeRequest | RevokeRequest


class Poller(Protocol):
    def register(self, socket: Any, flags: int) -> None: ...

    def unregister(self, socket: Any) -> None: ...


class Client:
    """Somebody who asked. A client that is gone, or does not read, is not waited for."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.heard = b""

    def tell(self, text: str) -> None:
        self._send({"text": text})

    def end(self, exit_code: int) -> None:
        self._send({"exit_code": exit_code})
        self.connection.close()

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(json.dumps(message).encode() + b"\n", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


Answer = Callable[[Request, Client], None]


class Control:
    """Listens in the data directory, with the caller's poller. `answer` has to end the client it is given."""

    def __init__(self, data_dir: Path, poller: Poller, answer: Answer) -> None:
        self._data_dir = data_dir
        self._path = data_dir / NAME
        self._poller = poller
        self._answer = answer
        self._clients: dict[int, Client] = {}
        self._listener: socket.socket | None = None
        self._identity: Identity | None = None
        self._open()

    def _open(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if stat.S_ISSOCK(_mode_of(self._path)):
                self._path.unlink()  # a dead daemon's: this one holds the lock
            with _short(self._data_dir) as short:
                listener.bind(short)
            self._identity = identity_of(self._path)
            self._path.chmod(0o600)
        except OSError as error:
            # A file system without sockets, such as an exFAT stick: everything else works there.
            log.warning(
                "no control socket: sightlogd purge and keys revoke need the daemon to be stopped", reason=str(error)
            )
            listener.close()
            return
        listener.listen(CLIENTS_MAX)
        self._listener = listener
        self._poller.register(listener.fileno(), _READABLE)

    def check(self) -> None:
        """A socket that was removed or replaced is made again, once nothing else is in its place."""
        if self._identity is None or self._is_in_place():  # there never was one, or it still is there
            return
        if self._listener is not None:
            log.warning(f"{NAME} was removed or replaced. Find out who cleans up there")
            self._poller.unregister(self._listener.fileno())
            self._listener.close()
            self._listener = None
        try:
            mode = _mode_of(self._path)
        except OSError:
            return  # looked at again
        if mode == 0 or stat.S_ISSOCK(mode):
            self._open()

    def _is_in_place(self) -> bool:
        try:
            return identity_of(self._path) == self._identity
        except FileNotFoundError:
            return False
        except OSError:
            return True  # a directory that may not be searched tells nothing: it is looked at again

    def serve(self, ready: set[int]) -> None:
        """What the poller found readable."""
        if self._listener is not None and self._listener.fileno() in ready:
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                if len(self._clients) >= CLIENTS_MAX:
                    self._drop(next(iter(self._clients))).connection.close()
                self._clients[connection.fileno()] = Client(connection)
                self._poller.register(connection.fileno(), _READABLE)
        for fd in ready & self._clients.keys():
            self._hear(fd)

    def _hear(self, fd: int) -> None:
        client = self._clients[fd]
        try:
            data = client.connection.recv(REQUEST_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.heard += data
        if data and b"\n" not in client.heard and len(client.heard) < REQUEST_BYTES_MAX:
            return
        self._drop(fd)
        try:
            request = msgspec.json.decode(client.heard, type=Request)
        except DECODE_ERRORS as error:
            client.tell(f"not a request: {error}")
            client.end(EXIT_IO_ERROR)
            return
        self._answer(request, client)

    def _drop(self, fd: int) -> Client:
        self._poller.unregister(fd)
        return self._clients.pop(fd)

    def close(self) -> None:
        for client in self._clients.values():
            client.connection.close()
        if self._listener is not None:
            self._listener.close()
            if self._is_in_place():
                with contextlib.suppress(OSError):
                    self._path.unlink()


def _mode_of(path: Path) -> int:
    """0 when there is nothing."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def ask(data_dir: Path, request: Request, show: Callable[[str], None]) -> int | None:
    """The running daemon's exit code for a request; None when none listens. Raises PermissionError, OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            with _short(data_dir) as short:
                connection.connect(short)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        connection.sendall(msgspec.json.encode(request) + b"\n")
        with connection.makefile("rb") as answers:
            for line in answers:
                message = json.loads(line)
                if "exit_code" in message:
                    return int(message["exit_code"])
                show(message["text"])
    raise ConnectionResetError("the daemon ended before the answer was complete")


@contextlib.contextmanager
def _short(data_dir: Path) -> Iterator[str]:
    """A socket's path has 107 bytes at most, and a data directory may be deep."""
    fd = os.open(data_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)
