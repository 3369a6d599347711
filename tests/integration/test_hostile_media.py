"""A disk with a backup is a stranger's: what is on it is followed nowhere, read to no end and never waited for."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import backups
import daylogs
import pytest
from conftest import Daemon, wait_for
from pictures import jpeg, png

from sightlog import Event
from sightlogd.directory import Directory, Odd

AT = datetime.now(UTC).replace(hour=12) - timedelta(days=2)
DAY = f"{AT:%Y-%m-%d}"
PICTURE = f"events/{DAY}/a.jpg"
LOG = f"events/{DAY}/events.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Iterator[Path]:
    """Directories `data` and `backup` of the same store."""
    home = tmp_path_factory.mktemp("sound")
    daemon = Daemon(home)
    try:
        daemon.start()
        with daemon.publisher() as publisher:
            events = [Event("door", event_id=one, recorded_at=AT, thumbnail=jpeg(len(one))) for one in ("a", "bb")]
            publisher.insert_events(events)
        wait_for(lambda: "bb" in daylogs.text(daemon.data_dir), "all is logged")
        assert daemon.stop() == 0
        (daemon.data_dir / "events" / "incoming").mkdir(exist_ok=True)
        (daemon.data_dir / "events" / "incoming" / "waits").write_bytes(png())
        assert backups.backup(daemon.data_dir, home / "backup").returncode == 0
    finally:
        daemon.end()
    return home


@pytest.fixture
def home(sound: Path, tmp_path: Path) -> Path:
    """A copy with an empty data directory `new` beside them, and somebody else's files in `outside`."""
    for name in ("data", "backup"):
        subprocess.run(["cp", "-a", sound / name, tmp_path / name], check=True)
    (tmp_path / "new").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return tmp_path


def outside(home: Path) -> dict[str, bytes]:
    """All that nobody of us is to touch."""
    places = [path for path in home.iterdir() if path.name not in ("data", "backup", "new")]
    return {str(path): b"" for path in places} | backups.contents(home / "outside")


# -- what takes the place of a file ----------------------------------------------------------------------------------


def _link(place: Path, home: Path) -> None:
    """To the very same bytes: it is not what they are that counts."""
    target = home / "outside" / place.name
    shutil.move(place, target) if place.exists() else target.write_text("secret")
    place.symlink_to(target)


def _dangling(place: Path, home: Path) -> None:
    _gone(place)
    place.symlink_to(home / "outside" / "made")


def _pipe(place: Path, _home: Path) -> None:
    _gone(place)
    os.mkfifo(place)


def _zeros(place: Path, _home: Path) -> None:
    _gone(place)
    os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def _folder(place: Path, _home: Path) -> None:
    _gone(place)
    place.mkdir()
    (place / "inside").write_text("a stranger's")


def _socket(place: Path, _home: Path) -> None:
    _gone(place)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound:
        here = os.open(place.parent, os.O_PATH)  # a socket's path has 107 bytes at most
        bound.bind(f"/proc/self/fd/{here}/{place.name}")
        os.close(here)


def _gone(place: Path) -> None:
    shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink(missing_ok=True)


ODD: dict[str, Callable[[Path, Path], None]] = {
    "link": _link, "dangling": _dangling, "pipe": _pipe, "zeros": _zeros, "folder": _folder, "socket": _socket,
}  # fmt: skip
odd = pytest.mark.parametrize("kind", ODD)


@odd
@pytest.mark.parametrize("file", [PICTURE, LOG, "events/incoming/waits"])
def test_what_is_no_file_is_named_and_not_restored(home, kind, file):
    ODD[kind](home / "backup" / file, home)
    before = outside(home)
    found = backups.verify(home / "backup")
    assert (found.returncode, f"{file}: it " in found.stdout) == (74, True), found.stdout + found.stderr
    done = backups.restore(home / "backup", home / "new")
    assert (done.returncode, f"not restored: {file}: it is a" in done.stdout) == (74, True), done.stdout + done.stderr
    assert not os.path.lexists(home / "new" / file)
    assert daylogs.rows(home / "new" / "events.db") == daylogs.rows(home / "data" / "events.db")
    assert outside(home) == before


@odd
@pytest.mark.parametrize("file", ["events.db", "backup.json"])
def test_without_a_database_or_manifest_that_is_a_file_nothing_is_restored(home, kind, file):
    ODD[kind](home / "backup" / file, home)
    before = outside(home)
    done = backups.restore(home / "backup", home / "new")
    assert done.returncode == 74, done.stderr
    assert file in done.stderr
    assert [path.name for path in (home / "new").iterdir()] == ["lock"]
    found = backups.verify(home / "backup")
    assert (found.returncode, file in found.stdout + found.stderr) == (74, True), found.stdout + found.stderr
    assert outside(home) == before


@pytest.mark.parametrize("folder", ["events", f"events/{DAY}", "events/incoming"])
def test_a_folder_that_is_a_link_is_not_read(home, folder):
    _link(home / "backup" / folder, home)
    done = backups.restore(home / "backup", home / "new")
    lost = "events/incoming/waits" if folder == "events/incoming" else PICTURE
    assert (done.returncode, f"not restored: {lost}: it is a link" in done.stdout) == (74, True), done.stdout
    assert not (home / "new" / lost).exists()
    assert backups.verify(home / "backup").returncode == 74


@pytest.mark.parametrize("beside", ["events.db-journal", "events.db-wal", "events.db-shm"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling"])
def test_what_lies_beside_the_database_of_a_backup_is_not_looked_at(home, beside, kind):
    ODD[kind](home / "backup" / beside, home)
    found = backups.verify(home / "backup")
    assert found.returncode == 0, found.stdout + found.stderr
    assert backups.restore(home / "backup", home / "new").returncode == 0
    assert not (home / "outside" / "made").exists()


@pytest.mark.parametrize("kind", ["pipe", "zeros", "link"])
def test_a_rebuild_from_a_backup_leaves_out_what_is_no_file(home, kind):
    other = home / "backup" / "events" / "2026-01-01"
    shutil.copytree((home / "backup" / LOG).parent, other)
    ODD[kind](other / "events.json", home)
    made = backups.run("rebuild", "--from-logs", "--data-dir", home / "backup", "--output", home / "outside" / "new.db")
    assert (made.returncode, "2 events" in made.stdout) == (74, True), made.stdout + made.stderr
    assert "events/2026-01-01/events.json (it is a" in made.stdout


def test_a_rebuild_has_no_more_of_a_line_in_memory_than_a_line_may_have(home):
    with (home / "backup" / LOG).open("ab") as log:
        log.truncate(1 << 31)  # zeros without an end
    command = ("rebuild", "--from-logs", "--data-dir", home / "backup", "--output", home / "outside" / "new.db")
    made = backups.run(*command, preexec_fn=lambda: backups.limit_memory(1 << 29))
    assert (made.returncode, "2 events" in made.stdout) == (74, True), made.stdout + made.stderr


# -- manifests -------------------------------------------------------------------------------------------------------


def rewritten(home: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    lines = backups.manifest(home / "backup")
    change(lines)
    (home / "backup" / "backup.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def refused(home: Path) -> str:
    """By all that reads a manifest; nothing is made anywhere."""
    before, backup, data = (backups.contents(home / name) for name in ("outside", "backup", "data"))
    places = {path for path in home.rglob("*") if "lock" not in path.name}
    done = backups.restore(home / "backup", home / "new")
    assert done.returncode in (74, 78), done.stdout + done.stderr
    assert backups.verify(home / "backup").returncode == 74
    again = backups.backup(home / "data", home / "backup")
    assert (again.returncode, "Nothing was changed" in again.stderr) == (78, True), again.stdout + again.stderr
    assert {path for path in home.rglob("*") if "lock" not in path.name} == places
    assert (before, backup, data) == tuple(backups.contents(home / name) for name in ("outside", "backup", "data"))
    return done.stderr


NAMES = (
    "/etc/passwd", "../x", "events/../../outside/x", "events/..", "events", "", ".", "events/2026-02-30/x.jpg",
    f"events/{DAY}/../../x", f"events/{DAY}/", f"events//{DAY}", f"events/{DAY}/..", f"events/{DAY}/a/b",
    f"events/{DAY}/a\0b", f"events/{DAY}/a\nb.jpg", f"events/{DAY}/\u0085.jpg", f"events/{DAY}/{'x' * 256}",
    f"./events/{DAY}/x.jpg", "events/incoming/..", "events/incoming/.tmp",
    "events/incoming/a b", "events/incoming/a/b", "incoming/a", "lock", "events.db-wal",
    "events.db/x", "keys/server", f"events/trash/{DAY}.1/x", "EVENTS.DB",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_manifest_may_name_only_what_a_store_has(home, name):
    rewritten(home, lambda lines: lines[1].update(path=name))
    assert "has no place in a backup" in refused(home)


LEAVING = (
    "../../../x.1", "../outside.1", "/outside/1.1", "2026-13-40.1", "", "..", f"{DAY}.x", f"{DAY}.-1", f"{DAY}.1\n",
    f"{DAY}.\u0663", f"{DAY}.{'9' * 19}", f"{DAY}", f"{DAY}.1/../../x",
)  # fmt: skip


@pytest.mark.parametrize("name", LEAVING, ids=ascii)
def test_a_manifest_may_have_only_days_go(home, name):
    rewritten(home, lambda lines: lines[-1].update(leaving=[name]))
    assert "has no place in a backup" in refused(home)


COUNTS = ("files", "bytes", "events", "observations", "days")


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        *((1, "size", value) for value in (-1, 2**63, 2**64, 10**30, 1.5, "1", None)),
        *((1, "mtime_ns", value) for value in (2**63, -(2**63) - 1, 10**30, "1")),
        *((1, "sha256", value) for value in ("", "x" * 64, "0" * 63, "0" * 64 + "\n", "../" * 21 + "x")),
        *((-1, field, value) for field in COUNTS for value in (-1, 2**64)),
        *((-1, field, 10**9) for field in ("files", "bytes")),
        (0, "format", -1), (-1, "leaving", "x"), (-1, "leaving", [1]),
    ],
)  # fmt: skip
def test_numbers_of_a_manifest_are_such_as_there_are(home, line, field, value):
    rewritten(home, lambda lines: lines[line].update({field: value}))
    refused(home)


@pytest.mark.parametrize("how", ["end within", "two beginnings", "no beginning", "two ends", "a file behind the end"])
def test_a_manifest_has_a_beginning_and_an_end(home, how):
    def change(lines: list[dict[str, Any]]) -> None:
        if how == "no beginning":
            del lines[0]
        else:
            at = {"end within": 2, "two beginnings": 1}.get(how, len(lines))
            lines.insert(at, lines[{"two beginnings": 0, "a file behind the end": 1}.get(how, -1)])

    rewritten(home, change)
    refused(home)


@pytest.mark.parametrize("how", ["zeros", "a line", "sparse"])
def test_a_manifest_without_end_is_not_read_to_its_end(home, how):
    path = home / "backup" / "backup.json"
    if how == "zeros":
        os.truncate(path, 1 << 40)
    elif how == "sparse":
        path.write_bytes(b"")
        os.truncate(path, 1 << 40)
    else:
        with path.open("ab") as file:
            file.write(b'{"kind":"file","path":"' + b"x" * (3 << 20))
            file.truncate(1 << 40)
    for done in (
        backups.restore(home / "backup", home / "new"),
        backups.verify(home / "backup"),
        backups.backup(home / "data", home / "backup"),
    ):
        assert (done.returncode in (74, 78), "backup.json" in done.stderr) == (True, True), done.stderr


def test_no_more_is_copied_than_a_manifest_says(home):
    """A file may have grown behind that, or be without end for all we know."""
    for name in (PICTURE, "events/incoming/waits", LOG):
        os.truncate(home / "backup" / name, 1 << 40)
    assert backups.verify(home / "backup").returncode == 0
    assert backups.restore(home / "backup", home / "new").returncode == 0
    for name in (PICTURE, "events/incoming/waits", LOG):
        assert (home / "new" / name).read_bytes() == (home / "data" / name).read_bytes()


@pytest.mark.timeout(300)
def test_very_many_files_that_take_the_place_of_others_make_a_manifest_that_can_be_read(home):
    """Of a store whose files were copied without their times, all are written anew."""
    folder = (home / "data" / LOG).parent
    for number in range(4_500):
        (folder / f"{number:0240}.txt").write_bytes(b"x")
    assert backups.backup(home / "data", home / "backup").returncode == 0
    for path in folder.glob("*.txt"):
        os.utime(path, (1, 1))
    assert backups.backup(home / "data", home / "backup").returncode == 0
    assert backups.verify(home / "backup").returncode == 0


# -- a backup that goes to a stranger's disk -------------------------------------------------------------------------


def change_the_store(home: Path) -> None:
    """So that every file of the backup has to be written."""
    for path in (home / "data").rglob("*"):
        if path.is_file() and path.parent.name in (DAY, "incoming"):
            os.utime(path, (1, 1))
            if path.suffix == ".jpg":
                path.write_bytes(jpeg(7))


TARGETS = (
    "backup.json.new", "events.db%new", "events.db%new-journal", "events.db%new-wal", "events.db", PICTURE, LOG,
    f"{PICTURE}%new", f"{LOG}%new", "events/incoming/waits", "events/incoming/waits%new",
)  # fmt: skip


@odd
@pytest.mark.parametrize("file", TARGETS)
def test_a_backup_writes_through_nothing_that_a_stranger_put_in_its_place(home, kind, file):
    ODD[kind](home / "backup" / file, home)
    before = outside(home)
    change_the_store(home)
    done = backups.backup(home / "data", home / "backup")
    assert outside(home) == before
    if (
        kind == "folder" and "new" in file and file.partition("%")[0] not in (LOG, "events/incoming/waits")
    ):  # did not change
        assert (done.returncode, f"{home / 'backup' / file}" in done.stderr) == (74, True), done.stderr
        assert (home / "backup" / file / "inside").exists()
        return
    assert done.returncode == 0, done.stdout + done.stderr
    assert backups.verify(home / "backup").returncode == 0
    store = backups.restored(home / "backup", home / "new")
    assert (store / PICTURE).read_bytes() == jpeg(7)
    if "new" not in file:  # a stranger's, and not ours to remove
        assert [path for path in (home / "backup" / "kept").rglob("*") if path.name == Path(file).name]


@pytest.mark.parametrize("file", ["backup.json.new", "events.db%new", LOG, f"{LOG}%new", "events.db", PICTURE])
def test_a_backup_changes_no_file_that_has_another_name_elsewhere(home, file):
    place = home / "backup" / file
    other = home / "outside" / "other"
    if place.exists():
        place.rename(other)
    else:
        other.write_text("secret")
    place.hardlink_to(other)
    before = other.read_bytes()
    change_the_store(home)
    with (home / "data" / LOG).open("a") as log:
        log.write('{"kind":"a line of a newer version"}\n')
    done = backups.backup(home / "data", home / "backup")
    assert done.returncode == 0, done.stdout + done.stderr
    assert other.read_bytes() == before
    assert backups.verify(home / "backup").returncode == 0


@pytest.mark.parametrize("folder", ["events", f"events/{DAY}", "events/incoming", "kept"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_a_backup_goes_into_no_folder_that_is_none(home, folder, kind):
    place = home / "backup" / folder
    if folder == "kept":
        place.mkdir()
    ODD[kind](place, home)
    before = outside(home)
    change_the_store(home)
    done = backups.backup(home / "data", home / "backup")
    assert outside(home) == before
    assert (done.returncode, f"{place} is in the way: it is a" in done.stderr) == (74, True), done.stdout + done.stderr
    place.unlink()
    assert backups.backup(home / "data", home / "backup").returncode == 0
    assert backups.verify(home / "backup").returncode == 0


@odd
def test_a_damaged_database_is_kept_through_nothing_odd(home, kind):
    (home / "data" / "events.db").write_bytes(b"damaged" * 10_000)
    ODD[kind](home / "data" / "events.db-wal", home)
    ODD[kind](home / "backup" / PICTURE, home)
    before = outside(home)
    done = backups.backup(home / "data", home / "backup")
    assert outside(home) == before
    if kind in ("folder", "socket"):  # SQLite does not get as far as the damage
        assert (done.returncode, "events.db" in done.stderr) == (77, True), done.stderr
        return
    assert (done.returncode, "is damaged" in done.stdout) == (74, True), done.stdout + done.stderr
    assert list((home / "backup").glob("damaged-*/events.db"))


# -- a store with odd files ------------------------------------------------------------------------------------------


@odd
def test_what_is_no_file_in_the_store_is_left_out_and_the_rest_is_backed_up(home, kind):
    for name in (f"events/{DAY}/0.jpg", f"events/{DAY}/notes.txt", "events/incoming/0"):
        ODD[kind](home / "data" / name, home)
    before = outside(home)
    done = backups.backup(home / "data", home / "second")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (home / "second" / "events" / DAY).iterdir()} == {
        "a.jpg", "bb.jpg", "events.json", "events.log",
    }  # fmt: skip
    shutil.rmtree(home / "second")
    assert outside(home) == before


@odd
@pytest.mark.parametrize("behind", [True, False])
def test_a_log_that_is_no_file_is_told_and_the_former_one_stays(home, kind, behind):
    if behind:
        with (home / "backup" / LOG).open("a") as log:
            log.write("more\n")
    ODD[kind](home / "data" / LOG, home)
    done = backups.backup(home / "data", home / "backup")
    assert done.returncode == 74, done.stdout + done.stderr
    assert f"not in the backup: {LOG}: it is a" in done.stdout
    assert "it is in the backup as it was before" in done.stdout
    store = backups.restored(home / "backup", home / "new")
    assert (store / LOG).exists()


@pytest.mark.parametrize("kind", ["pipe", "zeros", "folder", "socket"])
def test_a_database_that_is_no_file_holds_up_nobody(home, kind):
    ODD[kind](home / "data" / "events.db", home)
    before = backups.contents(home / "backup")
    done = backups.backup(home / "data", home / "backup")
    assert done.returncode in (74, 77, 78), done.stdout + done.stderr
    assert "events.db" in done.stdout + done.stderr
    assert backups.contents(home / "backup")["backup.json"] == before["backup.json"]
    assert backups.verify(home / "data").returncode in (74, 77, 78)


# -- swapped in between ----------------------------------------------------------------------------------------------


def test_a_folder_that_is_swapped_for_a_link_meanwhile_leads_nowhere(tmp_path):
    (tmp_path / "held" / "folder").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    with Directory(tmp_path / "held") as held, held.folder("folder") as folder:
        (tmp_path / "held" / "folder").rename(tmp_path / "moved")
        (tmp_path / "held" / "folder").symlink_to(tmp_path / "outside")
        os.close(folder.create("mine", 0o600))
        for forbidden in (
            lambda: held.open_file("folder/secret"),
            lambda: held.create("folder/secret", 0o600),
            lambda: held.remove("folder/secret"),
            lambda: held.rename("folder/secret", "secret"),
            lambda: held.lstat("folder/secret"),
            lambda: held.folder("folder"),
            lambda: held.make_folder("folder/below"),
        ):
            with pytest.raises(Odd, match="it is a link") as raised:
                forbidden()
            assert raised.value.filename == str(tmp_path / "held" / "folder")
        assert held.file("folder/secret") is None
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]
    assert (tmp_path / "moved" / "mine").exists()


@pytest.mark.parametrize("kind", ODD)
def test_only_a_regular_file_is_opened(tmp_path, kind):
    (tmp_path / "outside").mkdir()
    ODD[kind](tmp_path / "place", tmp_path)
    with Directory(tmp_path) as directory:
        with pytest.raises(Odd, match="it is a"):
            directory.open_file("place")
        assert directory.file("place") is None
