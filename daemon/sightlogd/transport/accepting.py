"""Connections come in one at a time, when the loop says so: libzmq takes whatever comes, and aborts the process when no
descriptor is left for it (`ipc`; by tcp it goes round in a circle).

The listening socket is ours, and libzmq's I/O thread waits for it with epoll. So what it waits for is set to one event,
and then none until the next (EPOLLONESHOT): one `admit`, one connection. Who is not let in waits in the kernel's queue,
as while a daemon is being restarted, and those who are in go on. (To close the listening socket would end them: libzmq
makes its connections children of that.)
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import time
from typing import Final

from sightlogd.errors import EXIT_IO_ERROR, Stop

HOLD_SECONDS: Final = 10.0
"""libzmq's thread begins to wait for the socket soon after it is bound; on a machine that has much to do, later."""


class _Event(ctypes.Structure):
    """struct epoll_event, which is packed on x86-64 alone."""

    _pack_ = 1 if os.uname().machine == "x86_64" else 0
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


_MOD: Final = 3  # EPOLL_CTL_MOD
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Gate:
    """Of one listening socket. Bind libzmq to `hand_over()`, a descriptor of its own, then `hold`."""

    def __init__(self, server: socket.socket) -> None:
        server.setblocking(False)  # a peer that is gone before it is accepted must not hold up the others
        self._server = server
        self._poll = select.poll()
        self._poll.register(server, select.POLLIN)
        self._handed = -1
        self._epoll = -1
        self._data = 0

    def hand_over(self) -> int:
        """For each socket of libzmq that is bound to it, one behind the other."""
        self._handed = os.dup(self._server.fileno())
        return self._handed

    def fileno(self) -> int:
        """Readable while somebody waits to come in."""
        return self._server.fileno()

    def hold(self) -> None:
        """From here on nobody comes in by himself. Raises Stop."""
        deadline = time.monotonic() + HOLD_SECONDS
        while (found := _registration(self._handed)) is None:
            if time.monotonic() >= deadline:
                raise Stop(
                    EXIT_IO_ERROR,
                    "libzmq does not wait for connections with epoll, so they cannot be bounded. Install pyzmq from "
                    "PyPI, on a system whose /proc/self/fdinfo shows what epoll waits for",
                )
            time.sleep(0.001)
        self._epoll, self._data = found
        self._wait_for(0)

    def is_waited_at(self) -> bool:
        """Whether somebody waits to come in."""
        return bool(self._poll.poll(0))

    def admit(self) -> None:
        """At most one more."""
        self._wait_for(select.EPOLLIN | select.EPOLLONESHOT)

    def _wait_for(self, events: int) -> None:
        event = _Event(events, self._data)
        if _libc.epoll_ctl(self._epoll, _MOD, self._handed, ctypes.byref(event)):
            number = ctypes.get_errno()
            raise Stop(EXIT_IO_ERROR, f"cannot let connections in: {os.strerror(number)}. Start the daemon again")

    def close(self) -> None:
        """Behind libzmq's socket."""
        self._server.close()


def _registration(fd: int) -> tuple[int, int] | None:
    """Which epoll waits for it, and the data that goes with it (proc(5), fdinfo)."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") != "anon_inode:[eventpoll]":
                continue
            with open(f"/proc/self/fdinfo/{name}", "rb") as info:
                for line in info:
                    words = line.split()
                    if words[:1] == [b"tfd:"] and int(words[1]) == fd:
                        return int(name), int(words[5], 16)
        except FileNotFoundError:  # closed meanwhile
            continue
    return None
