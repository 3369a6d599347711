"""What the daemon tells the service manager, and the socket it is handed (sd_notify(3), sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from sightlogd.errors import EXIT_CONFIG, Stop

SEND_SECONDS: Final = 1.0
"""The manager's queue is short, and it may be busy."""
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_USEC_DIGITS_MAX: Final = 20  # of a 64-bit number


class Notifier:
    """Without a manager it says nothing. What cannot be delivered is not worth a daemon that stops for it."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        # Taken out, so that no child can speak for the daemon.
        self._address = environment.pop("NOTIFY_SOCKET", "")
        watched = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        usec = environment.pop("WATCHDOG_USEC", "")
        is_number = usec.isascii() and usec.isdigit() and len(usec) <= _USEC_DIGITS_MAX
        self.watchdog_seconds = int(usec) / 1e6 if watched and is_number else None
        """Silent for as long, and the daemon is killed. None: nobody watches."""

    @property
    def is_heard(self) -> bool:
        return bool(self._address)

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        self._send("RELOADING=1")

    def stopping(self, status: str) -> None:
        self._send("STOPPING=1", f"STATUS={_line(status)}")

    def extend(self, seconds: float) -> None:
        """Starting, or stopping, takes so much longer from now on."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        # "@" is an abstract socket.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.settimeout(SEND_SECONDS)
                out.sendto("\n".join(assignments).encode(), address)
        except OSError:
            pass  # the log says the same


def _line(text: str) -> str:
    return " ".join(text.split())


def handed_over(environment: MutableMapping[str, str]) -> socket.socket | None:
    """The listening socket that the manager made, or None. Raises Stop when it is none for producers."""
    for_us = environment.pop("LISTEN_PID", "") == str(os.getpid())
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if not for_us or not count:
        return None
    wrong = Stop(
        EXIT_CONFIG,
        "what was handed over is not exactly one listening stream socket on a path. Compare sightlogd.socket with the "
        "unit that sightlog installs",
    )
    if count != "1":
        raise wrong
    try:
        os.set_inheritable(_FIRST_FD, False)
        handed = socket.socket(fileno=_FIRST_FD)
    except OSError as error:  # no descriptor, or none of a socket
        raise wrong from error
    listens = handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    name = handed.getsockname() if handed.family == socket.AF_UNIX else b""
    if not listens or handed.type != socket.SOCK_STREAM or not isinstance(name, str) or not name.startswith("/"):
        raise wrong
    return handed
