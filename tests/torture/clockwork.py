"""A store, its day logs and its budget on clocks that are wrong, in this process; and what may be removed of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from sightlog import Event, Observation
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.messages import START, Position
from sightlogd.config import Config
from sightlogd.daylogs import reconcile
from sightlogd.daylogs.writer import DayLogs
from sightlogd.protocol.decoder import decode_record
from sightlogd.protocol.session import Chunk, Session
from sightlogd.retention import policy
from sightlogd.retention.budget import Budget
from sightlogd.retention.usage import Storage
from sightlogd.store import Store

TRUTH: Final = datetime(2027, 3, 1, 9, tzinfo=UTC)
YEARS: Final = timedelta(days=365)
ZONES: Final = ("Europe/Zurich", "America/Santiago", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo", "UTC")
"""Both hemispheres, half an hour of summer time, the far ends of the day."""
EDGES: Final = tuple(
    datetime.fromisoformat(text).replace(tzinfo=UTC)
    for text in (
        "1970-01-01 00:00:02", "2000-02-28 23:59:50", "2028-02-28 23:30:00", "2028-02-29 12:00:00",
        "2027-12-31 22:59:30", "2100-02-28 23:59:59", "2038-01-19 03:14:00",
        # Clocks change: Zurich, Santiago and Lord Howe; forward and back.
        "2027-03-28 00:59:50", "2027-10-31 00:59:50", "2027-04-04 02:59:00", "2027-09-05 03:59:00",
        "2027-04-03 14:59:00", "2027-10-02 15:29:00",
    )
)  # fmt: skip


class Broken(AssertionError):
    """Something was removed, or dated, by mistake."""


@dataclass
class Stored:
    """An event or an observation, as the model knows it."""

    name: str
    day: str
    turn: int


@dataclass
class Turn:
    """A commit: the day by the daemon's clock in UTC, and whether somebody set that clock before it."""

    date: date
    was_set: bool


@dataclass
class Clocks:
    """The daemon's clock goes with the time, unless somebody sets it."""

    true: datetime = TRUTH
    daemon: datetime = TRUTH
    was_set: bool = False

    def advance(self, by: timedelta) -> None:
        self.true += by
        self.daemon += by

    def set(self, to: datetime) -> None:
        self.was_set = self.was_set or to != self.daemon
        self.daemon = to


@dataclass
class Model:
    """What is there, and what may go: written from the promise, not from the code."""

    zone: ZoneInfo
    minimum: int
    records: list[Stored] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def day_of(self, moment: datetime) -> str:
        return moment.astimezone(self.zone).date().isoformat()

    def of(self, day: str) -> list[Stored]:
        return [record for record in self.records if record.day == day]

    def midnights_since(self, turn: int) -> tuple[int, int]:
        """How often the daemon's clock went by itself into a new day on which something was stored; how often it was
        set."""
        later = list(zip(self.turns[turn:], self.turns[turn + 1 :], strict=False))
        went = sum(after.date != before.date and not after.was_set for before, after in later)
        return went, sum(after.was_set for _, after in later)

    def must_stay(self, day: str, now: datetime) -> str | None:
        """Why; one wrong setting of the clock may not make anything old."""
        today = now.astimezone(self.zone).date()
        newest = max([today, *(turn.date for turn in self.turns)])
        if date.fromisoformat(day) <= newest + timedelta(days=1):  # else no clock of the daemon has ever been there
            if date.fromisoformat(day) >= today:
                return f"{day} is not past: it is {today}"
            if date.fromisoformat(day) + timedelta(days=self.minimum) >= today:
                return f"{day} is young: it is {today}"
        went, was_set = self.midnights_since(self.last_turn(day))
        if self.minimum and went + max(0, was_set - 1) < self.minimum:
            return f"{day} was written to {went} days ago, and the clock was set {was_set} times since"
        return None

    def must_go(self, day: str, now: datetime) -> bool:
        """Where no clock was ever set, everything that is old goes."""
        went, _ = self.midnights_since(self.last_turn(day))
        oldest = now.astimezone(self.zone).date() - timedelta(days=self.minimum + 1)
        never_set = not any(turn.was_set for turn in self.turns)
        return never_set and went > self.minimum + 1 and date.fromisoformat(day) < oldest

    def last_turn(self, day: str) -> int:
        return max((record.turn for record in self.of(day)), default=0)


class House:
    """The product: what `sightlogd run` holds, but for the sockets."""

    def __init__(self, data_dir: Path, model: Model, clocks: Clocks) -> None:
        self._clocks = clocks
        self._model = model
        self._seq = 0
        storage = {"min_retention_days": model.minimum, "keep_free_gb": 0.0}
        values = {"store": {"data_dir": str(data_dir), "timezone": model.zone.key}, "storage": storage}
        self._config = msgspec.convert(values, Config)
        self._session = Session("p", "camera", b"", 1, START, START)
        self.open()

    def open(self) -> None:
        config = self._config
        # Power cuts are another attack's; here thousands of commits are wanted.
        self.store = Store(config.data_dir, "NORMAL", clock=lambda: self._clocks.daemon, zone=config.zone())
        storage = Storage(config.data_dir, config.storage)
        self.logs = DayLogs(config.data_dir, self.store, self._failed, storage.grew)
        self.logs.repair(self.store.forget_logged)
        self.budget = Budget(config, self.store, self.logs, storage)
        while self.budget.busy:
            self.budget.step()
        for _ in reconcile.catch_up(self.store, self.logs):
            pass
        self._durable = self._sizes()

    @staticmethod
    def _failed(reason: str) -> None:
        raise Broken(reason)

    def restart(self, *, loses: bool, draw: random.Random) -> None:
        """`loses`: the end of a day log that was not made durable."""
        self.close()
        grown = {log: size - self._durable.get(log, 0) for log, size in self._sizes().items()}
        torn = [log for log, count in grown.items() if count > 0]
        if loses and torn:
            log = draw.choice(torn)
            data = log.read_bytes()
            log.write_bytes(data[: -draw.randint(1, grown[log])])
        self.open()

    def _sizes(self) -> dict[Path, int]:
        return {log: log.stat().st_size for log in sorted(self._config.data_dir.glob("events/*/events.*"))}

    def close(self) -> None:
        self.logs.close_all()
        self.store.close()

    def commit(self, records: list[Event | Observation]) -> None:
        packed = [encode_record(record)[0] for record in records]
        first = Position(1, self._seq + 1)
        self._seq += len(packed)
        chunk = Chunk(self._session, first, [decode_record(record) for record in packed], packed)
        written = self.store.write([chunk], {}, [])
        assert written.exceptions == [[]]
        self.logs.add(written.changes, 0)
        self.logs.write_all()

    def may_go(self) -> Iterator[policy.Day]:
        return self.budget.old_days()

    def remove(self, days: list[policy.Day]) -> None:
        for _ in self.budget.purge(days):
            pass
