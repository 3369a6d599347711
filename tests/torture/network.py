"""The network and the clock of the simulation: connections that break, lose, repeat, overtake and delay."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final

QUEUE_MAX: Final = 8
YEAR: Final = 365 * 86_400.0


class Clock:
    """Stands for the module `time`: one clock that goes, and one on the wall that may be set."""

    def __init__(self) -> None:
        self.now, self.wall = 1_000.0, 1_790_000_000.0

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.wall * 1e9)


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to each message within one connection. ZeroMQ does none of it."""

    lost: float = 0.0
    repeated: float = 0.0
    overtakes: bool = False


FAIR: Final = Faults()


class Queue:
    """One direction of a connection."""

    def __init__(self, clock: Clock, random: random.Random, faults: Faults, slow: float) -> None:
        self._clock, self._random, self._faults = clock, random, faults
        self._delays = (0.0, 0.0, 0.001, 0.02, slow)
        self._messages: list[tuple[float, list[bytes]]] = []

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, frames: list[bytes]) -> None:
        draw, faults = self._random.random, self._faults
        if faults.lost and draw() < faults.lost:
            return
        for _ in range(1 + (faults.repeated > 0 and draw() < faults.repeated)):
            due = self._clock.now + self._random.choice(self._delays)
            if not faults.overtakes and self._messages:
                due = max(due, self._messages[-1][0])
            self._messages.append((due, frames))
        if faults.overtakes:
            self._messages.sort(key=lambda message: message[0])

    @property
    def due(self) -> float:
        return self._messages[0][0] if self._messages else math.inf

    def take(self) -> list[bytes] | None:
        return self._messages.pop(0)[1] if self.due <= self._clock.now else None

    def cut(self) -> list[list[bytes]]:
        """From some message on, nothing arrives; returns what that was."""
        kept = self._random.randint(0, len(self._messages))
        rest = [frames for _, frames in self._messages[kept:]]
        del self._messages[kept:]
        return rest

    def clear(self) -> None:
        self._messages.clear()


class Connection:
    """Two queues. After a cut what is still under way may be read long after a new connection was made."""

    def __init__(self, route: bytes, clock: Clock, random: random.Random, faults: Faults) -> None:
        self.route, self.alive, self.keeps_order = route, True, not faults.overtakes
        slow = random.choice((0.4, 0.4, 8.0))
        self.up = Queue(clock, random, faults, slow)
        self.down = Queue(clock, random, faults, slow)


class Dealer:
    """The producer's end: what `sightlog.publisher.connection` is to a publisher."""

    retry_at = math.inf

    def __init__(self, random: random.Random) -> None:
        self._random = random
        self._unsent: list[list[bytes]] = []
        self.connections: list[Connection] = []

    @property
    def connection(self) -> Connection | None:
        return self.connections[-1] if self.connections and self.connections[-1].alive else None

    def connected(self, connection: Connection) -> None:
        """What the old one did not get rid of may still be sent, before anybody says hello."""
        self.connections.append(connection)
        for frames in self._unsent:
            connection.up.put(frames)
        self._unsent = []

    def cut(self) -> None:
        for connection in self.connections:
            if connection.alive:
                connection.alive = False
                rest = connection.up.cut()
                self._unsent = rest if connection.keeps_order and self._random.random() < 0.3 else []
                connection.down.cut()

    def send(self, frames: list[bytes]) -> bool:
        if self.connection is None or len(self.connection.up) >= QUEUE_MAX:
            return False
        self.connection.up.put([bytes(frame) for frame in frames])
        return True

    def receive(self) -> list[bytes] | None:
        taken = (connection.down.take() for connection in self.connections)
        return next((frames for frames in taken if frames is not None), None)

    @property
    def due(self) -> float:
        return min((connection.down.due for connection in self.connections), default=math.inf)
