"""Backups and restores that are killed, refused, or find no room; and a damaged database, all the way back."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import backups
import daylogs
import pytest
from backups import backup, contents, restore, restored, verify
from conftest import AS_NOBODY, NOBODY, Daemon, fill_the_disk, open_to_all, small_file_system, wait_for
from pictures import jpeg, png

from sightlog import Event
from sightlogd.__main__ import main

AT = datetime.now(UTC).replace(hour=12) - timedelta(days=2)
CRASHING = Path(__file__).parent.parent / "crashing_backup.py"
STEPS_MAX = 400


def insert(daemon, *ids: str) -> None:
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("door", event_id=one, recorded_at=AT, thumbnail=jpeg(len(one))) for one in ids])
    wait_for(lambda: ids[-1] in daylogs.text(daemon.data_dir), "all is logged")


def flip(path: Path) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :])


def killed_at(step: int, *arguments: object) -> bool:
    """Whether it came to that step; else it ended well."""
    done = subprocess.run(
        [sys.executable, CRASHING, str(step), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path


@pytest.fixture
def second(tmp_path: Path):
    """A daemon, not started, with nothing in its data directory."""
    daemon = Daemon(tmp_path / "second")
    daemon.data_dir.mkdir(parents=True)
    yield daemon
    daemon.end()


@pytest.mark.timeout(400)
def test_wherever_a_backup_is_killed_there_is_a_whole_one(daemon, dest, elsewhere, tmp_path):
    insert(daemon, "a", "bb")
    assert daemon.stop() == 0
    assert backup(daemon.data_dir, dest).returncode == 0
    first = daylogs.rows(daemon.database)
    daemon.start()
    insert(daemon, "ccc", "dddd")
    assert daemon.stop() == 0
    with next(daemon.data_dir.glob("events/*/events.log")).open("r+") as log:
        log.write("#")  # no longer the continuation of what the backup has
    second = daylogs.rows(daemon.database)
    assert first != second
    shutil.copytree(dest, tmp_path / "kept")
    seen = []
    for step in range(1, STEPS_MAX):
        shutil.rmtree(dest)
        shutil.copytree(tmp_path / "kept", dest)
        if not killed_at(step, "backup", "--data-dir", daemon.data_dir, dest):
            break
        found = daylogs.rows(restored(dest, elsewhere) / "events.db")
        assert found in (first, second), step
        seen.append(found == second)
        if step % 5 == 0:
            assert backup(daemon.data_dir, dest).returncode == 0
            assert daylogs.rows(restored(dest, elsewhere) / "events.db") == second
    else:
        pytest.fail(f"more than {STEPS_MAX} steps")
    assert seen == sorted(seen)
    assert {*seen} == {False, True}
    assert len(seen) > 20


@pytest.mark.timeout(200)
def test_a_first_backup_that_is_killed_is_told_and_begun_anew(daemon, dest, elsewhere):
    insert(daemon, "a", "bb")
    assert daemon.stop() == 0
    for step in range(2, STEPS_MAX, 3):
        shutil.rmtree(dest, ignore_errors=True)
        if not killed_at(step, "backup", "--data-dir", daemon.data_dir, dest):
            break
        shutil.rmtree(elsewhere)
        elsewhere.mkdir()
        done = restore(dest, elsewhere)
        if done.returncode != 0:
            assert done.returncode == 78
            assert "no backup was ever completed" in done.stderr or "is not a backup" in done.stderr
        assert backup(daemon.data_dir, dest).returncode == 0
        assert daylogs.rows(restored(dest, elsewhere) / "events.db") == daylogs.rows(daemon.database)


@pytest.mark.timeout(300)
def test_wherever_a_restore_is_killed_it_is_told_and_done_by_the_next(daemon, dest, elsewhere):
    insert(daemon, "a", "bb")
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door", event_id="waiting", recorded_at=AT, thumbnail=png()))
    assert daemon.stop() == 0
    (daemon.data_dir / "events" / "incoming").mkdir(exist_ok=True)
    (daemon.data_dir / "events" / "incoming" / "e").write_bytes(png())
    assert backup(daemon.data_dir, dest).returncode == 0
    before = contents(dest)
    told = finished = 0
    for step in range(1, STEPS_MAX):
        shutil.rmtree(elsewhere)
        elsewhere.mkdir()
        if not killed_at(step, "restore", "--data-dir", elsewhere, dest):
            break
        if not (elsewhere / "events.db").exists() and any(
            (elsewhere / name).exists() for name in ("restoring", "restored")
        ):
            started = backups.run("run", "--data-dir", elsewhere, "--endpoint", f"ipc://{elsewhere}/s")
            assert started.returncode == 78
            assert "a restore was interrupted" in started.stderr
            assert "sightlogd restore again" in started.stderr
            told += 1
        done = restore(dest, elsewhere)
        if done.returncode == 78:
            assert "there is a store" in done.stderr  # killed behind the last rename
        else:
            assert (done.returncode, done.stderr) == (0, "")
            finished += "finished the restore" in done.stdout
        assert daylogs.rows(elsewhere / "events.db") == daylogs.rows(daemon.database)
        assert (elsewhere / "events" / "incoming" / "e").read_bytes() == png()
        assert len(list(elsewhere.glob("events/*/*.jpg"))) >= 2
        assert verify(elsewhere).returncode == 0
    assert told > 10
    assert finished > 2
    assert contents(dest) == before
    shutil.rmtree(elsewhere)


# -- no room ---------------------------------------------------------------------------------------------------------


def test_no_room_is_said_with_numbers_and_the_former_backup_is_whole(daemon, tmp_path, elsewhere):
    disk = tmp_path / "disk"
    insert(daemon, "a", "bb")
    with small_file_system(disk, "4m"):
        assert backup(daemon.data_dir, disk / "b").returncode == 0
        before = daylogs.rows(daemon.database)
        kept = contents(disk / "b")
        insert(daemon, "ccc")
        fill_the_disk(disk / "filler")
        done = backup(daemon.data_dir, disk / "b")
        assert done.returncode == 28
        assert "MB are to be copied" in done.stderr
        assert "0MB are free" in done.stderr
        assert contents(disk / "b") == kept
        assert daylogs.rows(restored(disk / "b", elsewhere) / "events.db") == before


def test_a_disk_that_gets_full_meanwhile_keeps_the_former_backup(daemon, tmp_path, elsewhere):
    """A quota, or somebody else who writes there: it had room when it was looked."""
    disk = tmp_path / "disk"
    insert(daemon, "a", "bb")
    with small_file_system(disk, "4m"):
        assert backup(daemon.data_dir, disk / "b").returncode == 0
        before = daylogs.rows(daemon.database)
        insert(daemon, "ccc")
        fill_the_disk(disk / "filler")
        script = (
            "import sys; from sightlogd.backups.backup import Backup; Backup._check_room = lambda *_: None; "
            "from sightlogd.__main__ import main; sys.exit(main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", script, "backup", "--data-dir", daemon.data_dir, disk / "b"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 28, done.stderr
        assert "no room in" in done.stderr
        assert "What was in the backup before is as it was" in done.stderr
        (disk / "filler").unlink()
        assert daylogs.rows(restored(disk / "b", elsewhere) / "events.db") == before


def test_a_restore_without_room_puts_nothing_in_place(daemon, dest, tmp_path):
    insert(daemon, "a")
    assert backup(daemon.data_dir, dest).returncode == 0
    with small_file_system(tmp_path / "disk", "100k"):
        done = restore(dest, tmp_path / "disk")
        assert done.returncode == 28
        assert "Nothing was put in place" in done.stderr
        assert {path.name for path in (tmp_path / "disk").iterdir()} <= {"lock"}


# -- refusals --------------------------------------------------------------------------------------------------------


def test_more_days_than_files_may_be_open_is_said(daemon, dest):
    for number in range(1, 29):
        (daemon.data_dir / "events" / f"2026-02-{number:02}").mkdir(parents=True)
    arguments = ("backup", "--data-dir", daemon.data_dir, dest)
    done = backups.run(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)))
    assert (done.returncode, "Raise the hard limit: ulimit -Hn" in done.stderr) == (75, True), done.stderr
    # Where only what a process begins with is too few, it takes more.
    done = backups.run(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 100)))
    assert done.returncode == 0, done.stderr


def test_where_a_backup_may_not_go(daemon, tmp_path):
    insert(daemon, "a")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("important")
    (dangling := tmp_path / "dangling").symlink_to("nowhere")
    for place, said in (
        (daemon.data_dir / "backup", "within one another"),
        (daemon.home, "within one another"),
        (tmp_path / "not" / "mounted", "Is the disk mounted?"),
        (full, "not empty, and not a backup"),
        (full / "thesis.txt", "not a directory"),
        (dangling, "not a directory"),
    ):
        done = backup(daemon.data_dir, place)
        assert (done.returncode, said in done.stderr) == (78, True), done.stderr
    assert [path.name for path in full.iterdir()] == ["thesis.txt"]
    assert not (daemon.data_dir / "backup").exists()
    done = backups.run("backup", "--data-dir", tmp_path / "nowhere", tmp_path / "b")
    assert (done.returncode, "there is no database" in done.stderr) == (78, True)


def test_a_backup_of_another_store_is_not_touched_and_that_of_a_rebuilt_one_goes_on(
    daemon, idle_daemon, dest, tmp_path
):
    insert(daemon, "a")
    assert daemon.stop() == 0
    assert backup(daemon.data_dir, dest).returncode == 0
    other = tmp_path / "other"
    shutil.copytree(daemon.data_dir, other)
    for file in other.glob("events*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    daemon.data_dir.rename(tmp_path / "moved")
    other.rename(daemon.data_dir)
    daemon.start()
    insert(daemon, "b")
    assert daemon.stop() == 0
    before = contents(dest)
    done = backup(daemon.data_dir, dest)
    assert (done.returncode, "is a backup of another store" in done.stderr) == (78, True)
    assert contents(dest) == before
    # A database made from the same day logs is a new one of the same store.
    rebuilt = tmp_path / "moved"
    for file in rebuilt.glob("events.db*"):
        file.unlink()
    assert backups.run("rebuild", "--from-logs", "--data-dir", rebuilt).returncode == 0
    assert backup(rebuilt, dest).returncode == 0


def test_a_second_backup_to_the_same_place_does_not_wait_or_disturb(daemon, dest):
    insert(daemon, "a")
    assert backup(daemon.data_dir, dest).returncode == 0
    holder = subprocess.Popen(["flock", dest, "cat"], stdin=subprocess.PIPE)
    try:
        wait_for(lambda: backup(daemon.data_dir, dest).returncode == 75, "it is held")
        assert "another backup" in backup(daemon.data_dir, dest).stderr
    finally:
        holder.communicate()
    assert backup(daemon.data_dir, dest).returncode == 0


def test_where_a_restore_may_not_go(daemon, dest, elsewhere, tmp_path):
    insert(daemon, "a")
    assert backup(daemon.data_dir, dest).returncode == 0
    running = restore(dest, daemon.data_dir)
    assert (running.returncode, "another sightlogd" in running.stderr) == (75, True)
    assert daemon.stop() == 0
    before = contents(daemon.data_dir)
    there = restore(dest, daemon.data_dir)
    assert (there.returncode, "there is a store in" in there.stderr, "mv events.db" in there.stderr) == (78, True, True)
    assert {**contents(daemon.data_dir), "lock": b""} == {**before, "lock": b""}
    assert restore(dest, tmp_path / "nowhere").returncode == 78
    assert restore(dest, dest / "data").returncode == 78
    assert "no backup.json" in restore(tmp_path, elsewhere).stderr + restore(daemon.data_dir, elsewhere).stderr
    # The way it says: both are there then.
    commands = there.stderr.split("\n", 1)[1]
    subprocess.run(["sh", "-ec", commands], check=True)
    assert restore(dest, daemon.data_dir).returncode == 0
    assert (tmp_path / "data.before" / "events.db").exists()


@pytest.mark.parametrize(
    ("file", "how"),
    [*(("events.db", how) for how in ("flipped", "cut", "gone")), *(("backup.json", how) for how in ("cut", "gone"))],
)
def test_a_backup_that_is_not_what_was_backed_up_is_not_restored(daemon, dest, elsewhere, file, how):
    insert(daemon, "a")
    assert backup(daemon.data_dir, dest).returncode == 0
    path = dest / file
    if how == "flipped":
        flip(path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    done = restore(dest, elsewhere)
    assert done.returncode in (74, 78)
    assert path.name in done.stderr
    assert [entry.name for entry in elsewhere.iterdir()] in (["lock"], [])


def test_a_manifest_may_not_name_what_is_elsewhere(daemon, dest, elsewhere, tmp_path):
    insert(daemon, "a")
    assert backup(daemon.data_dir, dest).returncode == 0
    manifest = dest / "backup.json"
    manifest.write_text(manifest.read_text().replace("/a.jpg", "/../../../x"))
    done = restore(dest, elsewhere)
    assert (done.returncode, "has no place in a backup" in done.stderr) == (78, True)


@pytest.mark.parametrize("file", ["events.json", "events.log", "a.jpg"])
@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_a_damaged_picture_or_log_of_a_backup_is_named_and_the_rest_restored(daemon, dest, second, tmp_path, file, how):
    insert(daemon, "a", "bb")
    assert daemon.stop() == 0  # which marks the logs as complete
    assert backup(daemon.data_dir, dest).returncode == 0
    path = dest / "events" / f"{AT:%Y-%m-%d}" / file
    path.unlink() if how == "gone" else flip(path)
    done = restore(dest, second.data_dir)
    assert done.returncode == 74
    assert f"not restored: events/{AT:%Y-%m-%d}/{file}: it is " in done.stdout
    assert daylogs.rows(second.database)["events"] == daylogs.rows(daemon.database)["events"]
    assert len(list(second.data_dir.glob("events/*/*"))) == 3
    if file != "a.jpg":
        assert verify(second.data_dir).returncode == 0
        second.start()
        wait_for(lambda: daylogs.are_marked(second.database), "it has written what the logs lacked")
        assert second.stop() == 0
        daylogs.assert_the_logs_have_everything(second.data_dir, tmp_path / "new.db")


def test_a_log_that_is_damaged_in_the_backup_is_copied_anew_when_it_has_grown(daemon, dest, elsewhere):
    insert(daemon, "a")
    assert backup(daemon.data_dir, dest).returncode == 0
    flip(dest / "events" / f"{AT:%Y-%m-%d}" / "events.json")
    insert(daemon, "bb")
    assert backup(daemon.data_dir, dest).returncode == 0
    restored(dest, elsewhere)


# -- what the backup alone has ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [True, False])
def test_a_removed_day_that_comes_again_does_not_replace_what_the_backup_has_of_it(daemon, dest, elsewhere, between):
    insert(daemon, "a", "bb", "ccc")
    assert backup(daemon.data_dir, dest).returncode == 0
    before = contents(dest / "events")
    purge = ("purge", "--force", "--before", f"{AT + timedelta(days=1):%Y-%m-%d}", "--data-dir", daemon.data_dir)
    assert backups.run(*purge).returncode == 0
    if between:
        assert backup(daemon.data_dir, dest).returncode == 0
    insert(daemon, "late")
    done = backup(daemon.data_dir, dest)
    assert done.returncode == 0
    (kept,) = dest.glob("kept/*")
    assert f"  {kept}/events.json" in done.stdout
    day = f"{AT:%Y-%m-%d}"
    assert {name: (kept / name).read_bytes() for name in ("events.json", "events.log")} == {
        name: before[f"{day}/{name}"] for name in ("events.json", "events.log")
    }
    assert all((dest / "events" / name).read_bytes() == data for name, data in before.items() if name.endswith("jpg"))
    restored(dest, elsewhere)
    assert [row[1] for row in daylogs.rows(elsewhere / "events.db")["events"]] == ["late"]
    assert "kept" not in backup(daemon.data_dir, dest).stdout


@pytest.mark.parametrize("file", ["a.jpg", "events.json"])
def test_what_cannot_be_read_any_more_stays_in_the_backup_as_it_was(
    daemon, dest, second, tmp_path, monkeypatch, capsys, file
):
    insert(daemon, "a")
    assert backup(daemon.data_dir, dest).returncode == 0
    insert(daemon, "bb")
    assert daemon.stop() == 0
    bad = daemon.data_dir / "events" / f"{AT:%Y-%m-%d}" / file
    os.utime(bad)
    copy = dest / bad.relative_to(daemon.data_dir)
    before = copy.read_bytes()
    read = os.read

    def read_or_fail(fd: int, size: int) -> bytes:
        """A bad sector: no disk of these can be had."""
        if os.path.sameopenfile(fd, bad_fd):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, size)

    with bad.open("rb") as opened:
        bad_fd = opened.fileno()
        monkeypatch.setattr(os, "read", read_or_fail)
        assert main(["backup", "--data-dir", str(daemon.data_dir), str(dest)]) == 74
        monkeypatch.undo()
    said = capsys.readouterr().out
    assert f"{file}: Input/output error, it is in the backup as it was before" in said
    assert copy.read_bytes()[: len(before)] == before
    restored(dest, second.data_dir)
    assert verify(second.data_dir).returncode == 0
    second.start()
    wait_for(lambda: daylogs.are_marked(second.database), "it has written what the logs lacked")
    assert second.stop() == 0
    daylogs.assert_the_logs_have_everything(second.data_dir, tmp_path / "new.db")


def test_names_that_are_too_long_when_written_out_or_no_text(daemon, dest, elsewhere):
    ids = ["A" * 128, "B" * 84, "c" * 128]
    insert(daemon, *ids)
    foreign = os.fsencode(daemon.data_dir / "events" / f"{AT:%Y-%m-%d}") + b"/\xff\xfe.jpg"
    with open(foreign, "wb") as file:
        file.write(b"whatever")
    os.utime(foreign, (1, 1))
    done = backup(daemon.data_dir, dest)
    assert done.returncode == 0
    assert "\\udcff\\udcfe.jpg: its name is not UTF-8" in done.stdout
    assert "; 1 files" in backup(daemon.data_dir, dest).stdout
    restored(dest, elsewhere)
    assert {path.stem for path in elsewhere.glob("events/*/*.jpg")} == set(ids)
    found = backups.run("verify", "--data-dir", daemon.data_dir, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"})
    assert (found.returncode, "\\udcff\\udcfe.jpg" in found.stdout) == (0, True)


# -- other users -----------------------------------------------------------------------------------------------------


def test_another_user_of_the_readers_group_can_back_up_and_is_told_what_he_may_not_read(daemon, tmp_path, elsewhere):
    open_to_all(daemon.home)
    insert(daemon, "a", "bb")
    for folder, _, names in os.walk(daemon.data_dir):
        os.chown(folder, 0, NOBODY)
        for name in names:
            os.chown(Path(folder, name), 0, NOBODY)
    place = tmp_path / "by-nobody"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)

    def by_nobody(*arguments: object) -> subprocess.CompletedProcess[str]:
        program = f"{AS_NOBODY}\nsys.exit(sightlogd.__main__.main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    done = by_nobody("backup", "--data-dir", daemon.data_dir, place)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert {path.stat().st_mode & 0o7777 for path in place.rglob("*") if path.is_file()} == {0o640}
    assert daylogs.rows(restored(place, elsewhere) / "events.db") == daylogs.rows(daemon.database)
    assert by_nobody("verify", "--data-dir", daemon.data_dir).returncode == 0
    secret = next(daemon.data_dir.glob("events/*/a.jpg"))
    secret.chmod(0o600)
    os.utime(secret)
    done = by_nobody("backup", "--data-dir", daemon.data_dir, place)
    assert done.returncode == 77
    assert f"not in the backup: events/{AT:%Y-%m-%d}/a.jpg: Permission denied" in done.stdout
    assert "Run this as the daemon's user" in done.stdout
    refused = by_nobody("restore", "--data-dir", elsewhere, place)
    assert (refused.returncode, "belongs to another user" in refused.stderr) == (77, True)
    (mine := tmp_path / "mine").mkdir()
    os.chown(mine, NOBODY, NOBODY)
    os.chown(place, 0, 0)
    place.chmod(0o700)
    refused = by_nobody("restore", "--data-dir", mine, place)
    assert (refused.returncode, "this user may not read" in refused.stderr) == (77, True)


@pytest.mark.parametrize("owner", [0, NOBODY])
def test_root_restores_through_no_link_that_another_user_may_have_put_there(daemon, dest, elsewhere, tmp_path, owner):
    """What they lead to would be overwritten, or given to him."""
    insert(daemon, "a")
    assert backup(daemon.data_dir, dest).returncode == 0
    secret = tmp_path / "secret"
    secret.write_text("root's")
    (elsewhere / "lock").symlink_to(secret)
    os.chown(elsewhere, owner, owner)
    done = restore(dest, elsewhere)
    assert (done.returncode, f"{elsewhere / 'lock'} is a link" in done.stderr) == (78, True)
    assert (secret.read_text(), secret.stat().st_uid) == ("root's", 0)


def test_what_is_restored_has_the_modes_that_the_daemon_makes(daemon, dest, elsewhere):
    insert(daemon, "a")
    assert backup(daemon.data_dir, dest).returncode == 0
    for path in dest.rglob("*"):
        path.chmod(0o777)  # as FAT has it
    assert restore(dest, elsewhere).returncode == 0
    modes = {path.relative_to(elsewhere): path.stat().st_mode & 0o7777 for path in elsewhere.rglob("*")}
    assert len(modes) >= 6
    for path, mode in modes.items():
        assert mode == (daemon.data_dir / path).stat().st_mode & 0o7777, path


def test_a_database_that_came_back_meanwhile_is_not_replaced(daemon, dest, elsewhere):
    insert(daemon, "a")
    assert backup(daemon.data_dir, dest).returncode == 0
    assert restore(dest, elsewhere).returncode == 0
    (elsewhere / "restored").mkdir()
    (elsewhere / "restored" / "events.db").write_bytes(b"of an interrupted one")
    before = (elsewhere / "events.db").read_bytes()
    done = restore(dest, elsewhere)
    assert (done.returncode, "of a restore that was interrupted is too" in done.stderr) == (78, True)
    assert (elsewhere / "events.db").read_bytes() == before


# -- a damaged database ----------------------------------------------------------------------------------------------


def damage(database: Path) -> None:
    with database.open("r+b") as file:
        for page in range(4, database.stat().st_size // 4096, 3):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)


@pytest.mark.parametrize("way", ["rebuild", "restore"])
def test_from_a_damaged_database_back_to_a_daemon_that_runs(daemon, dest, way):
    insert(daemon, "a", "bb")
    assert backup(daemon.data_dir, dest).returncode == 0
    at_backup = contents(dest)
    insert(daemon, "ccc")
    assert daemon.stop() == 0
    before = daylogs.rows(daemon.database)
    damage(daemon.database)
    damaged = daemon.database.read_bytes()
    daemon.start(wait=False)
    assert daemon.process.wait(20) == 78
    said = daemon.logged()[-1]["event"]
    for word in ("is damaged", "Nothing was changed", "sightlogd backup", "rebuild --from-logs", "sightlogd restore"):
        assert word in said
    found = verify(daemon.data_dir)
    assert found.returncode in (74, 78)
    kept = backup(daemon.data_dir, dest)
    assert kept.returncode == 74
    assert "is damaged" in kept.stdout
    (aside,) = dest.glob("damaged-*")
    assert (aside / "events.db").read_bytes() == damaged
    assert (dest / "backup.json").read_bytes() == at_backup["backup.json"]
    assert (dest / "events.db").read_bytes() == at_backup["events.db"]
    assert list(dest.glob("events/*/ccc.jpg"))
    assert daemon.database.read_bytes() == damaged
    away = daemon.home / "away"
    away.mkdir()
    for file in daemon.data_dir.glob("events.db*"):
        file.rename(away / file.name)
    if way == "rebuild":
        assert backups.run("rebuild", "--from-logs", "--data-dir", daemon.data_dir).returncode == 0
    else:
        assert restore(dest, daemon.data_dir).returncode == 78  # day folders that are newer
        (daemon.data_dir / "events").rename(away / "events")
        done = restore(dest, daemon.data_dir)
        assert (done.returncode, done.stderr) == (0, "")
    daemon.start()
    with daemon.publisher("another") as publisher:
        assert publisher.insert_event(Event("door"))
    assert daemon.stop() == 0
    ids = {row[1] for row in daylogs.rows(daemon.database)["events"]}
    wanted = {row[1] for row in before["events"]}
    assert wanted - ids == (set() if way == "rebuild" else {"ccc"})
    assert verify(daemon.data_dir).returncode == 0


def test_beside_a_running_daemon_a_damaged_database_is_not_copied(daemon, dest):
    insert(daemon, "a")
    damage(daemon.database)
    done = backup(daemon.data_dir, dest)
    assert done.returncode == 74
    assert "the daemon runs. Stop it" in done.stdout
    assert "has no backup yet" in done.stdout
    assert not list(dest.glob("damaged-*/events.db"))
    assert list(dest.glob("events/*/a.jpg"))
