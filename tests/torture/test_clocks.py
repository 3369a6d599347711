"""Clocks that are wrong, are set, and change with the seasons: days stay right, and nothing is removed by mistake."""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from unittest import mock
from zoneinfo import ZoneInfo

import daylogs
import pytest
from clockwork import EDGES, TRUTH, YEARS, ZONES, Broken, Clocks, House, Model, Stored, Turn
from lab import often

from sightlog import Event, Observation
from sightlog.protocol.encoding import format_time
from sightlogd.calendar import Days
from sightlogd.recovery.rebuild import rebuild_from_logs
from sightlogd.retention import budget, policy

WALKS = often(25, 200)
STEPS = 40
CONTROL_WALKS_MAX = 60
ROOM = Path("/dev/shm")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Each day that goes is told."""
    monkeypatch.setattr(budget, "log", mock.Mock())


class Walk:
    """A daemon and three cameras: one whose clock is the daemon's, one that is right, one that is a year behind."""

    def __init__(self, draw: random.Random, data_dir: Path) -> None:
        self.random, self.data_dir = draw, data_dir
        self.zone = ZoneInfo(draw.choice(ZONES))
        self.model = Model(self.zone, draw.choice((0, 1, 2, 7)))
        self.jumps = draw.choice((0.0, 0.03, 0.3))
        self.clocks = Clocks()
        if self.jumps:
            self.clocks.daemon = draw.choice((TRUTH, EDGES[0], TRUTH + 20 * YEARS))
        data_dir.mkdir()
        self.house = House(data_dir, self.model, self.clocks)
        self.names = 0
        self.removed = self.settings = 0

    def run(self) -> None:
        try:
            for _ in range(STEPS):
                self.step()
            self.check_files()
        finally:
            self.house.close()

    def step(self) -> None:
        draw, clocks = self.random, self.clocks
        clocks.advance(draw.choice((timedelta(seconds=20), timedelta(hours=5), timedelta(days=1), timedelta(days=1))))
        if draw.random() < self.jumps:
            self.set_the_clock()
        if draw.random() < 0.9:
            self.store()
        if draw.random() < 0.1:
            self.house.restart(loses=draw.random() < 0.5, draw=draw)
        if draw.random() < 0.5:
            self.remove()

    def set_the_clock(self) -> None:
        clocks, draw = self.clocks, self.random
        clocks.set(
            draw.choice(
                [
                    clocks.true, clocks.true, clocks.daemon + 20 * YEARS, clocks.daemon - 20 * YEARS,
                    clocks.daemon + timedelta(hours=1), clocks.daemon - timedelta(hours=1), draw.choice(EDGES),
                ]
            )
        )  # fmt: skip
        clocks.daemon = max(clocks.daemon, EDGES[0])
        self.settings += 1

    def store(self) -> None:
        draw, clocks, model = self.random, self.clocks, self.model
        records: list[Event | Observation] = []
        for _ in range(draw.randint(1, 4)):
            self.names += 1
            at = draw.choice((clocks.daemon, clocks.true, clocks.true - YEARS, clocks.daemon - timedelta(days=3)))
            at = at.replace(microsecond=0)
            if draw.random() < 0.8:
                records.append(Event("door", event_id=f"e{self.names}", recorded_at=at))
            else:
                records.append(Observation("wet", "llm", observation_id=f"o{self.names}", recorded_at=at))
        # Events of a batch come before its observations, whatever their order.
        records.sort(key=lambda record: isinstance(record, Observation))
        self.house.commit(records)
        model.turns.append(Turn(clocks.daemon.date(), clocks.was_set))
        clocks.was_set = False
        for record in records:
            name = record.event_id if isinstance(record, Event) else record.observation_id
            model.records.append(Stored(name, model.day_of(record.recorded_at), len(model.turns) - 1))

    def remove(self) -> None:
        """All that may go, as on a disk that never has room."""
        model, now = self.model, self.clocks.daemon
        days = list(self.house.may_go())
        for day in days:
            if why := model.must_stay(day.name, now):
                raise Broken(f"{day.name} would go: {why} (min_retention_days = {model.minimum})")
        stay = {record.day for record in model.records} - {day.name for day in days}
        for name in sorted(stay):
            if model.must_go(name, now):
                raise Broken(f"{name} is kept for ever: it is {now}")
        for day in days:
            count = len(model.of(day.name))
            if count != day.events + day.observations:
                raise Broken(f"{day.name} has {count}, and {day.contents} would go")
        self.house.remove(days)
        going = {day.name for day in days}
        self.removed += len(going)
        model.records = [record for record in model.records if record.day not in going]

    def check_files(self) -> None:
        """The rows are those of the model, in the order of their commits; each line is in its day's folder; and a
        database made of the lines is the same."""
        self.house.logs.sync()
        expected = [record.name for record in self.model.records]
        rows = daylogs.rows(self.house.store.path)
        both = sorted((row[0], row[1]) for table in ("events", "observations") for row in rows[table])
        if [name for _, name in both] != expected:
            raise Broken("not in the order of commits")
        by_day: dict[str, list[str]] = {}
        for file in sorted(self.data_dir.glob("events/*/events.json")):
            lines = [line for line in map(json.loads, file.read_bytes().splitlines()) if line["kind"] != "day"]
            by_day[file.parent.name] = [line.get("observation_id") or line["event_id"] for line in lines]
        for record in self.model.records:
            if record.name not in by_day.get(record.day, []):
                raise Broken(f"{record.name} is not in the folder of {record.day}")
        if sum(map(len, by_day.values())) != len(expected):
            raise Broken("a line is there twice, or of a day that went")
        new = self.data_dir.with_suffix(".db")
        rebuild_from_logs(self.data_dir, new, lambda *_: None)
        made = daylogs.rows(new)
        for table in ("events", "observations"):
            if made[table] != rows[table]:
                raise Broken(f"{table} differ in a database made from the logs")


def walk(seed: int) -> Walk:
    """Raises Broken, with the seed."""
    room = ROOM if ROOM.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="sightlog-", dir=room))
    try:
        taken = Walk(random.Random(seed), directory / "data")
        taken.run()
    except Exception as error:
        error.add_note(f"repeat: walk({seed}) of tests/torture/test_clocks.py")
        raise
    finally:
        shutil.rmtree(directory)
    return taken


@pytest.mark.timeout(60 + WALKS * 3)
def test_wherever_clocks_go_days_are_right_and_nothing_goes_by_mistake(attack):
    attack.on("P3, P8", "random walks of the daemon's and the cameras' clocks (1970, ±20 years, summer time, leap "
              "days, year ends) with all removed that may go", "walks")  # fmt: skip
    seeds = attack.random()
    removed = settings = 0
    for _ in range(WALKS):
        taken = walk(seeds.getrandbits(48))
        removed, settings = removed + taken.removed, settings + taken.settings
        attack.runs += 1
    assert removed > WALKS / 4
    assert settings > WALKS / 4
    attack.note = f"{removed:,} days removed, {settings:,} settings of the clock"


def changes(zone: ZoneInfo) -> Iterator[datetime]:
    """The seconds at which its clocks are changed."""
    step, before = timedelta(days=25), datetime(1880, 1, 1, tzinfo=UTC)
    while before.year < 2045:
        low, high = before, before + step
        offset = low.astimezone(zone).utcoffset()
        if high.astimezone(zone).utcoffset() != offset:
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if middle.astimezone(zone).utcoffset() == offset else (low, middle)
            yield high.replace(microsecond=0)
        before += step


@pytest.mark.timeout(600)
def test_a_moment_is_within_its_own_day_in_every_zone_whatever_its_clocks_do(attack):
    attack.on("P3", "days of moments around every change of clocks since 1880, in all zones", "moments")
    draw = attack.random()
    zones = sorted(zoneinfo.available_timezones())
    for name in draw.sample(zones, often(20, len(zones))):
        zone = ZoneInfo(name)
        days = Days(zone)
        around = [timedelta(seconds=draw.randint(-100_000, 100_000)) for _ in range(5)]
        around += [timedelta(seconds=second) for second in (-3_600, -1_800, -60, -1, 0, 1, 60, 1_800, 3_600, 5_400)]
        for moment in [change + by for change in changes(zone) for by in around]:
            text = format_time(moment)
            day = days.day_of(text)
            _, first, after, _ = days.range_of(day)
            assert first <= text < after, name
            assert days.range_of((date.fromisoformat(day) + timedelta(days=1)).isoformat()).first == after, name
            assert abs(date.fromisoformat(day) - moment.astimezone(zone).date()) <= timedelta(days=1), name
            attack.runs += 1


def without_clock_days(monkeypatch) -> None:
    monkeypatch.setattr(
        policy, "may_go", lambda day, today, last, _clock_days, rules: policy.is_old(day.name, today, last, rules)
    )


def without_today(monkeypatch) -> None:
    as_it_is = policy.is_past
    monkeypatch.setattr(policy, "is_past", lambda name, today, rules: name == today or as_it_is(name, today, rules))
    monkeypatch.setattr(budget.Budget, "today", property(lambda self: self._store.now()[:10]))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("protection", "switch_off"),
    [
        ("days on which the daemon ran (clock_days)", without_clock_days),
        ("the day of the configured zone", without_today),
    ],
    ids=["clock_days", "zone"],
)
def test_without_the_rule_a_removal_by_mistake_is_seen(protection, switch_off, attack, monkeypatch):
    attack.without("P8", protection, "walks")
    switch_off(monkeypatch)
    seeds = attack.random()
    while not attack.caught and attack.runs < CONTROL_WALKS_MAX:
        attack.runs += 1
        try:
            walk(seeds.getrandbits(48))
        except Broken as broken:
            attack.caught += 1
            attack.note = str(broken)[:100]
    assert attack.caught


MAY_READ_THE_WALL_CLOCK = {
    "clients/sightlog/records.py",  # when something was seen, and ids that grow with it
    "clients/sightlog/spool/identity.py",  # the epoch of a life
    "clients/sightlog/protocol/encoding.py",  # in a message, as advice
    "clients/sightlog/reader/reader.py",  # what is ahead of it
    "clients/sightlog/cli/commands/demo.py", "clients/sightlog/cli/times.py", "clients/sightlog/cli/commands/events.py",
    "clients/sightlog/cli/commands/status.py", "daemon/sightlogd/recovery/audit.py", "daemon/sightlogd/service/loop.py",
    "daemon/sightlogd/metrics/report.py", "daemon/sightlogd/store/tools/offline.py", "daemon/sightlogd/store/store.py",
}  # fmt: skip
reads_it = re.compile(
    r"\b(time\.time(_ns)?\(|datetime\.(now|today|utcnow)\(|date\.today\(|localtime\(\)|gmtime\(\))"
).search


def test_timeouts_and_pauses_are_not_of_the_wall_clock():
    """Whoever reads it writes a moment down, or says how long ago one was."""
    root = Path(__file__).parents[2]
    sources = [path for place in ("clients/sightlog", "daemon/sightlogd") for path in (root / place).rglob("*.py")]
    readers = {str(path.relative_to(root)) for path in sources if reads_it(path.read_text(encoding="utf-8"))}
    assert readers == MAY_READ_THE_WALL_CLOCK
