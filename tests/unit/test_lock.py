"""Taking the data directory, what is done to its files, and what the kernel says of file systems and locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys

import pytest
from locker import locked

from sightlog import filelocks, writer
from sightlog.writer import FACTS, WRITER_BYTE, Failure, Writer
from sightlogd import durable, filesystem
from sightlogd.errors import Stop
from sightlogd.store import Store
from sightlogd.store.guard import Guard
from sightlogd.store.lock import Lock, is_held
from sightlogd.store.wal_readers import holder_of


@pytest.fixture
def held(tmp_path):
    with contextlib.closing(Lock(tmp_path, "purge")) as lock:
        yield lock


def test_who_has_it_is_told_while_he_lives(tmp_path):
    assert writer.find(tmp_path) is None
    lock = Lock(tmp_path, "purge")
    found = writer.find(tmp_path)
    assert (found.pid, found.verb, found.trouble) == (os.getpid(), "purge", None)
    assert is_held(tmp_path)
    lock.tell("no room " * 1_000)
    assert writer.find(tmp_path).trouble.startswith("no room no room")
    lock.tell(None)
    assert writer.find(tmp_path).trouble is None
    lock.close()
    assert not is_held(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_second_one_is_refused_by_name(tmp_path, held):
    with pytest.raises(Stop, match=rf"process {os.getpid()}, sightlogd purge") as refused:
        Lock(tmp_path)
    assert refused.value.exit_code == 75
    (tmp_path / "lock").unlink()
    with pytest.raises(Stop, match=f"process {os.getpid()}"):
        Lock(tmp_path)
    assert not (tmp_path / "lock").exists(), "who is refused makes nothing"


def test_a_store_keeps_another_one_out_without_any_file_beside_it(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(Stop, match="another sightlogd") as refused:
        Store(tmp_path)
    assert refused.value.exit_code == 75
    store.stored_of("p")
    store.close()
    Store(tmp_path).close()


@pytest.mark.parametrize("certain", [True, False])
def test_a_lock_file_that_is_gone_is_made_again_where_that_is_safe(tmp_path, held, certain):
    (tmp_path / "lock").unlink()
    if not certain:
        with pytest.raises(Stop, match="was removed or replaced while") as stopped:
            held.check(certain)
        assert stopped.value.exit_code == 74
        return
    held.check(certain)
    with (tmp_path / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    held.check(False)


def test_facts_that_are_gone_are_made_again(tmp_path, held):
    held.tell("why")
    (tmp_path / FACTS).unlink()
    held.check(False)
    assert writer.find(tmp_path).trouble == "why"


def test_what_cannot_be_made_again_ends_nobody_who_is_certain(tmp_path, held):
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()
    held.check(True)
    held.check(True)
    assert (tmp_path / "lock").is_dir()


@pytest.mark.parametrize("make", [os.link, os.symlink])
def test_a_lock_file_that_is_a_link_is_refused_and_what_it_leads_to_is_left_alone(tmp_path, make):
    other = tmp_path / "other"
    other.write_text("not ours")
    other.chmod(0o644)
    make(other, tmp_path / "lock")
    with pytest.raises(Stop, match="cannot use the data directory"):
        Lock(tmp_path)
    assert (other.read_text(), other.stat().st_mode & 0o777) == ("not ours", 0o644)


def test_a_pipe_instead_of_a_file_is_waited_for_by_nobody(tmp_path):
    for name in ("lock", FACTS, "events.db"):
        os.mkfifo(tmp_path / name)
        if name == "lock":
            with pytest.raises(Stop):
                Lock(tmp_path)
            (tmp_path / name).unlink()
    Lock(tmp_path).close()
    with pytest.raises(Stop, match="not a file"):
        Guard(tmp_path / "events.db")


def test_the_lock_is_taken_when_the_reader_in_its_way_has_ended(tmp_path):
    path = tmp_path / "events.db"
    path.touch()
    with locked(path, WRITER_BYTE) as reader:
        guard = Guard(path)
        assert not guard.hold()
        assert writer.find(tmp_path) is None, "a reader is no writer"
        with path.open() as file:
            assert holder_of(file.fileno(), WRITER_BYTE).pid == reader.pid
    assert guard.hold()
    assert writer.find(tmp_path) is not None
    guard.close()
    assert writer.find(tmp_path) is None


def test_a_lock_without_a_process_is_found_with_who_has_the_file_open(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with locked(path, 100, 10, "ofd") as reader, path.open("r+") as file:
        found = filelocks.conflict(file.fileno(), fcntl.F_WRLCK, 105)
        assert (found.kind, found.pid) == (fcntl.F_RDLCK, filelocks.UNNAMED)
        assert holder_of(file.fileno(), 105).pid == reader.pid
        assert holder_of(file.fileno(), 110) is None
        assert not filelocks.take(file.fileno(), fcntl.F_WRLCK, 109)
        assert filelocks.take(file.fileno(), fcntl.F_WRLCK, 110)


def test_a_file_gets_its_name_in_the_place_of_no_other(tmp_path):
    new, target = tmp_path / "new", tmp_path / "target"
    new.write_text("new")
    target.write_text("there")
    with pytest.raises(FileExistsError):
        durable.put(new, target)
    assert (new.read_text(), target.read_text()) == ("new", "there")
    target.unlink()
    os.link(new, target)  # a crash in between
    durable.put(new, target)
    assert (new.exists(), target.read_text()) == (False, "new")


def test_a_file_gets_its_name_where_there_are_no_links(tmp_path, monkeypatch):
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "as FAT says it")

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "new").write_text("new")
    durable.put(tmp_path / "new", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    (tmp_path / "new").write_text("another")
    with pytest.raises(FileExistsError):
        durable.put(tmp_path / "new", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "new"


@pytest.mark.parametrize("name", sorted(set(filesystem.REFUSED.values())))
def test_file_systems_whose_locks_exclude_nobody_are_refused(tmp_path, monkeypatch, name):
    for number, refused in filesystem.REFUSED.items():
        if refused == name:
            monkeypatch.setattr(filesystem, "_type_of", lambda _, number=number: number)
            with pytest.raises(Stop, match=f"of type {name}") as stop:
                filesystem.check(tmp_path / "not" / "yet")
            assert stop.value.exit_code == 78


def test_facts_have_one_size_and_survive_what_is_no_text(tmp_path):
    texts = (None, "", "x" * 9_999, "\udcff\n\0" * 999)
    failures = (None, *(Failure(74, text, "now") for text in texts if text is not None))
    sizes = {len(writer.pack(Writer(1, "run", "now", text, "now", failure))) for text in texts for failure in failures}
    assert sizes == {writer.FACTS_BYTES}
    code = "import sys, sightlog; print('sightlog.writer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"
