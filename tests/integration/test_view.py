"""`events_with_objects`, the view for tools, and the table `days` behind it: as Python's own sqlite3 reads them."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import daylogs
import pytest
from conftest import Daemon, wait_for

from sightlog import Detection, Event, Observation
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.messages import START, Position
from sightlogd.errors import WriteRefused
from sightlogd.protocol.decoder import decode_record
from sightlogd.protocol.session import Chunk, Session
from sightlogd.store import Store

PROGRAM = Path(sys.executable).with_name("sightlogd")
UTC, ZURICH, AUCKLAND, LOS_ANGELES = (
    f'[store]\ntimezone = "{zone}"\n' for zone in ("UTC", "Europe/Zurich", "Pacific/Auckland", "America/Los_Angeles")
)


def at(moment: str) -> datetime:
    return datetime.fromisoformat(f"{moment}+00:00")


def ask(database: Path, query: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def days(database: Path) -> dict[str, tuple[str, str, str]]:
    found = ask(database, "SELECT * FROM days ORDER BY first")
    assert all(row["after"] <= following["first"] for row, following in pairwise(found)), "two ranges overlap"
    return {row["day"]: (row["first"], row["after"], row["zone"]) for row in found}


def folders(daemon: Daemon) -> list[str]:
    return sorted(path.name for path in daemon.data_dir.glob("events/[0-9]*"))


def paths(daemon: Daemon) -> dict[str, str | None]:
    found = ask(daemon.database, "SELECT event_id, json_log_path FROM events_with_objects")
    return {row["event_id"]: row["json_log_path"] for row in found}


def send(daemon: Daemon, **moments: str) -> None:
    """Events by their ids, in one batch."""
    with daemon.publisher() as publisher:
        publisher.insert_events(Event("door", event_id=name, recorded_at=at(when)) for name, when in moments.items())


def run(daemon: Daemon, command: str, *arguments: str | Path) -> None:
    options = ["--config", daemon.home / "config.toml", "--data-dir", daemon.data_dir]
    done = subprocess.run([PROGRAM, command, *options, *arguments], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_each_column_is_there_once_and_what_tools_expect_is_never_null(daemon):
    events = [
        Event("door", event_id="bare", recorded_at=at("2026-11-20T10:00:00.123")),
        Event("door", event_id="refused", recorded_at=at("2026-11-20T11:00"), unlock_granted=False),
        Event(
            "door", event_id="let-in", recorded_at=at("2026-11-20T12:00"), unlock_granted=True, door_action="unlocked",
            metadata={"frame": 7}, detections=[Detection("person", 0.75, (1, 2, 3, 4)), Detection("dog", 0.5)],
        ),
    ]  # fmt: skip
    with daemon.publisher() as publisher:
        publisher.insert_events(events)
    with closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as connection:
        cursor = connection.execute("SELECT * FROM events_with_objects ORDER BY id")
        names = [column[0] for column in cursor.description]
        of_events = [row[1] for row in connection.execute("PRAGMA table_info(events)")]
    assert sorted(names) == sorted([*of_events, "timestamp", "detected_objects", "json_log_path"])
    bare, refused, let_in = ask(daemon.database, "SELECT * FROM events_with_objects ORDER BY id")
    assert bare["timestamp"] == bare["recorded_at"] == "2026-11-20T10:00:00.123Z"
    assert [(row["unlock_granted"], row["door_action"]) for row in (bare, refused, let_in)] == [
        (0, "none"), (0, "none"), (1, "unlocked"),
    ]  # fmt: skip
    assert json.loads(bare["detected_objects"]) == []
    assert json.loads(let_in["detected_objects"]) == [
        {"label": "person", "confidence": 0.75, "bbox": [1, 2, 3, 4]},
        {"label": "dog", "confidence": 0.5, "bbox": None},
    ]
    rows = {row["id"]: row for row in ask(daemon.database, "SELECT * FROM events")}
    for row in (bare, refused, let_in):
        assert row["json_log_path"] == "events/2026-11-20/events.json"
        own = {"unlock_granted", "door_action"}
        assert {name: row[name] for name in of_events if name not in own} == {
            name: value for name, value in rows[row["id"]].items() if name not in own
        }
    daemon.stop()  # lines are written behind the acks
    daylogs.assert_the_view_names_the_lines(daemon.data_dir)


@pytest.mark.parametrize(
    "zone", [UTC, ZURICH, AUCKLAND, LOS_ANGELES, ""], ids=["utc", "zurich", "auckland", "la", "own"]
)
def test_the_view_names_the_folder_where_the_line_is_whatever_the_batch(idle_daemon, zone):
    """Batches of one day, over a midnight, of days in between that no batch began or ended with, and out of order."""
    daemon = idle_daemon.start(config=zone)
    send(daemon, a="2026-11-20T10:00")
    send(daemon, b="2026-11-20T22:59:59.999", c="2026-11-20T23:00", d="2026-11-21T07:59", e="2026-11-21T08:00")
    send(daemon, f="2026-10-25T00:30", g="2026-10-20T12:00", h="2026-10-22T12:00", i="2026-11-22T12:00")
    send(daemon, j="2026-10-20T12:00", k="2026-10-21T12:00", l="2026-11-22T12:00")
    send(daemon, m="0001-01-01T00:00", n="9999-12-31T23:59:59.999", o="1900-01-01T00:00")
    with daemon.publisher() as publisher:
        publisher.publish(Observation("nobody", "vlm", recorded_at=at("2026-12-01T12:00"))).wait(10)
        publisher.insert_event(Event("door", event_id="a", recorded_at=at("2027-01-01T12:00")))  # a duplicate
    daemon.stop()
    assert len(paths(daemon)) == 15
    assert sorted(days(daemon.database)) == folders(daemon)
    assert "2027-01-01" not in days(daemon.database)
    daylogs.assert_the_view_names_the_lines(daemon.data_dir)
    run(daemon, "rebuild", "--from-logs", "--output", daemon.home / "new.db")
    assert days(daemon.home / "new.db") == days(daemon.database)


def test_a_day_keeps_its_range_when_the_time_zone_is_changed_and_others_get_what_is_left(idle_daemon):
    daemon = idle_daemon.start(config=UTC)
    send(daemon, first="2026-11-20T12:00")
    before = days(daemon.database)
    assert before == {"2026-11-20": ("2026-11-20T00:00:00.000Z", "2026-11-21T00:00:00.000Z", "UTC")}
    for config, name, moment in (
        (AUCKLAND, "2026-11-21", "2026-11-21T05:00"),  # 2026-11-20T11:00 to 2026-11-21T11:00
        (LOS_ANGELES, "2026-11-19", "2026-11-19T20:00"),  # 2026-11-19T08:00 to 2026-11-20T08:00
        (ZURICH, "2026-11-22", "2026-11-22T12:00"),
    ):
        daemon.stop()
        daemon.start(config=config)
        assert days(daemon.database) == before
        send(daemon, **{f"covered-{name}": "2026-11-20T23:30", f"day-{name}": moment})
        now = days(daemon.database)
        assert {day: now[day] for day in before} == before
        assert now.keys() - before.keys() == {name}
        assert paths(daemon)[f"day-{name}"] == f"events/{name}/events.json"
        before = now
    assert before["2026-11-21"] == ("2026-11-21T00:00:00.000Z", "2026-11-21T11:00:00.000Z", "Pacific/Auckland")
    assert before["2026-11-19"] == ("2026-11-19T08:00:00.000Z", "2026-11-20T00:00:00.000Z", "America/Los_Angeles")


def test_a_day_loses_its_range_with_its_removal_and_may_come_again(idle_daemon):
    daemon = idle_daemon.start(config=ZURICH)
    send(daemon, kept="2026-03-12T12:00")
    with daemon.publisher() as publisher:
        publisher.publish(Observation("nobody", "vlm", recorded_at=at("2026-03-09T12:00"))).wait(10)
    send(daemon, **{f"e{number}": "2026-03-10T12:00" for number in range(500)})
    assert sorted(days(daemon.database)) == ["2026-03-09", "2026-03-10", "2026-03-12"]
    run(daemon, "purge", "--force", "--before", "2026-03-11")
    assert sorted(days(daemon.database)) == ["2026-03-12"]
    send(daemon, late="2026-03-10T22:59")
    assert days(daemon.database)["2026-03-10"][:2] == ("2026-03-09T23:00:00.000Z", "2026-03-10T23:00:00.000Z")
    daemon.stop()
    daylogs.assert_the_view_names_the_lines(daemon.data_dir)
    run(daemon, "purge", "--force", "--before", "2026-03-11")
    assert sorted(days(daemon.database)) == ["2026-03-12"]


def test_what_comes_while_its_day_goes_keeps_the_range(idle_daemon):
    daemon = idle_daemon.start(config=UTC)
    send(daemon, **{f"old-{number}": "2026-03-10T12:00" for number in range(3_000)})
    send(daemon, kept="2026-03-12T12:00")
    command = [PROGRAM, "purge", "--config", daemon.home / "config.toml", "--data-dir", daemon.data_dir]
    purge = subprocess.Popen([*command, "--force", "--before", "2026-03-11"], stdout=subprocess.DEVNULL)
    wait_for(lambda: list(daemon.data_dir.glob("events/trash/2026-03-10.*")), "the day goes")
    send(daemon, late="2026-03-10T13:00")
    assert purge.wait(60) == 0
    daemon.stop()
    assert paths(daemon) == {"late": "events/2026-03-10/events.json", "kept": "events/2026-03-12/events.json"}
    daylogs.assert_the_view_names_the_lines(daemon.data_dir)


def test_a_crash_between_rows_and_ack_leaves_both_or_none(idle_daemon):
    """The row of a day and those of its events are one transaction."""
    crashing = (str(Path(__file__).parents[1] / "crashing_daemon.py"),)
    for point, count in (("before_commit", 0), ("after_commit", 1)):
        daemon = idle_daemon.start(program=(*crashing, point, "1"))
        with daemon.publisher() as publisher:
            publisher.publish(Event("door", event_id="e", recorded_at=at("2026-11-20T12:00")), urgent=True)
            daemon.process.wait(20)
            assert len(ask(daemon.database, "SELECT * FROM events")) == len(days(daemon.database)) == count
    idle_daemon.start()
    assert sorted(days(idle_daemon.database)) == ["2026-11-20"]


def test_a_batch_that_is_done_again_record_by_record_gives_days_to_what_is_stored_alone(daemon):
    send(daemon, a="2026-11-20T12:00")
    send(daemon, a="2026-11-25T12:00", b="2026-11-21T12:00", c="2026-11-22T12:00")
    assert sorted(days(daemon.database)) == ["2026-11-20", "2026-11-21", "2026-11-22"]
    daemon.stop()
    daylogs.assert_the_view_names_the_lines(daemon.data_dir)


def test_a_day_whose_batch_found_no_room_gets_its_range_with_the_next_try(tmp_path):
    store = Store(tmp_path, zone=ZoneInfo("UTC"))
    session = Session("p", "camera", b"", 1, START, START)

    def chunk(*records: Event | Observation) -> Chunk:
        packed = [encode_record(record)[0] for record in records]
        return Chunk(session, Position(1, 1), [decode_record(one) for one in packed], packed)

    event = Event("door", event_id="e", recorded_at=at("2026-11-20T12:00"))
    long = Observation("x" * 60_000, "vlm", recorded_at=at("2026-11-20T12:00"))
    connection = store._connection
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').get + 4}")
    with pytest.raises(WriteRefused, match="no room"):
        store.write([chunk(event, long)], {}, [])
    assert days(store.path) == {}
    store.write([chunk(event)], {}, [])
    store.close()
    assert sorted(days(store.path)) == ["2026-11-20"]
