"""A service manager for one daemon: hears what it says, and hands it a socket (sd_notify(3), sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

# The daemon gets the socket as descriptor 3, and LISTEN_PID has to be its own.
_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="sightlogd.socket")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Manager:
    """`heard` has every line that was sent to it, in order."""

    def __init__(self, directory: Path) -> None:
        self.address = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(self.address))
        self.heard: list[str] = []
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        with self._socket:
            while data := self._socket.recv(65_536):
                self.heard += data.decode().split("\n")

    def environment(self, watchdog_seconds: float | None = None) -> dict[str, str]:
        watched = {} if watchdog_seconds is None else {"WATCHDOG_USEC": str(int(watchdog_seconds * 1e6))}
        return {"NOTIFY_SOCKET": os.fspath(self.address), **watched}

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", os.fspath(self.address))
        self._thread.join()


def handing_over(listener: socket.socket, program: Sequence[str] = ("-m", "sightlogd")) -> Sequence[str]:
    """The `program` of a Daemon that is handed a listening socket."""
    os.set_inheritable(listener.fileno(), True)
    return ["-c", _HAND_OVER, str(listener.fileno()), *program]


def listener(path: Path) -> socket.socket:
    """As systemd makes it."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(os.fspath(path))
    path.chmod(0o660)
    made.listen(1_024)
    return made
