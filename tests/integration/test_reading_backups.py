"""A backup is read as a store is: by everybody who may, from a disk that may only be read, and without a trace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import backups
import pytest
from conftest import AS_NOBODY, Daemon, open_to_all
from folders import DATABASES, tree
from pictures import jpeg

from sightlog import DatabaseNotFound, Detection, Event, Observation, Reader, SchemaMismatch
from sightlog.errors import SightlogError

COMMANDS = {
    "events": ("events",),
    "tail": ("tail",),
    "show": ("show", "e01"),
    "search": ("search", "parcel"),
    "similar": ("similar", "--face", "e01"),
    "stats": ("stats",),
    "export": ("export",),
    "persons": ("events", "--person", "anna"),
    "status": ("status",),
}
HAVE_AN_INDEX = {"wal, killed", "wal, some of it in there", "schema_version, wal", "our application_id, wal"}
"""Of their WAL (-shm): a program may be writing there, as our daemon does, and SQLite has to ask it."""


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A backup of a store with a bit of everything."""
    daemon = Daemon(tmp_path_factory.mktemp("taken"))
    daemon.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(
            Event(
                "door",
                event_id="e01",
                thumbnail=jpeg(),
                llm_description="a parcel",
                person_name="anna",
                detections=[Detection("person", 0.9)],
                embedding=[1, 0],
                embedding_model="face",
            )
        )
        publisher.insert_event(Event("door", event_id="e02", embedding=[0.9, 0.1], embedding_model="face"))
        publisher.publish(
            Observation("a wet parcel", "llm", "e01", observation_id="o01", embedding=[1, 0], embedding_model="clip")
        ).wait(10)
        publisher.publish(
            Observation("a dog", "llm", "e01", observation_id="o02", embedding=[0, 1], embedding_model="clip")
        ).wait(10)
    assert daemon.stop() == 0
    assert backups.backup(daemon.data_dir, daemon.home / "backup").returncode == 0
    yield daemon.home / "backup"
    daemon.end()


@pytest.fixture
def backup(taken: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(taken, tmp_path / "stick"))


def run(command: str, backup: Path) -> subprocess.CompletedProcess[str]:
    name, *arguments = COMMANDS[command]
    program = Path(sys.executable).with_name("sightlog")
    return subprocess.run(
        [program, name, "--data-dir", backup, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


@contextmanager
def only_readable(path: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def as_nobody(path: Path, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY + program, path], capture_output=True, text=True, timeout=30, check=False
    )


READS = """
from sightlog import Reader
with Reader(sys.argv[1] + "/events.db") as reader:
    print(reader.count_events(), len(list(reader.search("parcel"))), len(list(reader.find_observations())))
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_reads_a_backup_without_a_trace(backup, command):
    before = tree(backup)
    done = run(command, backup)
    assert done.returncode == (3 if command == "status" else 0), done.stderr
    assert done.stdout
    assert tree(backup) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_from_a_disk_that_may_only_be_read(backup):
    with only_readable(backup):
        for command in COMMANDS:
            done = run(command, backup)
            assert done.returncode == (3 if command == "status" else 0), done.stderr
        assert as_nobody(backup, READS).returncode != 0  # its modes say who may


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of another user")
def test_as_another_user_who_may_only_read(backup, tmp_path):
    open_to_all(tmp_path)
    for path in (backup, *backup.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    before = tree(backup)
    done = as_nobody(backup, READS)
    assert (done.returncode, done.stdout) == (0, "2 2 2\n"), done.stderr
    assert tree(backup) == before


def test_who_reads_goes_on_while_the_next_backup_is_made(daemon, tmp_path):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
    assert backups.backup(daemon.data_dir, tmp_path / "stick").returncode == 0
    with Reader(tmp_path / "stick/events.db") as reader:
        assert reader.count_events() == 1
        with daemon.publisher() as publisher:
            publisher.insert_event(Event("door"))
        assert backups.backup(daemon.data_dir, tmp_path / "stick").returncode == 0
        assert reader.count_events() == 1
    with Reader(tmp_path / "stick/events.db") as reader:
        assert reader.count_events() == 2


def test_a_running_store_is_read_as_one_whatever_lies_beside_it(daemon):
    """A file of that name does not make a backup of it: its reader has to see what is committed."""
    (daemon.data_dir / "backup.json").write_text("mine")
    with Reader(daemon.database) as reader, daemon.publisher() as publisher:
        for count in range(1, 4):
            publisher.insert_event(Event("door"))
            assert reader.count_events() == count


def test_a_backup_that_was_interrupted_is_named(tmp_path):
    (tmp_path / "backup.json").write_text("{}\n")
    with pytest.raises(DatabaseNotFound, match="never completed"):
        Reader(tmp_path / "events.db")
    assert [path.name for path in tmp_path.iterdir()] == ["backup.json"]


@pytest.mark.parametrize("kind", sorted(DATABASES.keys() - HAVE_AN_INDEX))
def test_who_reads_makes_no_file_beside_another_programs_database(tmp_path, kind):
    DATABASES[kind](tmp_path)
    before = tree(tmp_path)
    with pytest.raises(SightlogError):
        Reader(tmp_path / "events.db")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["rollback", "wal, closed", "all of our tables", "application_id of its own"])
def test_who_reads_is_told_that_it_is_another_programs(tmp_path, kind):
    DATABASES[kind](tmp_path)
    with pytest.raises(SchemaMismatch, match="not one of sightlog's"):
        Reader(tmp_path / "events.db")
