"""`sightlogd purge --dry-run` says what would go and leaves no trace, with a daemon, without, and after a crash."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import backups
import pytest
from conftest import Daemon, wait_for
from folders import tree

from sightlog import Event
from sightlogd.errors import Stop
from sightlogd.store.tools.offline import StillStore

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
DRY = ("purge", "--dry-run", "--force", "--before", f"{NOON + timedelta(days=1):%Y-%m-%d}")


def fill(daemon: Daemon) -> None:
    with daemon.publisher() as publisher:
        publisher.insert_events(Event("door", recorded_at=NOON - timedelta(days=ago)) for ago in (3, 2, 2))
    wait_for(lambda: len(list(daemon.data_dir.glob("events/*/events.json"))) == 2, "all is logged")


def days_of(said: str) -> list[str]:
    return [line.split()[0] for line in said.splitlines() if line.startswith("20")]


@pytest.mark.parametrize("how", ["stop", "kill", "copied alone", "without its index"])
def test_it_leaves_no_trace_without_a_daemon(daemon, how):
    fill(daemon)
    expected = backups.run(*DRY, "--data-dir", daemon.data_dir).stdout
    assert len(days_of(expected)) == 2, expected
    daemon.stop() if how in ("stop", "copied alone") else daemon.kill()
    if how == "copied alone":
        daemon.database.with_name("events.db-wal").unlink()
    if how in ("copied alone", "without its index"):
        daemon.database.with_name("events.db-shm").unlink()
        (daemon.data_dir / "lock").unlink()
        (daemon.data_dir / "ballast").unlink()
    before = tree(daemon.data_dir)
    done = backups.run(*DRY, "--data-dir", daemon.data_dir)
    assert done.returncode == 0, done.stderr
    assert days_of(done.stdout) == days_of(expected)
    assert "1 events" in done.stdout
    assert "2 events" in done.stdout
    assert tree(daemon.data_dir) == before


def test_a_daemon_that_cannot_be_asked_is_named(daemon):
    fill(daemon)
    (daemon.data_dir / "control.sock").unlink()
    done = backups.run(*DRY, "--data-dir", daemon.data_dir)
    assert done.returncode == 75
    assert "nobody can tell what would go" in done.stderr
    assert done.stdout == ""


def test_a_removal_that_was_interrupted_is_named_and_not_finished(daemon):
    fill(daemon)
    assert daemon.stop() == 0
    day = f"{NOON - timedelta(days=3):%Y-%m-%d}"
    (daemon.data_dir / "events" / "trash").mkdir(exist_ok=True)
    (daemon.data_dir / "events" / day).rename(daemon.data_dir / "events" / "trash" / f"{day}.1")
    before = tree(daemon.data_dir)
    done = backups.run(*DRY, "--data-dir", daemon.data_dir)
    assert done.returncode == 0, done.stderr
    assert f"{day} is half gone already" in done.stdout
    assert tree(daemon.data_dir) == before


def test_a_damaged_database_is_said_and_left(daemon):
    fill(daemon)
    assert daemon.stop() == 0
    with daemon.database.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    before = tree(daemon.data_dir)
    done = backups.run(*DRY, "--data-dir", daemon.data_dir)
    assert done.returncode == 78
    assert "damaged" in done.stderr
    assert tree(daemon.data_dir) == before


def test_what_was_read_while_somebody_wrote_says_nothing(daemon):
    fill(daemon)
    assert daemon.stop() == 0
    store = StillStore(daemon.data_dir)
    store.check()
    daemon.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
    with pytest.raises(Stop, match="meanwhile") as stop:
        store.check()
    assert stop.value.exit_code == 75
    store.close()


def test_a_purge_without_a_daemon_still_removes(daemon):
    fill(daemon)
    assert daemon.stop() == 0
    copy = daemon.home / "copy"
    shutil.copytree(daemon.data_dir, copy)
    done = backups.run(*(word for word in DRY if word != "--dry-run"), "--data-dir", copy)
    assert done.returncode == 0, done.stderr
    assert not list(copy.glob("events/*/events.json"))
