"""What root does to the store of the daemon's user: that user can go on afterwards, and root is led nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import backups
import daylogs
import pytest
from conftest import AS_NOBODY, NOBODY, open_to_all, wait_for
from pictures import jpeg

from sightlog import Event

AT = datetime.now(UTC).replace(hour=12) - timedelta(days=2)
DAY = f"{AT:%Y-%m-%d}"


def by_nobody(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = f"{AS_NOBODY}\nsys.exit(sightlogd.__main__.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def insert(daemon, *ids: str) -> None:
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("door", event_id=one, recorded_at=AT, thumbnail=jpeg()) for one in ids])
    wait_for(lambda: ids[-1] in daylogs.text(daemon.data_dir), "all is logged")


def give_to_nobody(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def owners(directory: Path) -> set[tuple[int, int]]:
    return {(path.lstat().st_uid, path.lstat().st_gid) for path in (directory, *directory.rglob("*"))}


NOBODYS = {(NOBODY, NOBODY)}


@pytest.fixture
def theirs(daemon, tmp_path: Path) -> Path:
    """A data directory of nobody's, stopped, as a copy of it is: without what SQLite makes beside a database."""
    insert(daemon, "a", "bb")
    assert daemon.stop() == 0
    open_to_all(daemon.data_dir)
    for name in ("events.db-shm", "events.db-wal", "lock", "control.sock"):
        (daemon.data_dir / name).unlink(missing_ok=True)
    give_to_nobody(daemon.data_dir)
    return daemon.data_dir


def learn_more(data_dir: Path) -> None:
    """So that the next backup has something of each kind to write."""
    folder = data_dir / "events" / DAY
    (folder / "new.jpg").write_bytes(jpeg(3))
    (folder / "a.jpg").write_bytes(jpeg(4))
    for log in ("events.json", "events.log"):
        with (folder / log).open("a") as file:
            file.write("{}\n\n")
    give_to_nobody(data_dir)
    os.utime(folder / "new.jpg", (1, 1))


@pytest.mark.parametrize("dest", ["new", "empty", "root's", "nobody's"])
def test_behind_a_backup_by_root_the_daemons_user_makes_the_next_one(theirs, tmp_path, dest):
    place = tmp_path / "backups" / "of this"
    place.parent.mkdir()
    os.chown(place.parent, NOBODY, NOBODY)
    if dest != "new":
        place.mkdir()
    if dest == "nobody's":
        os.chown(place, NOBODY, NOBODY)
        assert by_nobody("backup", "--data-dir", theirs, place).returncode == 0
    elif dest == "root's":
        assert backups.backup(theirs, place).returncode == 0
        os.chown(place, 0, 0)
    done = backups.backup(theirs, place)
    assert done.returncode == 0, done.stderr
    assert owners(theirs) == NOBODYS
    assert owners(place) == NOBODYS
    learn_more(theirs)
    done = by_nobody("backup", "--data-dir", theirs, place)
    assert (done.returncode, done.stderr) == (0, "")
    learn_more(theirs)
    assert backups.backup(theirs, place).returncode == 0
    assert owners(place) == NOBODYS
    assert by_nobody("verify", "--data-dir", place).returncode == 0
    assert backups.verify(place).returncode == 0
    assert owners(place) == owners(theirs) == NOBODYS


def test_what_root_keeps_of_a_damaged_database_is_the_daemons_users(theirs, tmp_path):
    (theirs / "events.db").write_bytes(b"damaged" * 10_000)
    assert backups.backup(theirs, tmp_path / "backup").returncode == 74
    assert list((tmp_path / "backup").glob("damaged-*/events.db"))
    assert owners(tmp_path / "backup") == owners(theirs) == NOBODYS


def test_root_makes_nobody_elses_of_a_store_that_is_roots(daemon, tmp_path):
    insert(daemon, "a")
    assert daemon.stop() == 0
    (tmp_path / "backup").mkdir()
    os.chown(tmp_path / "backup", NOBODY, NOBODY)
    assert backups.backup(daemon.data_dir, tmp_path / "backup").returncode == 0
    assert {owner for path in (tmp_path / "backup").rglob("*") for owner in owners(path)} == {(0, 0)}


def test_a_look_by_root_leaves_nothing_of_root(theirs):
    done = backups.verify(theirs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert owners(theirs) == NOBODYS


def test_what_root_restores_is_the_owners_and_root_may_read_what_he_may_not(theirs, tmp_path):
    place = tmp_path / "backup"
    assert backups.backup(theirs, place).returncode == 0
    for path in (place, *place.rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(0o700 if path.is_dir() else 0o600)
    (new := tmp_path / "new").mkdir()
    os.chown(new, NOBODY, NOBODY)
    done = backups.restore(place, new)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert owners(new) == NOBODYS
    assert owners(place) == {(0, 0)}
    assert by_nobody("verify", "--data-dir", new).returncode == 0
    assert daylogs.rows(new / "events.db") == daylogs.rows(theirs / "events.db")


@pytest.mark.parametrize(
    "name", ["lock", "restoring", "restored", "events", "events/incoming", "events/trash", "events.db"]
)
def test_root_is_not_led_elsewhere_by_links_in_the_data_directory(theirs, tmp_path, name):
    """Its owner could put them there: what they lead to would be overwritten, or given to him."""
    place = tmp_path / "backup"
    assert backups.backup(theirs, place).returncode == 0
    (secret := tmp_path / "secret").mkdir()
    (secret / "file").write_text("root's")
    (new := tmp_path / "new").mkdir()
    (new / name).parent.mkdir(exist_ok=True)
    (new / name).symlink_to(secret if name not in ("lock", "events.db") else secret / "file")
    os.chown(new, NOBODY, NOBODY)
    done = backups.restore(place, new)
    assert done.returncode in (74, 78), done.stderr
    assert (secret / "file").read_text() == "root's"
    assert owners(secret) == {(0, 0)}
    assert [path.name for path in secret.iterdir()] == ["file"]


def test_a_purge_by_root_leaves_a_store_that_the_daemons_user_goes_on_with(theirs, tmp_path):
    done = backups.run("purge", "--force", "--before", f"{AT + timedelta(days=1):%Y-%m-%d}", "--data-dir", theirs)
    assert (done.returncode, f"removed {DAY}" in done.stdout) == (0, True), done.stdout + done.stderr
    assert owners(theirs) == NOBODYS
    assert by_nobody("verify", "--data-dir", theirs).returncode == 0


def test_a_rebuild_by_root_makes_a_database_that_the_daemons_user_goes_on_with(theirs):
    for path in theirs.glob("events.db*"):
        path.unlink()
    done = backups.run("rebuild", "--from-logs", "--data-dir", theirs)
    assert (done.returncode, "2 events" in done.stdout) == (0, True), done.stdout + done.stderr
    assert owners(theirs) == NOBODYS


def test_another_user_who_is_not_root_is_refused(daemon):
    insert(daemon, "a")
    assert daemon.stop() == 0
    open_to_all(daemon.data_dir)
    for command in (("purge", "--force"), ("restore", daemon.home), ("rebuild", "--from-logs")):
        if command[0] == "rebuild":
            daemon.database.unlink()
        done = by_nobody(command[0], "--data-dir", daemon.data_dir, *command[1:])
        assert (done.returncode, "belongs to another user" in done.stderr) == (77, True), done.stderr
