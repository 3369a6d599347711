"""sightlogd backup and restore: all of a store, as of one moment, while the daemon runs or not."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import backups
import daylogs
import pytest
from backups import backup, contents, restored, verify
from conftest import Daemon, wait_for
from pictures import jpeg, png
from test_daylogs import publish_a_bit_of_everything

from sightlog import Detection, Event, Observation
from sightlogd.backups import source
from sightlogd.backups.backup import Backup
from sightlogd.store.tools import copying
from sightlogd.store.tools.view import View

AT = datetime.now(UTC).replace(hour=12) - timedelta(days=2)


def insert(daemon: Daemon, count: int, **fields: object) -> list[Event]:
    events = [Event("door", recorded_at=AT, thumbnail=jpeg(), **fields) for _ in range(count)]
    with daemon.publisher() as publisher:
        assert publisher.insert_events(events).stored == count
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) >= count, "all is logged")
    return events


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A data directory with nothing in it."""
    path = tmp_path / "elsewhere" / "data"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def second(elsewhere: Path):
    """A daemon for it, not started."""
    daemon = Daemon(elsewhere.parent)
    yield daemon
    daemon.end()


def test_a_store_comes_back_as_it_was_with_its_daemon_running_or_stopped(daemon, dest, second, tmp_path):
    publish_a_bit_of_everything(daemon)
    insert(daemon, 3)
    done = backup(daemon.data_dir, dest)
    assert (done.returncode, done.stderr) == (0, "")
    assert "63 events" in done.stdout
    original = daylogs.rows(daemon.database)
    assert daylogs.rows(restored(dest, second.data_dir) / "events.db") == original
    assert verify(second.data_dir).returncode == 0
    second.start()
    wait_for(lambda: daylogs.are_marked(second.database), "it has compared")
    assert second.stop() == 0
    daylogs.assert_the_logs_have_everything(second.data_dir, tmp_path / "new.db")
    pictures = {path.relative_to(daemon.data_dir): path.read_bytes() for path in daemon.data_dir.glob("events/*/*.jpg")}
    assert len(pictures) >= 3
    assert all((second.data_dir / name).read_bytes() == data for name, data in pictures.items())
    daemon.kill()
    assert backup(daemon.data_dir, dest).returncode == 0
    assert daylogs.rows(restored(dest, second.data_dir) / "events.db") == original


def test_the_second_time_only_what_is_new_is_copied(daemon, dest, elsewhere):
    insert(daemon, 5)
    assert "; 8 files" in backup(daemon.data_dir, dest).stdout
    before = {path: path.stat().st_mtime_ns for path in dest.rglob("*.jpg")}
    (new,) = insert(daemon, 1, event_id="the-new-one")
    assert "; 4 files" in backup(daemon.data_dir, dest).stdout  # a picture, two logs, the database
    assert {path: path.stat().st_mtime_ns for path in before} == before
    restored(dest, elsewhere)
    assert list(elsewhere.glob(f"events/*/{new.event_id}.jpg"))
    # What was restored is the same store: its next backup goes to the same place, and copies no picture again.
    assert "; 1 files" in backup(elsewhere, dest).stdout


def test_days_that_the_store_removed_stay_and_are_not_restored(daemon, dest, elsewhere):
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("door", recorded_at=AT - timedelta(days=n), thumbnail=jpeg()) for n in range(3)])
    assert backup(daemon.data_dir, dest).returncode == 0
    before = contents(dest)
    oldest = f"{AT - timedelta(days=2):%Y-%m-%d}"
    assert backups.run("purge", "--before", f"{AT:%Y-%m-%d}", "--force", "--data-dir", daemon.data_dir).returncode == 0
    done = backup(daemon.data_dir, dest)
    assert "2 days that the store has removed stay" in done.stdout
    assert {name: data for name, data in contents(dest).items() if oldest in name} == {
        name: data for name, data in before.items() if oldest in name
    }
    restored(dest, elsewhere)
    assert [path.name for path in elsewhere.glob("events/[0-9]*")] == [f"{AT:%Y-%m-%d}"]


def test_ids_that_fat_does_not_know_come_back(daemon, dest, elsewhere):
    ids = ["A", "a", "12:30:00", "B.", "percent_x"]
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("door", event_id=event_id, thumbnail=jpeg()) for event_id in ids])
    assert backup(daemon.data_dir, dest).returncode == 0
    names = [path.name for path in dest.glob("events/*/*.jpg")]
    assert len({name.lower() for name in names}) == len(ids)
    assert not set("".join(names)) & set(':*?"<>|')
    restored(dest, elsewhere)
    assert {path.stem for path in elsewhere.glob("events/*/*.jpg")} == set(ids)


def test_what_is_learnt_and_logged_between_two_looks_is_compared_by_the_copys_daemon(
    daemon, dest, second, tmp_path, monkeypatch
):
    """The logs were looked at before, the database behind: it says that nothing is to be compared."""
    insert(daemon, 1, event_id="e")
    assert daemon.stop() == 0
    daemon.start()
    note_days = source.note_days

    def then_learn(data_dir: Path, held: contextlib.ExitStack) -> dict[str, source.NotedDay]:
        noted = note_days(data_dir, held)
        with daemon.publisher("face") as publisher:
            publisher.amend("e", person_name="Anna").wait(10)
        assert daemon.stop() == 0  # which marks the logs as complete
        return noted

    monkeypatch.setattr(source, "note_days", then_learn)
    Backup(daemon.data_dir, dest, lambda _: None, lambda _: None).run()
    restored(dest, second.data_dir)
    assert second.reader().get_event("e").person_name == "Anna"
    assert "Anna" not in "".join(path.read_text() for path in second.data_dir.glob("events/*/events.json"))
    assert verify(second.data_dir).returncode == 0
    second.start()
    wait_for(lambda: "Anna" in str(daylogs.lines(second.data_dir)), "it is logged")
    assert second.stop() == 0
    daylogs.assert_the_logs_have_everything(second.data_dir, tmp_path / "new.db")


def test_a_picture_whose_row_does_not_know_it_yet_is_not_lost(daemon, dest, second):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door", event_id="e", recorded_at=AT))
    wait_for(lambda: daylogs.lines(daemon.data_dir), "it is logged")
    # As it is between the renaming of what the decoder made and the row: the database was looked at just then.
    (daemon.data_dir / "events" / f"{AT:%Y-%m-%d}" / "e.jpg").write_bytes(jpeg())
    assert backup(daemon.data_dir, dest).returncode == 0
    assert daemon.stop() == 0
    restored(dest, second.data_dir)
    second.start()
    wait_for(lambda: second.reader().get_event("e").thumbnail_path, "the row knows it")


def _make_old(daemon: Daemon, day: datetime) -> None:
    """The person became known on that day. A purge carries such a line over to today's log."""
    today, old = (daemon.data_dir / "events" / f"{at:%Y-%m-%d}" / "events.json" for at in (datetime.now(UTC), day))
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
        (now,) = connection.execute("SELECT created_at FROM persons").fetchone()
        connection.execute("UPDATE persons SET created_at = ?", (then := f"{day:%Y-%m-%d}{now[10:]}",))
    lines = today.read_text().splitlines(keepends=True)
    with old.open("a") as log:
        log.writelines(line.replace(now, then) for line in lines if '"kind":"person"' in line)
    today.write_text("".join(line for line in lines if '"kind":"person"' not in line))


@pytest.mark.parametrize("again", [False, True], ids=["for_good", "and_comes_again"])
def test_a_day_that_goes_while_it_is_copied_is_gone_in_the_copy_too(daemon, dest, second, monkeypatch, again):
    """Its new folder gets the number (inode) of the old one on most file systems."""
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("door", recorded_at=AT - timedelta(days=n), thumbnail=jpeg()) for n in range(3)])
        publisher.add_person("anna", "Anna").wait(10)
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 4, "all is logged")
    assert daemon.stop() == 0
    _make_old(daemon, AT - timedelta(days=1))
    assert verify(daemon.data_dir).returncode == 0
    daemon.start()
    copy = copying.copy
    told: list[str] = []

    def then_purge(view: View, *arguments: Any) -> None:
        copy(view, *arguments)
        arguments = ("purge", "--before", f"{AT:%Y-%m-%d}", "--force", "--data-dir", daemon.data_dir)
        assert backups.run(*arguments).returncode == 0
        if again:
            with daemon.publisher() as publisher:
                publisher.insert_events([Event("door", recorded_at=AT - timedelta(days=n)) for n in (1, 2)])
            wait_for(lambda: len(list(daemon.data_dir.glob("events/*/events.json"))) == 4, "it is logged")

    monkeypatch.setattr(copying, "copy", then_purge)
    Backup(daemon.data_dir, dest, lambda _: None, told.append).run()
    assert len([text for text in told if "was removed while it was copied" in text]) == 2
    restored(dest, second.data_dir)
    assert verify(second.data_dir).returncode == 0
    second.start()
    wait_for(lambda: second.reader().count_events() == 1, "the days are gone")
    wait_for(lambda: not list(second.data_dir.glob("events/trash/*")), "the removal is complete")
    assert second.stop() == 0
    assert verify(second.data_dir).returncode == 0


# -- under load ------------------------------------------------------------------------------------------------------
class Load:
    """A camera whose spool comes late, with pictures of many days, and what is learnt of its events."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._resolved: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()
        wait_for(lambda: len(self._resolved) > 100, "it is under way")

    def _publish(self) -> None:
        with self._daemon.publisher("camera") as publisher:
            # Not faster than this: the two daemons and the commands share the machine.
            while not self._ended.wait(0.02):
                kinds = [jpeg(), png(), None, None, None]
                events = [
                    Event("yard", recorded_at=AT - timedelta(days=n), thumbnail=kinds[n % 5], llm_description="a bird")
                    for n in range(12)
                ]
                publisher.insert_events(events)
                for event in events:
                    publisher.amend(event.event_id, person_name="Anna", detections=[Detection("hat", 0.5)])
                some = [Observation("a bird", "llm", event.event_id, recorded_at=event.recorded_at) for event in events]
                publisher.publish_many(some).wait(20)
                # Of days that are never removed.
                self._resolved += [event.event_id for event in events[:4]]

    def settled(self) -> set[str]:
        """What was acked by now, and no purge takes."""
        return set(self._resolved)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture
def load(daemon):
    load = Load(daemon)
    yield load
    load.end()


def assert_it_is_a_store(second: Daemon, resolved: set[str], new: Path) -> None:
    """Sound as it is, and after a daemon has compared its logs; with all that was settled when the backup began."""
    found = verify(second.data_dir)
    assert found.returncode == 0, found.stdout
    second.log.unlink(missing_ok=True)
    second.start()
    # A thumbnail that was made while its event was being removed: what a daemon does about it, it logs a minute later,
    # or when it starts.
    wait_for(lambda: daylogs.are_marked(second.database) or "that no event has" in second.log.read_text(), "a look", 60)
    wait_for(lambda: not list(second.data_dir.glob("events/trash/*")), "it has finished what was being removed", 60)
    assert second.stop() == 0
    second.start()
    wait_for(lambda: daylogs.are_marked(second.database), "it has compared", 60)
    assert second.stop() == 0
    found = verify(second.data_dir)
    assert found.returncode == 0, found.stdout
    events = daylogs.rows(second.database)["events"]
    assert {row[1] for row in events} >= resolved
    for row in events:
        if row[1] in resolved:
            assert (row[8], row[15]) == ("Anna", "a bird")
    daylogs.assert_the_logs_have_everything(second.data_dir, new, purged=True)


@pytest.mark.timeout(240)
def test_a_backup_under_load_has_all_that_was_acked_before_it_and_its_logs_have_the_same(
    daemon, load, dest, second, tmp_path
):
    for number in range(4):
        resolved = load.settled()
        before = f"{AT - timedelta(days=9 - 2 * number):%Y-%m-%d}"
        purging = subprocess.Popen(
            [backups.SIGHTLOGD, "purge", "--before", before, "--force", "--data-dir", daemon.data_dir],
            stdout=subprocess.DEVNULL,
        )
        done = backup(daemon.data_dir, dest)
        purging.wait(60)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        restored(dest, second.data_dir)
        assert_it_is_a_store(second, resolved, tmp_path / "new.db")
