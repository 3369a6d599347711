"""The day of a record is decided once: whatever the time zone becomes, its row, line and picture stay together."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import daylogs
import pytest
from conftest import Daemon, wait_for
from pictures import jpeg

from sightlog import Event, Observation, Person

PROGRAM = Path(sys.executable).with_name("sightlogd")
MIDDLE = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOURS = range(-44, 48, 4)
"""Around MIDDLE: four days in any zone."""
CHANGES = [
    ("UTC", "Europe/Zurich"), ("Europe/Zurich", "America/Los_Angeles"), ("America/Los_Angeles", "Asia/Tokyo"),
    ("Pacific/Kiritimati", "Etc/GMT+12"), ("Etc/GMT+12", "Pacific/Kiritimati"), ("America/St_Johns", "Asia/Kathmandu"),
]  # fmt: skip
BY = ("configuration", "TZ")


def settings(zone: str, by: str) -> dict[str, Any]:
    """How a daemon is started in a zone."""
    if by == "TZ":
        return {"env": {"TZ": zone}}
    return {"config": f"[store]\ntimezone = '{zone}'\n"}


def command(daemon: Daemon, *arguments: object, zone: str, code: int = 0) -> str:
    """With a configuration of its own, in the zone."""
    config = daemon.home / "other.toml"
    config.write_text(f"[store]\ntimezone = '{zone}'\n")
    done = subprocess.run(
        [PROGRAM, arguments[0], "--config", config, "--data-dir", daemon.data_dir, *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TZ": zone},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def publish(daemon: Daemon, name: str, shift: timedelta, *, pictures: bool = True) -> None:
    """Of every four hours an event with a picture, an observation, and what is learnt of the event early and late."""
    with daemon.publisher(name) as publisher:
        for hours in HOURS:
            at, event_id = MIDDLE + timedelta(hours=hours) + shift, f"{name}.{hours + 44:02}"
            publisher.amend(event_id, alert_sent=True)
            publisher.publish(Event("door", event_id=event_id, recorded_at=at, thumbnail=jpeg() if pictures else None))
            publisher.publish(Observation("rain", "llm", recorded_at=at))
        publisher.publish(Person(f"anna {name}"))
        publisher.amend("never", llm_description=name).wait(20)
        for hours in HOURS:
            publisher.amend(f"{name}.{hours + 44:02}", person_name="Anna").wait(20)


def rows(daemon: Daemon, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def pictures(daemon: Daemon) -> set[str]:
    return {str(path.relative_to(daemon.data_dir)) for path in daemon.data_dir.glob("events/*/*.jpg")}


def assert_all_is_together(daemon: Daemon, zone: str) -> None:
    """Rows, pictures and lines of each day, by whatever looks at them; the daemon is stopped."""
    assert {path for (path,) in rows(daemon, "SELECT thumbnail_path FROM events") if path} == pictures(daemon)
    for event, picture, log in rows(daemon, "SELECT event_id, thumbnail_path, json_log_path FROM events_with_objects"):
        assert picture is None or Path(picture).parent == Path(log).parent, event
    daylogs.assert_the_view_names_the_lines(daemon.data_dir)
    command(daemon, "verify", zone=zone)
    daylogs.assert_the_logs_have_everything(daemon.data_dir, daemon.home / "new.db", purged=True)


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize(("then", "now"), CHANGES, ids=["-".join(change).replace("/", ".") for change in CHANGES])
def test_what_happened_stays_together_when_the_zone_is_changed(idle_daemon, then, now, by):
    daemon = idle_daemon.start(**settings(then, by))
    publish(daemon, "then", timedelta())
    last = f"then.{HOURS[-1] + 44:02}"
    wait_for(
        lambda: any(
            line.get("event_id") == last and line.get("person_name") for line in daylogs.lines(daemon.data_dir)
        ),
        "the logs have all of it",
    )
    before = {path: (daemon.data_dir / path).read_bytes() for path in pictures(daemon)}
    decided = dict(rows(daemon, "SELECT event_id, json_log_path FROM events_with_objects"))
    daemon.kill()
    daemon.start(**settings(now, by))
    wait_for(lambda: daylogs.are_marked(daemon.database), "the logs have it")
    publish(daemon, "now", timedelta(minutes=90))
    assert daemon.stop() == 0
    after = dict(rows(daemon, "SELECT event_id, json_log_path FROM events_with_objects"))
    assert {event: after[event] for event in decided} == decided
    assert {path: (daemon.data_dir / path).read_bytes() for path in before} == before
    assert len(pictures(daemon)) == 2 * len(HOURS)
    assert_all_is_together(daemon, now)
    texts = (daemon.data_dir / "events").glob("*/events.log")
    entries = [entry for path in texts for entry in path.read_text().split("\n\n") if "EVENT: " in entry]
    assert len(entries) == len(set(entries)) == 2 * len(HOURS)


@pytest.mark.parametrize("running", [True, False], ids=["daemon", "no_daemon"])
@pytest.mark.parametrize(("then", "now"), CHANGES[1:4:2], ids=["west", "kiritimati-west"])
def test_a_day_goes_with_the_rows_that_were_decided_to_be_its_own(idle_daemon, then, now, running):
    """The command has another configuration than the daemon had, or has."""
    daemon = idle_daemon.start(**settings(then, "configuration"))
    publish(daemon, "then", timedelta())
    assert daemon.stop() == 0
    if running:
        daemon.start(**settings(now, "configuration"))
    log_of = dict(rows(daemon, "SELECT event_id, json_log_path FROM events_with_objects"))
    day = sorted({path.split("/")[1] for path in log_of.values()})[1]
    assert day in command(daemon, "purge", "--day", day, "--force", "--dry-run", zone="Asia/Tokyo")
    command(daemon, "purge", "--day", day, "--force", zone="Asia/Tokyo")
    left = dict(rows(daemon, "SELECT event_id, json_log_path FROM events_with_objects"))
    assert left == {event: path for event, path in log_of.items() if day not in path}
    assert not (daemon.data_dir / "events" / day).exists()
    if running:
        assert daemon.stop() == 0
    daemon.start(**settings(now, "configuration"))
    wait_for(lambda: daylogs.are_marked(daemon.database), "the logs have it")
    assert daemon.stop() == 0
    assert not [line for line in daemon.logged() if "no thumbnail any more" in line["event"]]
    assert_all_is_together(daemon, now)


def test_a_removal_that_was_interrupted_goes_on_in_another_zone_with_the_same_rows(idle_daemon):
    daemon = idle_daemon.start(**settings("Asia/Tokyo", "configuration"))
    publish(daemon, "then", timedelta(), pictures=False)
    assert daemon.stop() == 0
    log_of = dict(rows(daemon, "SELECT event_id, json_log_path FROM events_with_objects"))
    day = sorted({path.split("/")[1] for path in log_of.values()})[1]
    last_id = rows(daemon, "SELECT max(seq) FROM sqlite_sequence")[0][0]
    trash = daemon.data_dir / "events" / "trash"
    trash.mkdir(exist_ok=True)
    (daemon.data_dir / "events" / day).rename(trash / f"{day}.{last_id}")
    daemon.start(**settings("America/Los_Angeles", "configuration"))
    wait_for(lambda: not list(trash.iterdir()), "it is gone")
    left = dict(rows(daemon, "SELECT event_id, json_log_path FROM events_with_objects"))
    assert left == {event: path for event, path in log_of.items() if day not in path}
    wait_for(lambda: daylogs.are_marked(daemon.database), "the logs have it")
    assert daemon.stop() == 0
    assert_all_is_together(daemon, "America/Los_Angeles")


def test_a_backup_is_restored_on_a_pi_of_another_zone(idle_daemon):
    daemon = idle_daemon.start(**settings("Pacific/Auckland", "TZ"))
    publish(daemon, "then", timedelta())
    assert daemon.stop() == 0
    command(daemon, "backup", daemon.home / "backup", zone="Pacific/Auckland")
    daemon.data_dir.rename(daemon.home / "card")
    daemon.data_dir.mkdir()
    command(daemon, "restore", daemon.home / "backup", zone="America/Lima")
    daemon.start(**settings("America/Lima", "TZ"))
    wait_for(lambda: daylogs.are_marked(daemon.database), "the logs have it")
    publish(daemon, "now", timedelta(minutes=90))
    assert daemon.stop() == 0
    assert len(pictures(daemon)) == 2 * len(HOURS)
    assert_all_is_together(daemon, "America/Lima")


def test_a_rebuild_in_another_zone_gives_each_record_the_day_of_its_folder(idle_daemon):
    """Also where the lines that tell the ranges are lost."""
    daemon = idle_daemon.start(**settings("Asia/Tokyo", "configuration"))
    publish(daemon, "then", timedelta())
    assert daemon.stop() == 0
    decided = dict(rows(daemon, "SELECT event_id, json_log_path FROM events_with_objects"))
    logs = sorted(daemon.data_dir.glob("events/2026*/events.json"))
    for number, path in enumerate(logs):
        lines = path.read_text().splitlines(keepends=True)
        assert json.loads(lines[0])["kind"] == "day"
        if number % 2:
            path.write_text("".join(line for line in lines if '"kind":"day"' not in line))
    for path in daemon.data_dir.glob("events.db*"):
        path.unlink()
    command(daemon, "rebuild", "--from-logs", zone="America/Los_Angeles")
    assert dict(rows(daemon, "SELECT event_id, json_log_path FROM events_with_objects")) == decided
    daemon.start(**settings("America/Los_Angeles", "configuration"))
    wait_for(lambda: daylogs.are_marked(daemon.database), "the logs have it")
    publish(daemon, "now", timedelta(minutes=90))
    assert daemon.stop() == 0
    assert_all_is_together(daemon, "America/Los_Angeles")


def test_a_record_whose_time_was_damaged_is_of_a_day_of_its_own_after_a_rebuild(idle_daemon):
    daemon = idle_daemon.start(**settings("UTC", "configuration"))
    publish(daemon, "then", timedelta(), pictures=False)
    assert daemon.stop() == 0
    log = daemon.data_dir / "events" / "2026-03-10" / "events.json"
    log.write_text(log.read_text().replace("2026-03-10T12:00", "2026-07-10T12:00"))
    for path in daemon.data_dir.glob("events.db*"):
        path.unlink()
    command(daemon, "rebuild", "--from-logs", zone="UTC")
    assert ("events/2026-07-10/events.json",) in rows(daemon, "SELECT json_log_path FROM events_with_objects")
    daemon.start(**settings("UTC", "configuration"))
    wait_for(lambda: daylogs.are_marked(daemon.database), "the logs have it")
    assert daemon.stop() == 0
    daylogs.assert_the_view_names_the_lines(daemon.data_dir)
    command(daemon, "verify", zone="UTC")
