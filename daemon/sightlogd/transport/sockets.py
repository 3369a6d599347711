"""The sockets that producers come through: the local one, and the one for other machines where there is one."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from typing import Any, Final

import structlog
import zmq

from sightlogd import descriptors
from sightlogd.logs import Warnings

from .accepting import Gate
from .local import Listener
from .remote import Remote

log = structlog.get_logger()

# As numbers: an operation on an enum takes longer than the call that it is for.
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

MESSAGE_BYTES_HELD: Final = 16 * 1024 * 1024
"""Of one message, in all its frames; an honest one has less than 5 MiB. What is beyond is not kept, and the message is
malformed then."""
ADMIT_SECONDS: Final = 0.005
"""For how long connections come in, one behind the other, before messages are read again: a turn may have a commit in
it, and hundreds of producers come back at once when the daemon was away."""
ACCEPT_SECONDS: Final = 0.0002
"""libzmq's thread takes a connection meanwhile."""
FULL_SECONDS: Final = 1.0
"""Between two looks whether there is room again."""
ROOM_SHARE: Final = 1 / 16
"""Of all connections: with less room than that it is soon full again, and the log does not say otherwise."""


class Sockets:
    """Messages of all doors in turn, by routes that are unique among them. `poller` is the caller's."""

    def __init__(self, local: Listener, remote: Remote | None, poller: zmq.Poller, warn: Warnings) -> None:
        self._local = local
        self._remote = remote
        self._poller = poller
        self._warn = warn
        self.check_at = math.inf
        """When to call `check`, in the clock's seconds."""
        self._routers: dict[bytes, zmq.Socket[bytes]] = {}
        self._gates: dict[bytes, Gate] = {}
        self._room: dict[bytes, int] = {}
        """By door: how many may come in before descriptors are counted again."""
        self._full: set[bytes] = set()
        """Doors that let nobody in, as far as the log was told."""
        self._turns: deque[bytes] = deque()
        self._tags = itertools.cycle(bytes([number]) for number in range(256))
        """In front of routes: those of a socket that was closed are none of the next one's."""
        self._local_tag = self._open(local.router, local.gate)
        self._remote_tag = self._open_remote(remote) if remote is not None else b""

    def _open(self, router: zmq.Socket[bytes], gate: Gate | None) -> bytes:
        assert gate is not None
        tag = next(self._tags)
        self._routers[tag], self._gates[tag], self._room[tag] = router, gate, 0
        self._turns.append(tag)
        self._poller.register(router, zmq.POLLIN)
        self._poller.register(gate.fileno(), zmq.POLLIN)
        return tag

    def _open_remote(self, remote: Remote) -> bytes:
        self._poller.register(remote.handler, zmq.POLLIN)
        return self._open(remote.router, remote.gate)

    def _close(self, tag: bytes) -> None:
        """Before its socket."""
        self._poller.unregister(self._routers.pop(tag))
        gate = self._gates.pop(tag)
        if gate.fileno() in self._poller:  # nobody waits for it while it is full
            self._poller.unregister(gate.fileno())
        del self._room[tag]
        self._full.discard(tag)
        self._turns.remove(tag)

    def busy(self, ready: dict[Any, int], now: float) -> int:
        """How many of what the poller found are doors with messages. Lets in who waits, besides. Raises Stop."""
        if self._remote is not None and self._remote.handler in ready:
            self._remote.answer()
        for tag, gate in self._gates.items():
            if gate.fileno() in ready:
                until = now + ADMIT_SECONDS
                while self._admit(tag, gate, now) and gate.is_waited_at() and time.monotonic() < until:
                    pass
        return sum(router in ready for router in self._routers.values())

    def _admit(self, tag: bytes, gate: Gate, now: float) -> bool:
        """One, as long as there are descriptors for it and for everything else; False when there are none."""
        if self._room[tag] <= 0:
            found = descriptors.count()
            self._room[tag] = found.room(remote=tag == self._remote_tag)
            if self._room[tag] == 0:
                self._full.add(tag)
                self._poller.unregister(gate.fileno())
                self.check_at = now + FULL_SECONDS
                whence = "from other machines " if tag == self._remote_tag else ""
                self._warn(
                    f"full {whence}",
                    f"too many connections: {found.open} of {found.most} descriptors are in use. Those that are there "
                    f"go on, and no more are let in {whence}before some end. "
                    "Find out who connects so often (ss -xp, ss -tp)",
                )
                return False
            if tag in self._full and self._room[tag] >= found.admitted * ROOM_SHARE:
                self._full.discard(tag)
                log.info("connections are let in again", open=found.open)
        # Asked again before libzmq did it, this counts twice: then descriptors are counted sooner.
        self._room[tag] -= 1
        gate.admit()
        time.sleep(ACCEPT_SECONDS)
        return True

    def check(self) -> None:
        """Whether there is room again for those who wait."""
        self.check_at = math.inf
        for tag in self._full & self._gates.keys():
            self._poller.register(self._gates[tag].fileno(), zmq.POLLIN)

    def receive(self) -> tuple[bytes, list[bytes]] | None:
        """(route, frames) of the next message, if there is one."""
        for _ in self._routers:
            tag = self._turns[0]
            self._turns.rotate(-1)
            router = self._routers[tag]
            # Asking first is cheaper than the exception of a recv that finds nothing, at the end of every wake-up.
            if int(router.getsockopt(_EVENTS)) & _POLLIN:
                frame = router.recv(_NOBLOCK, copy=False)
                route, frames, size = tag + frame.bytes, [], 0
                while frame.more:
                    frame = router.recv(_NOBLOCK, copy=False)
                    size += len(frame)
                    if size <= MESSAGE_BYTES_HELD:
                        frames.append(frame.bytes)
                return route, frames if size <= MESSAGE_BYTES_HELD else []
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
        self._poller.unregister(self._remote.handler)
        self._close(self._remote_tag)
        self._remote.close(linger=0)
        self._remote.open()
        self._remote_tag = self._open_remote(self._remote)

    def drop_all(self) -> None:
        """Everybody, with the messages that wait in memory: their producers have them in their spools. Raises Stop."""
        self.drop_remote()
        self._close(self._local_tag)
        self._local.drop()
        self._local_tag = self._open(self._local.router, self._local.gate)

    def close(self) -> None:
        """Of the remote door: the last acks leave."""
        if self._remote is not None:
            self._remote.close()
