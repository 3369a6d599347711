"""What somebody else put into the data directory stays as it is, is not followed, and stands in nobody's way."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import backups
import daylogs
import pytest
from conftest import NOBODY, wait_for
from pictures import jpeg, png

from sightlog import Event
from sightlogd.service import control

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
AT = NOON - timedelta(days=2)
KEEPING = "[storage]\nmin_retention_days = 0\nkeep_free_gb = 0.0\n"


STRANGE = (
    "burglar for the police.jpg", "UPPER.JPG", "-dash.jpg", ".hidden.jpg", "photo.jpeg", "a.jpg.bak", "notes.txt",
    "events.json~", "line\nbreak.jpg",
)  # fmt: skip


def insert(daemon, *ids: str, at: datetime = AT, **fields: object) -> None:
    events = [Event("door", event_id=one, recorded_at=at, **{"thumbnail": jpeg(), **fields}) for one in ids]
    with daemon.publisher() as publisher:
        assert publisher.insert_events(events).stored == len(ids)
    wait_for(lambda: ids[-1] in daylogs.text(daemon.data_dir), "all is logged")


def said(daemon, text: str) -> list[dict[str, object]]:
    return [line for line in daemon.logged() if text in line["event"]]


def plant(folder: Path, outside: Path) -> dict[str, tuple[int, bytes]]:
    """Whatever an owner, or a stranger, may put into a folder; returns what `planted` has to say of it for ever."""
    outside.mkdir(exist_ok=True)
    (outside / "diary.jpg").write_bytes(b"dear diary")
    (outside / "album").mkdir(exist_ok=True)
    (outside / "album" / "anna.jpg").write_bytes(jpeg())
    for name in (*STRANGE, f"{'x' * 129}.jpg"):
        (folder / name).write_bytes(jpeg())
    (folder / "0-folder.jpg").mkdir()
    (folder / "0-folder.jpg" / "inside.jpg").write_bytes(jpeg())
    (folder / "0-link.jpg").symlink_to(outside / "diary.jpg")
    (folder / "0-dangling.jpg").symlink_to(outside / "nothing.jpg")
    (folder / "0-album.jpg").symlink_to(outside / "album")
    (folder / "albums").symlink_to(outside / "album")
    os.mkfifo(folder / "0-pipe.jpg")
    os.mknod(folder / "0-zero.jpg", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    return planted(folder)


def planted(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in it and below it but what the daemon makes, with its kind and contents."""
    found = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        data = path.read_bytes() if stat.S_ISREG(mode) else os.readlink(path).encode() if stat.S_ISLNK(mode) else b""
        if path.name not in ("events.json", "events.log"):
            found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), data)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return tmp_path / "outside"


# -- pictures without an event ---------------------------------------------------------------------------------------


def test_only_pictures_of_our_own_making_go_and_nothing_odd_ends_the_look_at_the_others(daemon, outside):
    insert(daemon, "a", "lost", "zz")
    assert daemon.stop() == 0
    folder = daemon.data_dir / "events" / f"{AT:%Y-%m-%d}"
    before = plant(folder, outside)
    del before["lost.jpg"]
    (folder / "lost.jpg").unlink()
    for name in ("1-never.jpg", "zzz-never.jpg"):
        (folder / name).write_bytes(jpeg())
    others = planted(outside)
    daemon.start()
    wait_for(lambda: said(daemon, "1 events of"), "it has looked at the whole day")
    assert planted(folder) == before
    assert planted(outside) == others
    removed = said(daemon, "removed a picture")
    assert [line["path"] for line in removed] == [f"events/{folder.name}/{n}-never.jpg" for n in ("1", "zzz")]
    assert all("no row" in str(line["reason"]) for line in removed)
    assert not said(daemon, "cannot keep the storage in order")
    assert backups.verify(daemon.data_dir).returncode == 0


def test_a_picture_of_another_user_is_not_ours_whatever_its_name(daemon):
    insert(daemon, "a")
    assert daemon.stop() == 0
    folder = daemon.data_dir / "events" / f"{AT:%Y-%m-%d}"
    (folder / "IMG_0001.jpg").write_bytes(jpeg())
    os.chown(folder / "IMG_0001.jpg", NOBODY, NOBODY)
    (folder / "never.jpg").write_bytes(jpeg())
    daemon.start()
    wait_for(lambda: said(daemon, "removed 1 pictures"), "it has looked")
    assert (folder / "IMG_0001.jpg").exists()
    assert not (folder / "never.jpg").exists()


def test_a_picture_that_cannot_be_removed_does_not_keep_the_others(daemon):
    insert(daemon, "a")
    assert daemon.stop() == 0
    folder = daemon.data_dir / "events" / f"{AT:%Y-%m-%d}"
    for name in ("0-mounted.jpg", "1-never.jpg"):
        (folder / name).write_bytes(jpeg())
    subprocess.run(["mount", "--bind", folder / "a.jpg", folder / "0-mounted.jpg"], check=True)
    try:
        daemon.start()
        wait_for(lambda: said(daemon, "removed 1 pictures"), "the other is removed")
        assert not (folder / "1-never.jpg").exists()
        assert said(daemon, "cannot remove a picture")
        assert daemon.stop() == 0
    finally:
        subprocess.run(["umount", folder / "0-mounted.jpg"], check=True)


# -- a day that goes -------------------------------------------------------------------------------------------------


def purge(daemon, *arguments: str) -> str:
    done = backups.run("purge", "--config", daemon.home / "config.toml", "--data-dir", daemon.data_dir, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_day_goes_without_what_is_not_ours(idle_daemon, outside, tmp_path, running):
    daemon = idle_daemon.start(config=KEEPING)
    insert(daemon, "a", "b")
    insert(daemon, "today", at=datetime.now(UTC))
    folder = daemon.data_dir / "events" / f"{AT:%Y-%m-%d}"
    before = plant(folder, outside)
    del before["a.jpg"], before["b.jpg"]
    others = planted(outside)
    if not running:
        assert daemon.stop() == 0
    told = purge(daemon, "--before", f"{NOON:%Y-%m-%d}")
    assert told.count(f"removed {folder.name}: ") == 1
    assert f"{len([name for name in before if '/' not in name])} files that sightlog did not make stay" in told
    assert planted(folder) == before
    assert not (folder / "events.json").exists()
    assert planted(outside) == others
    assert list((daemon.data_dir / "events" / "trash").iterdir()) == []
    # It is no day any more: not by hand, not by force, not in what the budget counts.
    assert "removed" not in purge(daemon, "--before", f"{NOON:%Y-%m-%d}", "--force")
    assert f"{folder.name} " not in purge(daemon, "--before", f"{NOON:%Y-%m-%d}", "--force", "--dry-run")
    assert backups.verify(daemon.data_dir).returncode == 0
    done = backups.backup(daemon.data_dir, tmp_path / "backup")
    assert done.returncode == 0, done.stdout + done.stderr
    store = backups.restored(tmp_path / "backup", tmp_path / "restored")
    assert (store / "events" / folder.name / "burglar for the police.jpg").read_bytes() == jpeg()
    made = backups.run("rebuild", "--from-logs", "--data-dir", daemon.data_dir, "--output", tmp_path / "new.db")
    assert (made.returncode, "1 events" in made.stdout, "from 1 days" in made.stdout) == (0, True, True)
    if running:
        assert daemon.stop() == 0
    # A late record makes it a day again, which goes again.
    daemon.start(config=KEEPING)
    assert planted(folder) == before
    insert(daemon, "late")
    assert f"removed {folder.name}: " in purge(daemon, "--before", f"{NOON:%Y-%m-%d}", "--force")
    assert planted(folder) == before


def test_what_is_left_of_a_day_does_not_keep_the_budget_busy(idle_daemon):
    """A rotation goes on until there is room: it must not remove for ever what does not go."""
    config = "[storage]\nmax_storage_gb = 0.02\nmin_retention_days = 0\nkeep_free_gb = 0.0\npurge_share_max = 1.0\n"
    daemon = idle_daemon.start(config=config)
    insert(daemon, "old", at=AT - timedelta(days=1))
    folder = daemon.data_dir / "events" / f"{AT - timedelta(days=1):%Y-%m-%d}"
    (folder / "my film.mp4").write_bytes(b"x" * 6_000_000)
    with daemon.publisher() as publisher:  # nobody waits for their lines: the day may have gone by then
        for n in range(6):
            ids = [f"e{n}-{m}" for m in range(20)]
            some = [Event("door", event_id=one, recorded_at=AT, llm_description="x" * 60_000) for one in ids]
            assert publisher.insert_events(some).stored == 20
    wait_for(lambda: len(said(daemon, "removed 20")) >= 2, "two days are removed")
    wait_for(lambda: not list((daemon.data_dir / "events" / "trash").iterdir()), "the removals are complete")
    with daemon.publisher("another") as publisher:
        assert publisher.insert_event(Event("door", event_id="today"))
    assert daemon.stop() == 0
    assert [path.name for path in folder.iterdir()] == ["my film.mp4"]
    assert len(said(daemon, f"removed {folder.name}")) == 1
    # What it takes is in what is counted.
    assert float(purge(daemon, "--dry-run").split("Storage: ")[1].split("MB")[0]) > 6.0


def test_a_removal_that_was_interrupted_follows_no_link_and_keeps_what_is_not_ours(idle_daemon, outside):
    daemon = idle_daemon.start(config=KEEPING)
    insert(daemon, "a", "b")
    last_id = 2
    assert daemon.stop() == 0
    folder = daemon.data_dir / "events" / f"{AT:%Y-%m-%d}"
    before = plant(folder, outside)
    del before["a.jpg"], before["b.jpg"]
    others = planted(outside)
    trash = daemon.data_dir / "events" / "trash"
    trash.mkdir(exist_ok=True)
    folder.rename(trash / f"{folder.name}.{last_id}")
    # Nor is a day on its way out what has such a name and is something else.
    (trash / f"{NOON:%Y-%m-%d}.9").symlink_to(outside)
    (trash / "thesis").mkdir()
    (trash / "thesis" / "1.txt").write_text("important")
    daemon.start(config=KEEPING)
    wait_for(lambda: not (trash / f"{folder.name}.{last_id}").exists(), "the removal is complete")
    wait_for(lambda: said(daemon, "did not make"), "it is told")
    assert planted(folder) == before
    assert planted(outside) == others
    assert sorted(path.name for path in trash.iterdir()) == [f"{NOON:%Y-%m-%d}.9", "thesis"]
    assert (trash / "thesis" / "1.txt").exists()
    assert daemon.reader().count_events() == 0
    assert daemon.stop() == 0
    daemon.start(config=KEEPING)
    wait_for(lambda: (daemon.data_dir / "ballast").exists(), "it has looked at everything")
    assert len(said(daemon, "did not make")) == 1


def test_what_cannot_be_moved_back_stays_and_its_day_is_gone_all_the_same(idle_daemon):
    """A directory of another user cannot be moved by the daemon's; neither can what something is mounted on."""
    daemon = idle_daemon.start(config=KEEPING)
    insert(daemon, "a")
    folder = daemon.data_dir / "events" / f"{AT:%Y-%m-%d}"
    (folder / "film").mkdir()
    (folder / "notes.txt").write_text("mine")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder / "film"], check=True)
    try:
        assert f"removed {folder.name}: " in purge(daemon, "--before", f"{NOON:%Y-%m-%d}")
        (kept,) = (daemon.data_dir / "events" / "trash").iterdir()
        assert (kept.name[:10], kept.suffix) == (folder.name, ".kept")
        assert [path.name for path in kept.iterdir()] == ["film"]
        assert [path.name for path in folder.iterdir()] == ["notes.txt"]
        assert said(daemon, "cannot move back what is not ours")
        assert daemon.reader().count_events() == 0
        assert daemon.stop() == 0
        daemon.start(config=KEEPING)
        wait_for((daemon.data_dir / "ballast").exists, "it has looked at everything")
        assert not said(daemon, "going on with the removal")
    finally:
        subprocess.run(["umount", next(daemon.data_dir.rglob("film"))], check=True)


def test_of_a_day_that_is_a_link_the_rows_go_and_nothing_behind_the_link(idle_daemon, outside):
    """It became one while the daemon ran: no verb writes to a data directory where one is."""
    daemon = idle_daemon.start(config=KEEPING)
    insert(daemon, "a")
    insert(daemon, "today", at=datetime.now(UTC))
    folder = daemon.data_dir / "events" / f"{AT:%Y-%m-%d}"
    shutil.move(folder, outside)
    folder.symlink_to(outside)
    before = sorted((path.name, path.read_bytes()) for path in outside.iterdir())
    told: list[str] = []
    request = control.PurgeRequest(force=True, before=f"{NOON:%Y-%m-%d}")
    assert control.ask(daemon.data_dir, request, told.append) == 0
    assert f"removed {folder.name}: " in "\n".join(told)
    assert sorted((path.name, path.read_bytes()) for path in outside.iterdir()) == before
    assert os.readlink(folder) == str(outside)
    assert [event.event_id for event in daemon.reader().find_events()] == ["today"]


# -- pictures that wait ----------------------------------------------------------------------------------------------


def test_of_what_waits_only_files_with_an_events_name_are_taken_up_or_removed_and_it_is_told(daemon, outside):
    insert(daemon, "a")
    assert daemon.stop() == 0
    incoming = daemon.data_dir / "events" / "incoming"
    incoming.mkdir(exist_ok=True)
    outside.mkdir()
    (outside / "secret").write_bytes(png())
    (incoming / "a picture of mine").write_bytes(png())
    (incoming / "linked").symlink_to(outside / "secret")
    (incoming / "folder").mkdir()
    (incoming / ".tmp").mkdir()
    (incoming / ".jpg").symlink_to(outside / "secret")
    os.mkfifo(incoming / "pipe")
    (incoming / "IMG_1").write_bytes(png())
    os.chown(incoming / "IMG_1", NOBODY, NOBODY)
    before = planted(incoming)
    (incoming / "never-stored").write_bytes(png())
    daemon.start()
    wait_for(lambda: not (incoming / "never-stored").exists(), "it is removed")
    assert [line["path"] for line in said(daemon, "removed a picture")] == ["events/incoming/never-stored"]
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door", event_id="new", thumbnail=png()))
    wait_for(lambda: daemon.reader().get_event("new").thumbnail_path, "a picture is made all the same")
    assert planted(incoming) == before
    assert (outside / "secret").read_bytes() == png()


@pytest.mark.parametrize("what", ["folder", "link", "pipe", "another's"])
@pytest.mark.parametrize("picture", [jpeg, png])
def test_a_name_that_is_taken_costs_the_picture_and_no_record(daemon, outside, what, picture):
    insert(daemon, "a")
    folder = daemon.data_dir / "events" / f"{AT:%Y-%m-%d}"
    outside.write_bytes(b"secret")
    taken = folder / "e.jpg"
    if what == "folder":
        taken.mkdir()
    elif what == "link":
        taken.symlink_to(outside)
    elif what == "pipe":
        os.mkfifo(taken)
    else:
        taken.write_bytes(b"mine")
        os.chown(taken, NOBODY, NOBODY)
    before = planted(folder)
    with daemon.publisher() as publisher:
        assert publisher.insert_events(
            [Event("door", event_id=one, recorded_at=AT, thumbnail=picture()) for one in ("e", "f")]
        ).stored
    reader = daemon.reader()
    wait_for(lambda: reader.get_event("f").thumbnail_path, "the next has its picture")
    wait_for(lambda: said(daemon, "no thumbnail for event e"), "it is told")
    assert reader.get_event("e").thumbnail_path is None
    del (after := planted(folder))["f.jpg"]
    assert after == before
    assert outside.read_bytes() == b"secret"


# -- metrics, and the room that is put by ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metrics.json", "latest.json", "sightlog.prom.tmp"])
@pytest.mark.parametrize("what", ["link", "dangling", "pipe", "folder"])
def test_metrics_are_written_through_no_link(idle_daemon, outside, name, what):
    daemon = idle_daemon.start()
    assert daemon.stop() == 0
    (daemon.data_dir / "metrics").mkdir(exist_ok=True)
    place = daemon.data_dir / "metrics" / name
    place.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(place)
    elif what == "folder":
        place.mkdir()
    else:
        place.symlink_to(outside)
    if what == "link":
        outside.write_text("secret")
    daemon.start()
    wait_for(lambda: said(daemon, "cannot write the metrics"), "it is told")
    assert outside.read_text() == "secret" if what == "link" else not outside.exists()
    insert(daemon, "a")


def test_metrics_are_not_written_into_a_file_with_another_name_elsewhere(idle_daemon, outside):
    assert idle_daemon.start().stop() == 0
    (idle_daemon.data_dir / "metrics").mkdir(exist_ok=True)
    outside.write_text("secret")
    (idle_daemon.data_dir / "metrics" / "sightlog.prom").unlink(missing_ok=True)
    (idle_daemon.data_dir / "metrics" / "sightlog.prom.tmp").hardlink_to(outside)
    idle_daemon.start()
    wait_for((idle_daemon.data_dir / "metrics" / "sightlog.prom").exists, "they are written")
    assert outside.read_text() == "secret"


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_the_room_that_is_put_by_is_a_file(idle_daemon, outside, what):
    daemon = idle_daemon.start()
    assert daemon.stop() == 0
    outside.write_text("secret")
    place = daemon.data_dir / "ballast"
    place.unlink(missing_ok=True)
    place.symlink_to(outside) if what == "link" else os.mkfifo(place)
    daemon.start()
    wait_for(lambda: said(daemon, "no room for the reserve file"), "it is told")
    assert outside.read_text() == "secret"
    insert(daemon, "a")
    assert place.is_symlink() if what == "link" else place.is_fifo()


@pytest.mark.parametrize("what", ["pipe", "zero"])
def test_a_log_that_is_no_file_holds_up_nobody(idle_daemon, what):
    daemon = idle_daemon.start()
    insert(daemon, "a")
    daemon.kill()
    log = daemon.data_dir / "events" / f"{AT:%Y-%m-%d}" / "events.json"
    log.unlink()
    os.mkfifo(log) if what == "pipe" else os.mknod(log, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    daemon.start()
    insert(daemon, "b", at=datetime.now(UTC))
    found = backups.verify(daemon.data_dir)
    assert found.returncode == 74
    assert "events.json" in found.stdout + found.stderr
    made = backups.run("rebuild", "--from-logs", "--data-dir", daemon.data_dir, "--output", daemon.home / "new.db")
    assert (made.returncode, "1 events" in made.stdout) == (74, True), made.stdout + made.stderr
