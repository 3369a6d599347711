"""Records of a sensor whose clock is far ahead: stored and told, left out of lists, and the first to be removed."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Daemon, wait_for

from sightlog import Event, Observation

PROGRAM = Path(sys.executable).with_name("sightlogd")
READER = Path(sys.executable).with_name("sightlog")
NOW = datetime.now(UTC)
ODD_CLOCK = Path(__file__).parents[1] / "torture" / "odd_clock.py"
FAR = datetime(2099, 1, 1, 12, tzinfo=UTC)
STORAGE = "[store]\ntimezone = 'UTC'\n[storage]\nmax_storage_gb = 1.0\nkeep_free_gb = 0.0\n"


def run(program: Path, daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command: list[object] = [program, arguments[0], "--data-dir", daemon.data_dir, *arguments[1:]]
    if program == PROGRAM:
        command += ["--config", daemon.home / "config.toml"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def send(daemon: Daemon, name: str, **moments: datetime) -> None:
    with daemon.publisher(name) as publisher:
        events = [Event("door", event_id=event, recorded_at=moment) for event, moment in moments.items()]
        assert publisher.insert_events(events).stored == len(events)


def shown(daemon: Daemon, *arguments: str) -> list[str]:
    done = run(READER, daemon, *arguments, "-o", "csv")
    assert done.returncode == 0, done.stderr
    return sorted(line.split(",")[1] for line in done.stdout.splitlines()[1:])


def warned(daemon: Daemon) -> list[str]:
    return [line["event"] for line in daemon.logged() if "ahead of the clock here" in line["event"]]


@pytest.mark.parametrize("ahead", [timedelta(hours=25), timedelta(days=400), FAR - NOW], ids=["25h", "400d", "2099"])
def test_it_is_stored_with_a_warning_that_names_the_producer_and_no_list_has_it(idle_daemon, ahead):
    daemon = idle_daemon.start(config=STORAGE)
    send(daemon, "good", now=NOW, soon=NOW + timedelta(hours=22))
    assert warned(daemon) == []
    send(daemon, "porch-cam", far=NOW + ahead)
    assert "porch-cam (" in wait_for(lambda: warned(daemon), "it is told")[0]
    reader = daemon.reader()
    assert reader.get_event("far") is not None
    assert [event.event_id for event in reader.get_recent_events()] == ["soon", "now"]
    assert [event.event_id for event in reader.get_events_by_camera("door")] == ["soon", "now"]
    assert {event.event_id for event in reader.find_events()} == {"now", "soon", "far"}
    for arguments in (["events"], ["events", "-n", "1000"], ["events", "--since", "-2d"], ["tail"]):
        assert shown(daemon, *arguments) == ["now", "soon"], arguments
    assert "left out: 1 events more than a day ahead" in run(READER, daemon, "events").stderr
    assert shown(daemon, "events", "--until", "9999-12-31") == ["far", "now", "soon"]
    assert "left out" not in run(READER, daemon, "events", "--until", "9999-12-31").stderr


def test_what_is_asked_for_by_its_own_time_is_shown(idle_daemon):
    daemon = idle_daemon.start(config=STORAGE)
    send(daemon, "porch-cam", far=FAR)
    assert shown(daemon, "events", "--since", "2099-01-01") == ["far"]
    assert run(READER, daemon, "events").returncode == 1


def test_an_observation_is_told_of_too(idle_daemon):
    daemon = idle_daemon.start(config=STORAGE)
    with daemon.publisher("llm") as publisher:
        publisher.publish(Observation("rain", "llm", recorded_at=FAR)).wait(10)
    wait_for(lambda: warned(daemon), "it is told")


def test_a_pi_that_starts_in_1970_hides_and_removes_nothing(idle_daemon, monkeypatch):
    """The daemon has stored things under a good clock; then its clock, and the reader's, begin anew."""
    daemon = idle_daemon.start(config=STORAGE + "min_retention_days = 0\n")
    send(daemon, "good", now=NOW, before=NOW - timedelta(days=3), soon=NOW + timedelta(hours=20))
    assert daemon.stop() == 0
    before = sorted(path.name for path in daemon.data_dir.glob("events/[0-9]*"))
    off = daemon.home / "off"
    off.write_text(str(60 - NOW.timestamp()))
    daemon.start(program=(str(ODD_CLOCK), str(off), "noticing"), config=STORAGE + "min_retention_days = 0\n")
    send(daemon, "good", more=NOW)
    done = run(PROGRAM, daemon, "purge", "--before", "9999-12-31")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in daemon.data_dir.glob("events/[0-9]*")) == before
    assert warned(daemon) == []

    class In1970(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(60, tz)

    monkeypatch.setattr("sightlog.reader.reader.datetime", In1970)
    assert len(daemon.reader().get_recent_events()) == 4


def test_its_days_are_the_first_to_make_room(idle_daemon):
    limits = "max_storage_gb = 0.03\nmin_retention_days = 0\npurge_share_max = 1.0\nkeep_free_gb = 0.0\n"
    daemon = idle_daemon.start(config=f"[store]\ntimezone = 'UTC'\n[storage]\n{limits}")
    noon = NOW.replace(hour=12, minute=0)
    for first in (noon - timedelta(days=9), FAR, noon - timedelta(days=3), FAR + timedelta(days=1), noon):
        with daemon.publisher() as publisher:
            events = [
                Event("door", recorded_at=first + timedelta(seconds=n), llm_description="x" * 10_000)
                for n in range(200)
            ]
            assert publisher.insert_events(events).stored == 200
    removed = wait_for(
        lambda: [line["day"] for line in daemon.logged() if line["event"].startswith("removed ")], "a day is removed"
    )
    assert removed[0] == "2099-01-01"
    assert all(day.startswith("2099") for day in removed[:2])


@pytest.mark.parametrize("running", [True, False], ids=["daemon", "no_daemon"])
def test_one_day_is_removed_by_its_name(idle_daemon, running):
    daemon = idle_daemon.start(config=STORAGE)
    send(daemon, "good", now=NOW, old=NOW - timedelta(days=30))
    send(daemon, "porch-cam", far=FAR, further=FAR + timedelta(days=1))
    if not running:
        assert daemon.stop() == 0
    kept = run(PROGRAM, daemon, "purge", "--day", "2099-01-01")
    assert kept.returncode == 1
    assert "2099-01-01 may not go" in kept.stdout
    today = run(PROGRAM, daemon, "purge", "--day", NOW.date().isoformat(), "--force")
    assert today.returncode == 1
    assert "is today" in today.stdout
    nothing = run(PROGRAM, daemon, "purge", "--day", "2001-01-01", "--force")
    assert nothing.returncode == 0
    assert "There is nothing of 2001-01-01" in nothing.stdout
    assert run(PROGRAM, daemon, "purge", "--day", "2099-01-01", "--before", "2099-01-01").returncode == 2
    listed = run(PROGRAM, daemon, "purge", "--day", "2099-01-01", "--force", "--dry-run")
    assert listed.returncode == 0
    assert "1 days with about" in listed.stdout
    gone = run(PROGRAM, daemon, "purge", "--day", "2099-01-01", "--force")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert "removed 2099-01-01" in gone.stdout
    assert {event.event_id for event in daemon.reader().find_events()} == {"now", "old", "further"}
    assert not (daemon.data_dir / "events" / "2099-01-01").exists()
