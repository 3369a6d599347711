"""Folders and files that cannot be written cost their own pictures and lines, and nobody's records."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import backups
import daylogs
import pytest
from conftest import Daemon, wait_for
from pictures import jpeg, png
from test_storage import config, fill_a_day, purge, said

from sightlog import Event

NOW = datetime.now(UTC).replace(hour=12)
TODAY, BEFORE = NOW, NOW - timedelta(days=1)
UTC_DAYS = "[store]\ntimezone = 'UTC'\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, attributes and owners need root")
Ruin = Callable[[Path], contextlib.AbstractContextManager[object]]


def run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


def home_of(folder: Path) -> Path:
    return next(path for path in folder.parents if path.name == "data").parent


@pytest.fixture
def stopped(idle_daemon: Daemon) -> Daemon:
    """With a store."""
    assert idle_daemon.start(config=UTC_DAYS).stop() == 0
    return idle_daemon


@contextlib.contextmanager
def is_a_file(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("somebody's")
    yield
    folder.unlink()


@contextlib.contextmanager
def is_a_link(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    (outside := home_of(folder) / "outside").mkdir()
    folder.symlink_to(outside)
    yield
    assert list(outside.iterdir()) == [], "it was written through"
    folder.unlink()


@contextlib.contextmanager
def is_immutable(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    run("chattr", "+i", folder)
    try:
        yield
    finally:
        run("chattr", "-i", folder)


@contextlib.contextmanager
def is_read_only(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder)
    try:
        yield
    finally:
        run("umount", folder)


@contextlib.contextmanager
def is_another_mount(folder: Path) -> Iterator[None]:
    """A rename from elsewhere to there is EXDEV."""
    folder.mkdir(parents=True)
    (disk := home_of(folder) / "disk").mkdir()
    run("mount", "--bind", disk, folder)
    try:
        yield
    finally:
        run("umount", folder)


RUINS = [is_a_file, is_a_link, is_immutable, is_read_only, is_another_mount]


def sent(daemon: Daemon, name: str, at: datetime, picture: bytes | None = None) -> Event:
    event = Event("door", recorded_at=at, thumbnail=picture)
    with daemon.publisher(name) as publisher:
        assert publisher.insert_event(event)
    return event


def path_of(daemon: Daemon, event: Event) -> str | None:
    found = daemon.reader().get_event(event.event_id)
    assert found is not None
    return found.thumbnail_path


def errors(daemon: Daemon, text: str) -> list[str]:
    return [line["event"] for line in daemon.logged() if line["level"] == "error" and text in line["event"]]


@needs_root
@pytest.mark.parametrize("picture", [jpeg(), png()], ids=["as_sent", "re_encoded"])
@pytest.mark.parametrize("ruin", RUINS, ids=lambda ruin: ruin.__name__)
def test_a_day_whose_folder_cannot_be_written_costs_its_own_pictures(stopped, ruin, picture):
    daemon = stopped
    folder = daemon.data_dir / "events" / f"{BEFORE:%Y-%m-%d}"
    with ruin(folder):
        daemon.start(config=UTC_DAYS)
        bad = sent(daemon, "bad", BEFORE, picture)
        for _ in range(3):
            good = sent(daemon, "good", TODAY, jpeg())
            assert path_of(daemon, good) == f"events/{TODAY:%Y-%m-%d}/{good.event_id}.jpg"
        plain = sent(daemon, "plain", BEFORE)
        assert path_of(daemon, plain) is None
        wait_for(lambda: errors(daemon, f"the thumbnail of event {bad.event_id} waits"), "it is told")
        assert path_of(daemon, bad) is None
        assert (daemon.data_dir / "events" / "incoming" / bad.event_id).read_bytes() == picture
        daemon.kill()
    daemon.start(config=UTC_DAYS)
    path = wait_for(lambda: path_of(daemon, bad), "the picture gets to its place")
    assert path == f"events/{BEFORE:%Y-%m-%d}/{bad.event_id}.jpg"
    if picture == jpeg():
        assert (daemon.data_dir / path).read_bytes() == picture
    assert not (daemon.data_dir / "events" / "incoming" / bad.event_id).exists()
    wait_for(lambda: daylogs.are_marked(daemon.database), "the logs have it")
    assert daemon.stop() == 0
    assert backups.run("verify", "--data-dir", daemon.data_dir).returncode == 0


@needs_root
@pytest.mark.parametrize("name", ["events/incoming", "events/trash", "events"])
@pytest.mark.parametrize("ruin", RUINS[:4], ids=lambda ruin: ruin.__name__)
def test_where_a_picture_cannot_wait_either_it_is_dropped_and_records_flow(idle_daemon, ruin, name):
    daemon = idle_daemon.start(config=UTC_DAYS)
    first = sent(daemon, "first", TODAY, jpeg())
    assert daemon.stop() == 0
    (daemon.data_dir / "events").rename(daemon.home / "kept")
    with ruin(daemon.data_dir / name):
        daemon.start(config=UTC_DAYS)
        for picture in (png(), jpeg(), None):
            event = sent(daemon, "one", TODAY, picture)
        if name == "events":
            wait_for(lambda: errors(daemon, "cannot be used"), "it is told")
            assert path_of(daemon, event) is None
            assert [line for line in daemon.logged() if "no thumbnail for event" in line["event"]]
        daemon.kill()
    assert daemon.reader().count_events() == 4
    assert first


@needs_root
def test_pictures_and_removals_work_where_the_day_folders_are_a_mount(idle_daemon):
    (daemon := idle_daemon).data_dir.mkdir()
    (disk := daemon.home / "disk").mkdir()
    (events := daemon.data_dir / "events").mkdir()
    run("mount", "--bind", disk, events)
    try:
        daemon.start(config=UTC_DAYS)
        for picture in (jpeg(), png()):
            event = sent(daemon, "camera", BEFORE, picture)
            wait_for(lambda event=event: path_of(daemon, event), "it is in its place")
        assert "removed" in purge(daemon, "--day", f"{BEFORE:%Y-%m-%d}", "--force").stdout
        assert sorted(path.name for path in disk.iterdir()) == ["incoming", "trash"]
        assert daemon.reader().count_events() == 0
        assert daemon.stop() == 0
    finally:
        run("umount", events)


@needs_root
@pytest.mark.parametrize("ruin", [is_another_mount, is_immutable], ids=lambda ruin: ruin.__name__)
def test_a_day_that_cannot_be_moved_stays_and_others_go(stopped, ruin):
    limits = config(0.03, purge_share_max=1.0)
    old, next_day = (datetime.now(UTC) - timedelta(days=ago) for ago in (6, 5))
    folder = stopped.data_dir / "events" / f"{old:%Y-%m-%d}"
    with ruin(folder):
        daemon = stopped.start(config=limits + UTC_DAYS)
        for ago in (6, 5, 4, 3, 2):
            fill_a_day(daemon, ago)
        wait_for(lambda: said(daemon, f"removed {next_day:%Y-%m-%d}"), "the next day goes")
        assert errors(daemon, f"cannot remove {old:%Y-%m-%d}, its files and rows stay")
        assert len(list(daemon.reader().find_events(end=old.replace(hour=23)))) == 200
        asked = purge(daemon, "--day", f"{old:%Y-%m-%d}", "--force")
        assert f"cannot remove {old:%Y-%m-%d}" in asked.stdout
        daemon.kill()


@needs_root
def test_a_file_of_a_day_that_cannot_be_removed_holds_up_nothing(idle_daemon):
    daemon = idle_daemon.start(config=UTC_DAYS)
    events = [sent(daemon, "camera", BEFORE, jpeg()) for _ in range(2)]
    picture = daemon.data_dir / path_of(daemon, events[0])
    run("chattr", "+i", picture)
    try:
        gone = purge(daemon, "--day", f"{BEFORE:%Y-%m-%d}", "--force")
        assert gone.returncode == 0, gone.stdout
        assert daemon.reader().count_events() == 0
        assert errors(daemon, "cannot remove a file of a day that goes")
        (kept,) = (daemon.data_dir / "events" / "trash").iterdir()
        assert [path.name for path in kept.iterdir()] == [picture.name]
        assert daemon.stop() == 0
    finally:
        run("chattr", "-i", *daemon.data_dir.glob("events/*/*.jpg"), *daemon.data_dir.glob("events/trash/*/*.jpg"))


@pytest.mark.parametrize("broken", ["events.log", "events.json"])
def test_one_log_that_cannot_be_written_keeps_nothing_from_the_other(stopped, broken):
    daemon = stopped
    folder = daemon.data_dir / "events" / f"{TODAY:%Y-%m-%d}"
    (folder / broken).mkdir(parents=True)
    daemon.start(config=UTC_DAYS)
    events = [sent(daemon, "camera", at) for at in (TODAY, BEFORE, TODAY)]
    other = folder / ("events.json" if broken == "events.log" else "events.log")
    wait_for(lambda: other.exists() and other.read_text().count("door") == 2, "the other has both")
    before = daemon.data_dir / "events" / f"{BEFORE:%Y-%m-%d}"
    wait_for(lambda: (before / broken).read_text().count("door") == 1, "the other day has its own")
    assert f"cannot write {folder / broken}: " in errors(daemon, "it is added when that works again")[0]
    daemon.kill()
    (folder / broken).rmdir()
    daemon.start(config=UTC_DAYS)
    wait_for(lambda: daylogs.are_marked(daemon.database), "all is added")
    for day in (folder, before):
        count = sum(f"{event.recorded_at:%Y-%m-%d}" == day.name for event in events)
        assert [(day / name).read_text().count("door") for name in ("events.json", "events.log")] == [count, count]
    assert daemon.stop() == 0
    assert backups.run("verify", "--data-dir", daemon.data_dir).returncode == 0


def test_a_log_that_can_be_written_again_gets_what_it_missed_while_the_daemon_runs(stopped):
    program = "import sys; from sightlogd import __main__; from sightlogd.service import background; "
    program += "background.ROUND_SECONDS = 0.2; sys.exit(__main__.main(sys.argv[1:]))"
    folder = stopped.data_dir / "events" / f"{TODAY:%Y-%m-%d}"
    (folder / "events.log").mkdir(parents=True)
    daemon = stopped.start(config=UTC_DAYS, program=["-c", program])
    sent(daemon, "camera", TODAY)
    wait_for(lambda: errors(daemon, "it is added when that works again"), "it is told")
    (folder / "events.log").rmdir()
    wait_for(lambda: (folder / "events.log").exists() and "door" in (folder / "events.log").read_text(), "it is added")


@needs_root
def test_days_go_when_the_disk_has_no_inodes_left(idle_daemon):
    """There are bytes enough: 54 MB were free, all days could go, and nothing went."""
    (daemon := idle_daemon).settings = config(1.0, purge_share_max=1.0) + UTC_DAYS
    image, disk = daemon.home / "image", daemon.home / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", "-N", "512", image)
    run("mount", "-o", "loop", image, disk)
    try:
        daemon.data_dir, daemon.database = disk / "data", disk / "data" / "events.db"
        daemon.start()
        for ago in (6, 5, 4, 3, 2, 1, 0):
            at = NOW - timedelta(days=ago)
            with daemon.publisher() as publisher:
                publisher.publish_many([Event("door", recorded_at=at, thumbnail=jpeg(n)) for n in range(110)])
                assert publisher.flush(60), "it is refused now and then, and goes on"
        oldest = f"{NOW - timedelta(days=6):%Y-%m-%d}"
        wait_for(lambda: said(daemon, f"removed {oldest}"), "the oldest day goes")
        told = [line["event"] for line in daemon.logged() if "inodes" in line["event"]]
        assert any("by the inodes of the disk" in text for text in told), told
        assert daemon.stop() == 0
        pictures = len(list(daemon.data_dir.glob("events/*/*.jpg")))
        assert daemon.reader().count_events() >= pictures > 0
        with contextlib.suppress(OSError):
            for number in range(1_000):
                (disk / f"filler{number}").touch()
        assert os.statvfs(disk).f_favail == 0
        daemon.start()
        with daemon.publisher() as publisher:
            assert publisher.insert_event(Event("door", recorded_at=NOW))
        assert daemon.stop() == 0
    finally:
        daemon.end()
        run("umount", disk)
