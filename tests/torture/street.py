"""What stands in for the outside of a daemon in a life: producers, the sockets they come through, the decoder."""

from __future__ import annotations

import os
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pictures

from sightlog import Amendment, Detection, Event, Observation
from sightlog.protocol import messages
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.messages import START, Ack, Busy, Position, Resync, Welcome
from sightlog.records import now_utc
from sightlogd.thumbnails import worker

EPOCH: Final = 1_700_000_000_000
NAMES: Final = ("camera", "detector")


class Producer:
    """Keeps what was not acked, and sends it again. Its ledger is outside of what fails."""

    def __init__(self, home: Path, name: str, count: int, *, with_bad: bool) -> None:
        self.name, self.route = name, name.encode()
        self.ledger = home / f"{name}.ledger"
        self._state = home / f"{name}.acked"
        self.acked = int(self._state.read_text()) if self._state.exists() else 0
        self.stream: list[tuple[bytes, bytes]] = []
        self._events: list[tuple[str, int]] = []
        base = NAMES.index(name) << 64
        for number in range(count):
            event_id = str(uuid.UUID(int=base + number + (1 << 100)))
            image = (None, pictures.jpeg(number), pictures.png())[number % 3]
            event = Event(
                name, event_id=event_id, recording_id=name, recorded_at=now_utc(),
                detections=[Detection("person", 0.5, (1, 2, 3, 4))] * 3, llm_description="somebody at the door",
                thumbnail=image,
            )  # fmt: skip
            amended = Amendment(
                event_id, person_name=name, detections=[Detection("face", 0.5)], llm_description=f"{name} at the door",
                embedding=[0.5, 0.25], embedding_model="face",
            )  # fmt: skip
            seen = Observation(
                f"{name} was there", "llm", event_id, observation_id=f"o-{event_id}", recorded_at=now_utc()
            )
            # A duplicate makes the batch be written record by record.
            records = [event, amended, seen, *([seen] if with_bad and number % 2 else [])]
            self.stream += map(encode_record, records)
            self._events.append((event_id, len(self.stream)))
        if count and not self.ledger.exists():
            self.ledger.write_text("".join(f"P {event_id}\n" for event_id, _ in self._events))
        self.busy = 0
        self.greet()

    def greet(self) -> None:
        self.greeted, self.asked, self.sent = False, False, self.acked

    @property
    def done(self) -> bool:
        return self.acked == len(self.stream)

    def say(self) -> list[bytes] | None:
        """The next message, if there is one to send now."""
        if not self.greeted:
            if self.asked:
                return None
            self.asked = True
            return messages.hello(
                str(uuid.UUID(int=NAMES.index(self.name) + 1)), self.name, EPOCH, self.at(self.acked + 1)
            )
        if self.sent == len(self.stream):
            return None
        some = self.stream[self.sent : self.sent + 2]
        first = self.at(self.sent + 1)
        self.sent += len(some)
        return messages.records(first, [record for record, _ in some], [image for _, image in some], flush=True)

    def at(self, seq: int) -> Position:
        return Position(EPOCH, seq)

    def hear(self, frames: list[bytes]) -> bool:
        """Whether something was acked by it."""
        reply = messages.decode_reply(frames)
        before = self.acked
        if isinstance(reply, Welcome):
            self.greeted = True
            self._resolve(reply.last)
            self.sent = self.acked
        elif isinstance(reply, Ack):
            self._resolve(reply.last)
        elif isinstance(reply, Busy):
            self.busy += 1
            self.greet()
        elif isinstance(reply, Resync):
            self.greet()
        return self.acked > before

    def _resolve(self, last: Position) -> None:
        if last != START and last.seq > self.acked:
            for event_id, end in self._events:
                if self.acked < end <= last.seq:
                    with self.ledger.open("a") as file:
                        file.write(f"A {event_id}\n")
            self.acked = last.seq
            self._state.write_text(str(self.acked))


class Street:
    """In place of the sockets: all producers, who are always there."""

    producers: tuple[Producer, ...] = ()
    on_ack: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *_: Any) -> None:
        self.check_at = float("inf")
        self._messages: deque[tuple[bytes, list[bytes]]] = deque()

    def busy(self, _ready: Any, _now: float) -> int:
        for producer in self.producers:
            if (message := producer.say()) is not None:
                self._messages.append((producer.route, message))
        return bool(self._messages)

    def receive(self) -> tuple[bytes, list[bytes]] | None:
        return self._messages.popleft() if self._messages else None

    def send(self, route: bytes, frames: list[bytes]) -> bool:
        producer = next(one for one in self.producers if one.route == route)
        if producer.hear(frames):
            self.on_ack()
        return True

    def close(self) -> None:
        pass


class Decoder:
    """In place of the decoder's process, so that the disk can fail below it at a known moment."""

    deadline = float("inf")
    idle = True
    absent = False

    def __init__(self, command: list[str], _seconds: float) -> None:
        self._target = Path(command[5])
        self._answer: worker.Answer | None = None
        self._pipe = os.pipe()[0]

    def fileno(self) -> int:
        return self._pipe

    def ask(self, _event_id: str, _now: float) -> None:
        try:
            fd = os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with open(fd, "wb") as file:
                file.write(pictures.jpeg(7))
                file.flush()
                os.fsync(fd)
            self._answer = worker.Answer(worker.Outcome.DONE, "")
        except OSError as error:
            self._answer = worker.Answer(worker.Outcome.FAILED, str(error))

    def step(self, _now: float) -> worker.Answer | None:
        answer, self._answer = self._answer, None
        return answer

    def close(self) -> None:
        pass
