"""A real daemon and real producers whose clocks are set while they run, killed and started anew in between."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import daylogs
import pytest
from clockwork import EDGES, YEARS, ZONES, Broken, Clocks, Model, Stored, Turn
from lab import often

from sightlog import Event
from sightlog.spool import identity

ROUNDS = often(10, 60)
WRAPPED = str(Path(__file__).with_name("odd_clock.py"))
PRODUCERS = {"right": timedelta(0), "behind": -YEARS}
COMMAND = Path(sys.executable).with_name("sightlogd")


class Site:
    """A daemon, a camera whose clock is right, and one that is a year behind; and the model of what is stored."""

    def __init__(self, daemon, draw: random.Random, monkeypatch, mode: str) -> None:
        self.daemon, self.random, self.mode = daemon, draw, mode
        self.model = Model(ZoneInfo(draw.choice(ZONES)), draw.choice((1, 2)))
        self.off = daemon.home / "off"
        self.clocks = Clocks(datetime.now(UTC), datetime.now(UTC))
        self.epochs = SimpleNamespace(time_ns=time.time_ns)
        monkeypatch.setattr(identity, "time", self.epochs)
        self.names = self.removed = 0
        self.tell_the_time()
        daemon.settings = (
            f'[store]\ntimezone = "{self.model.zone.key}"\n'
            f"[storage]\nkeep_free_gb = 0.0\nmin_retention_days = {self.model.minimum}\n"
        )
        self.start()
        self.cameras = {name: daemon.publisher(name) for name in PRODUCERS}

    def start(self) -> None:
        self.daemon.start(program=(WRAPPED, str(self.off), self.mode))

    def tell_the_time(self) -> None:
        seconds = (self.clocks.daemon - datetime.now(UTC)).total_seconds()
        new = self.off.with_suffix(".new")
        new.write_text(f"{seconds}")
        os.replace(new, self.off)

    def set_the_clock(self) -> None:
        clocks, draw = self.clocks, self.random
        clocks.set(
            draw.choice([clocks.true, clocks.daemon + 20 * YEARS, clocks.daemon - 20 * YEARS, draw.choice(EDGES)])
        )
        clocks.daemon = max(clocks.daemon, EDGES[0])

    def step(self) -> None:
        draw = self.random
        self.clocks.advance(draw.choice((timedelta(minutes=1), timedelta(days=1), timedelta(days=1))))
        if draw.random() < 0.4:
            self.set_the_clock()
        self.tell_the_time()
        for name in PRODUCERS:
            self.publish(name)
        if draw.random() < 0.2:
            if draw.random() < 0.5:
                self.daemon.kill()
            else:
                assert self.daemon.stop() == 0
            self.start()
        if draw.random() < 0.2:
            self.start_camera(draw.choice(list(PRODUCERS)))
        if draw.random() < 0.4:
            self.remove()

    def a_good_week(self) -> None:
        """The clock is right, and things get old."""
        self.clocks.set(self.clocks.true)
        for _ in range(7):
            self.clocks.advance(timedelta(days=1))
            self.tell_the_time()
            self.publish("right")
        self.remove()

    def start_camera(self, name: str) -> None:
        """Its own clock is anywhere: a new life has to have a larger epoch all the same."""
        self.cameras[name].close()
        moment = self.random.choice(EDGES)
        self.epochs.time_ns = lambda: int(moment.timestamp() * 10**9)
        self.cameras[name] = self.daemon.publisher(name)

    def publish(self, name: str) -> None:
        events = []
        for _ in range(self.random.randint(1, 3)):
            self.names += 1
            base = self.random.choice((self.clocks.true, self.clocks.daemon)) + PRODUCERS[name]
            at = max(base, EDGES[0]).replace(microsecond=0)
            events.append(Event(name, event_id=f"e{self.names}", recorded_at=at))
        result = self.cameras[name].insert_events(events)
        assert result.stored == len(events)
        with closing(sqlite3.connect(f"file:{self.daemon.database}?mode=ro", uri=True)) as connection:
            ids = ", ".join(f"'{event.event_id}'" for event in events)
            found = connection.execute(f"SELECT event_id, created_at FROM events WHERE event_id IN ({ids}) ORDER BY id")
            rows = found.fetchall()
        assert [row[0] for row in rows] == [event.event_id for event in events]
        # By itself the clock goes on while all this runs.
        dates = {datetime.fromisoformat(row[1]).date() for row in rows}
        assert dates <= {self.clocks.daemon.date(), (self.clocks.daemon + timedelta(minutes=2)).date()}
        self.model.turns.append(Turn(max(dates), self.clocks.was_set))
        self.clocks.was_set = False
        for event in events:
            day = self.model.day_of(event.recorded_at)
            self.model.records.append(Stored(event.event_id, day, len(self.model.turns) - 1))

    def remove(self) -> None:
        """All that may go by the daemon's rules."""
        command = [COMMAND, "purge", "--config", self.daemon.home / "config.toml", "--data-dir", self.daemon.data_dir]
        before = self.clocks.daemon
        done = subprocess.run(
            [*command, "--before", "9999-12-31"], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        going = [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("removed ")]
        for day in going:
            if why := self.model.must_stay(day, before + timedelta(minutes=2)):
                raise Broken(f"{day} went: {why} (min_retention_days = {self.model.minimum})")
        self.removed += len(going)
        self.model.records = [record for record in self.model.records if record.day not in going]

    def check(self) -> None:
        assert self.daemon.stop() == 0
        rows = daylogs.rows(self.daemon.database)["events"]
        assert [row[1] for row in rows] == [record.name for record in self.model.records], "the order of commits"
        lines = {
            (file.parent.name, line)
            for file in self.daemon.data_dir.glob("events/*/events.json")
            for line in [
                entry["event_id"] for entry in map(json.loads, file.read_bytes().splitlines()) if "event_id" in entry
            ]
        }
        assert lines == {(record.day, record.name) for record in self.model.records}, "the days of the zone"
        daylogs.assert_the_logs_have_everything(self.daemon.data_dir, self.daemon.home / "new.db", purged=True)


@pytest.fixture
def site(idle_daemon, attack, monkeypatch, request):
    mode = "believing" if "without" in request.node.name else "noticing"
    made = Site(idle_daemon, attack.random(), monkeypatch, mode)
    yield made
    for camera in made.cameras.values():
        camera.close(timeout=0.0)


@pytest.mark.timeout(120 + ROUNDS * 4)
def test_whatever_clocks_say_order_and_days_are_right_and_nothing_goes_by_mistake(site, attack):
    attack.on("P3, P8", "a running daemon's clock set to 1970, by ±20 years, into summer time and leap days; cameras a "
              "year apart; kills; all removed that may go", "settings and days")  # fmt: skip
    for _ in range(ROUNDS):
        site.step()
        attack.runs += 1
    site.a_good_week()
    assert site.removed, "nothing is ever old"
    site.check()
    attack.note = f"{len(site.model.records) + site.removed} events, {site.removed} days removed"


def amended(site: Site) -> bool:
    """An amendment waits for its event while the clock is set; whether it is there when the event comes."""
    site.names += 1
    name = f"late{site.names}"
    camera = site.cameras["right"]
    camera.amend(name, person_name="anna").wait(30)
    for _ in range(2):
        site.set_the_clock()
        site.tell_the_time()
        time.sleep(0.25)  # chores are done meanwhile, twice
    camera.insert_event(Event("right", event_id=name, recorded_at=site.clocks.true))
    return site.daemon.reader().get_event(name).person_name == "anna"


@pytest.mark.timeout(60 + ROUNDS * 2)
def test_an_amendment_waits_for_its_event_however_the_clock_is_set(site, attack):
    attack.on("P8", "the clock set while amendments wait for their events", "amendments")
    for _ in range(often(3, 20)):
        assert amended(site)
        attack.runs += 1


@pytest.mark.timeout(120)
def test_without_the_look_for_a_set_clock_an_amendment_is_thrown_away(site, attack):
    attack.without("P8", "the look for a clock that was set", "amendments")
    while not attack.caught and attack.runs < 20:
        attack.caught += not amended(site)
        attack.runs += 1
    assert attack.caught
