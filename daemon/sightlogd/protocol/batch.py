"""How many records go into one transaction, and when it is time. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from .session import Chunk, DeadLetter


class Reason(Enum):
    """Why a batch is committed."""

    FULL = "full"
    FLUSH = "flush"
    LINGER = "linger"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class BatchLimits:
    records_max: int
    bytes_max: int
    linger_seconds: float


@dataclass(slots=True)
class Batch:
    """Records waiting for their commit. Times are seconds of one monotonic clock."""

    limits: BatchLimits
    chunks: list[Chunk] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    records: int = 0
    size: int = 0
    _first_at: float = 0.0
    _flush: bool = False

    def __bool__(self) -> bool:
        return bool(self.chunks or self.dead_letters)

    def add(self, chunk: Chunk, now: float) -> None:
        self._begin(now)
        self.chunks.append(chunk)
        self.records += len(chunk.records)
        self.size += chunk.size

    def add_dead_letter(self, dead_letter: DeadLetter, now: float) -> None:
        self._begin(now)
        self.dead_letters.append(dead_letter)
        self.records += 1
        self.size += len(dead_letter.message)

    def _begin(self, now: float) -> None:
        if not self:
            self._first_at = now

    def flush(self) -> None:
        """Somebody waits for the ack: do not wait for more."""
        self._flush = bool(self)

    @property
    def full(self) -> bool:
        return self.records >= self.limits.records_max or self.size >= self.limits.bytes_max

    @property
    def deadline(self) -> float | None:
        """When to commit at the latest; counted from the first record, so that a steady trickle cannot put it off."""
        return self._first_at + self.limits.linger_seconds if self else None

    def due(self, now: float) -> Reason | None:
        """Why to commit now, or None."""
        if not self:
            return None
        if self.full:
            return Reason.FULL
        if self._flush:
            return Reason.FLUSH
        return Reason.LINGER if self.deadline is not None and now >= self.deadline else None

    def clear(self) -> None:
        self.chunks, self.dead_letters = [], []
        self.records = self.size = 0
        self._flush = False
