"""The sockets that producers come through: the local one, and the one for other machines where there is one."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final

import zmq

from . import descriptors
from .logs import Warnings
from .remote import Remote

LOCAL: Final = b"\0"
"""In front of the routes of the local socket. Those of the remote one have 1 to 255, another one each time it opens."""

# As numbers: an operation on an enum takes longer than the call that it is for.
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

CHECK_SECONDS: Final = 1.0
"""Some thousand connections can come in meanwhile."""


class Doors:
    """Messages of all doors in turn, by routes that are unique among them. `poller` is the caller's."""

    def __init__(self, local: zmq.Socket[bytes], remote: Remote | None, poller: zmq.Poller, warn: Warnings) -> None:
        self._remote = remote
        self._poller = poller
        self._warn = warn
        self._was_short = False
        self.check_at = 0.0 if remote is not None else math.inf
        """When to call `check`, in the clock's seconds."""
        self._routers = {LOCAL: local}
        self._turns = deque([LOCAL])
        self._tag = LOCAL
        poller.register(local, zmq.POLLIN)
        if remote is not None:
            self._let_in(remote)

    def _let_in(self, remote: Remote) -> None:
        self._tag = bytes([self._tag[0] % 255 + 1])
        self._routers[self._tag] = remote.router
        self._turns.append(self._tag)
        self._poller.register(remote.router, zmq.POLLIN)
        self._poller.register(remote.handler, zmq.POLLIN)

    def busy(self, ready: dict[Any, int]) -> int:
        """How many of what the poller found are doors with messages. Answers who wants to come in, besides."""
        if self._remote is not None and self._remote.handler in ready:
            self._remote.answer()
        return sum(router in ready for router in self._routers.values())

    def receive(self) -> tuple[bytes, list[bytes]] | None:
        """(route, frames) of the next message, if there is one."""
        for _ in self._routers:
            tag = self._turns[0]
            self._turns.rotate(-1)
            router = self._routers[tag]
            # Asking first is cheaper than the exception of a recv that finds nothing, at the end of every wake-up.
            if int(router.getsockopt(_EVENTS)) & _POLLIN:
                frame = router.recv(_NOBLOCK, copy=False)
                route, frames = tag + frame.bytes, []
                while frame.more:
                    frame = router.recv(_NOBLOCK, copy=False)
                    frames.append(frame.bytes)
                return route, frames
        return None

    def send(self, route: bytes, frames: list[bytes]) -> bool:
        """False when that producer is gone, or does not read."""
        router = self._routers.get(route[:1])
        if router is None:
            return False
        try:
            router.send(route[1:], _MORE)
            for frame in frames[:-1]:
                router.send(frame, _MORE)
            router.send(frames[-1], _NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def drop_remote(self) -> None:
        """Whoever came from another machine has to come in anew, with a key that is allowed now. Raises Stop."""
        if self._remote is None:
            return
        self._poller.unregister(self._remote.router)
        self._poller.unregister(self._remote.handler)
        del self._routers[self._tag]
        self._turns.remove(self._tag)
        self._remote.close(linger=0)
        self._remote.open()
        self._let_in(self._remote)

    def check(self, now: float) -> None:
        """Before strangers have taken all descriptors, every connection from elsewhere is dropped. Raises Stop.

        libzmq has no limit of its own, and a stranger that says nothing has one until its handshake is overdue.
        """
        self.check_at = now + CHECK_SECONDS
        found = descriptors.count()
        # Once, until it is better: where local producers have most of them, it would be of no use to drop again.
        if found.short and not self._was_short:
            self._warn(
                "descriptors",
                f"too many connections: {found.open} of {found.most} descriptors are in use. All from other machines "
                "are dropped, and those that are allowed come back. Let in only the cameras (IPAddressAllow=)",
            )
            self.drop_remote()
        self._was_short = found.short

    def close(self) -> None:
        """Of the remote door: the last acks leave."""
        if self._remote is not None:
            self._remote.close()
