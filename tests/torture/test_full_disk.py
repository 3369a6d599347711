"""Real disks under load: full, without inodes, read-only, gone, forbidden; nothing acked is lost, and work resumes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import daylogs
import pytest
from conftest import AS_NOBODY, NOBODY, SMALL_DISK, open_to_all, small_file_system, wait_for
from disks import Card, fill, held, load_on, trouble
from lab import often
from pictures import jpeg, png

from sightlog import Event, Publisher, SpoolFull
from sightlog.errors import DatabaseWriteError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system or be another user")

MEGABYTES = 64
CONFIG = f"{SMALL_DISK}min_retention_days = 7\n[log]\nslow_commit_ms = 60000\n"
EVENTS = 30
"""Of each producer, each time."""


@contextmanager
def ended(daemon):
    """Before its disk is unmounted."""
    try:
        yield
    finally:
        daemon.end()


@contextmanager
def disk(kind: str, daemon):
    """At the daemon's data directory."""
    daemon.settings = CONFIG
    if kind == "ext4":
        with Card(daemon.home / "card", daemon.data_dir, MEGABYTES).inserted(), ended(daemon):
            yield
    else:
        with small_file_system(daemon.data_dir, f"{MEGABYTES}m"), ended(daemon):
            yield


def told_that_it_is_full(daemon, load, filler: Path) -> bool:
    fill(filler)
    return "storage_full" in load.insert_until_it_is_refused() and "storage_full" in (trouble(daemon) or "")


def assert_the_logs_are_complete(daemon, tmp_path: Path) -> None:
    assert daemon.stop() == 0
    daemon.start()
    wait_for(lambda: daylogs.are_marked(daemon.database), "the day logs have caught up", 60)
    assert daemon.stop() == 0
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_filled_and_freed_again_and_again_loses_nothing(idle_daemon, tmp_path, attack, kind):
    attack.on("P5, P7", f"a real disk ({kind}) filled and freed under load", "times full")
    with disk(kind, idle_daemon):
        daemon = idle_daemon.start()
        filler = daemon.data_dir / "filler"
        with load_on(daemon) as load:
            for _ in range(often(2, 50)):
                load.start(EVENTS)
                wait_for(lambda: told_that_it_is_full(daemon, load, filler), "it is full, and all are told", 60)
                filler.unlink()
                load.end()
                assert trouble(daemon) is None
                attack.runs += 1
            load.check()
        assert_the_logs_are_complete(daemon, tmp_path)


@pytest.mark.timeout(600)
def test_without_inodes_no_picture_is_lost_and_what_needs_no_file_goes_on(idle_daemon, tmp_path, attack):
    attack.on("P5", "inodes exhausted and given back under load", "times none left")
    idle_daemon.settings = CONFIG
    with small_file_system(idle_daemon.data_dir, "64m,nr_inodes=1k"), ended(idle_daemon):
        daemon = idle_daemon.start()
        with load_on(daemon) as load:
            load.start(EVENTS)
            load.end()
            for number in range(often(2, 10)):
                files = take_all_inodes(daemon.data_dir / "filler")
                assert load.probe.insert_event(Event("probe", event_id=f"plain-{number}")), "it needs no file"
                with pytest.raises(DatabaseWriteError, match="storage_full"):
                    load.probe.insert_event(Event("probe", event_id=f"seen-{number}", thumbnail=jpeg(number)))
                load.probed += [f"plain-{number}", f"seen-{number}"]
                assert "storage_full" in trouble(daemon)
                shutil.rmtree(files)
                assert load.probe.flush(60)
                path = daemon.reader().get_event(f"seen-{number}").thumbnail_path
                assert (daemon.data_dir / path).read_bytes() == jpeg(number)
                attack.runs += 1
            load.start(EVENTS)
            load.end()
            load.check()
        assert_the_logs_are_complete(daemon, tmp_path)


def take_all_inodes(folder: Path) -> Path:
    folder.mkdir()
    number = 0
    while True:
        try:
            (folder / str(number)).touch()
        except OSError:
            return folder
        number += 1


@pytest.mark.timeout(600)
def test_a_card_that_turns_read_only_under_load_loses_nothing_that_was_acked(idle_daemon, tmp_path, attack):
    attack.on("P1, P5", "ext4 turns read-only on an error of the card, under load", "times read-only")
    daemon = idle_daemon
    daemon.settings = CONFIG
    card = Card(daemon.home / "card", daemon.data_dir, MEGABYTES)
    with card.inserted(), ended(daemon):
        daemon.start()
        with load_on(daemon) as load:
            for _ in range(often(1, 10)):
                load.start(EVENTS)
                load.publish()
                # Between two system calls: an fsync that is under way when ext4 gives up its journal may say that all
                # is well (a plain loop of pwrite and fdatasync loses what it was told is durable, too).
                with held(daemon.process.pid):
                    card.turn_read_only()
                load.publish()
                wait_for(lambda: daemon.process.poll() is not None or trouble(daemon), "it says so, or ends")
                assert daemon.process.poll() in (None, 74)
                assert "Traceback" not in daemon.log.read_text()
                daemon.kill()
                card.take_out()
                card.repair()
                card.insert()
                daemon.start()
                load.end()
                attack.runs += 1
            load.check()
        assert_the_logs_are_complete(daemon, tmp_path)


@pytest.mark.timeout(600)
def test_what_is_moved_away_under_load_and_brought_back_has_everything_acked(idle_daemon, tmp_path, attack):
    attack.on("P1, P5", "the data directory, the database or its WAL moved away under load, and back", "times away")
    choose = attack.random()
    daemon = idle_daemon
    daemon.settings = CONFIG
    daemon.start()
    away = tmp_path / "away"
    with load_on(daemon) as load:
        for name in drawn(choose, ("", "events.db", "events.db-wal"), often(3, 12)):
            load.start(EVENTS)
            (daemon.data_dir / name).rename(away)
            load.publish()
            assert daemon.process.wait(60) == 74
            if not name:
                shutil.rmtree(daemon.data_dir, ignore_errors=True)
            away.rename(daemon.data_dir / name)
            daemon.start()
            load.end()
            attack.runs += 1
        load.check()
    assert "Traceback" not in daemon.log.read_text()
    assert_the_logs_are_complete(daemon, tmp_path)


def drawn(choose: Random, names: Sequence[str], count: int) -> list[str]:
    """All of them as often, in some order."""
    return choose.sample([*names] * -(-count // len(names)), count)


@pytest.mark.timeout(600)
def test_a_permission_taken_away_under_load_and_given_back_loses_nothing(idle_daemon, tmp_path, attack):
    attack.on("P5", "permission taken away under load (directories, database), and given back", "times forbidden")
    choose = attack.random()
    daemon = idle_daemon
    daemon.settings = CONFIG
    daemon.data_dir.mkdir()
    open_to_all(tmp_path)
    for path in (daemon.data_dir, Path(daemon._socket_dir.name)):
        os.chown(path, NOBODY, NOBODY)
    daemon.start(program=["-c", f"{AS_NOBODY}\nsys.exit(sightlogd.__main__.main(sys.argv[1:]))"])
    with load_on(daemon) as load:
        # A picture that has to be made anew, so that all the directories are there.
        load.publish(thumbnail=png())
        assert load.probe.flush(60)
        for number, name in enumerate(drawn(choose, ("", "events", "events.db", "events/incoming"), often(4, 20))):
            load.start(EVENTS)
            path = daemon.data_dir / name
            mode = path.stat().st_mode
            path.chmod(0)
            load.publish(thumbnail=jpeg(number))
            load.publish()
            wait_for(lambda: trouble(daemon) or not load.probe.spooled, "it is told, or stored all the same")
            path.chmod(mode)
            load.end()
            assert daemon.process.poll() is None
            attack.runs += 1
        load.check()
    assert "Traceback" not in daemon.log.read_text()
    assert_the_logs_are_complete(daemon, tmp_path)


@pytest.mark.timeout(100)
def test_a_daemon_that_acks_on_a_full_disk_is_seen(idle_daemon, attack):
    attack.without("P5", "the daemon acks although the disk is full", "times full")
    program = "import sys, lives\nlives.CONTROLS['acks although writing failed']()\n"
    program += "from sightlogd.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    path = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1])))
    with disk("tmpfs", idle_daemon):
        daemon = idle_daemon.start(program=["-c", program], env={"PYTHONPATH": path})
        filler = daemon.data_dir / "filler"
        with load_on(daemon) as load:
            load.publish()
            assert load.probe.flush(60)
            fill(filler)
            for _ in range(50):
                load.publish()
            assert load.probe.flush(60)
            filler.unlink()
            load.start(EVENTS)
            load.end()
            attack.runs += 1
            with pytest.raises(AssertionError):
                load.check()
            attack.caught += 1


@pytest.mark.timeout(600)
def test_a_spool_on_a_full_disk_refuses_whole_records_and_takes_them_when_there_is_room(idle_daemon, tmp_path, attack):
    attack.on("P2", "the spool's disk filled and freed while records are published", "times full")
    choose = attack.random()
    daemon = idle_daemon
    accepted: list[str] = []
    with small_file_system(tmp_path / "small", "2m"):
        filler = tmp_path / "small/filler"
        for number in range(often(4, 20)):
            publisher = Publisher(daemon.endpoint, "camera", tmp_path / "small")
            fill_but(filler, choose.randrange(60_000))
            refused = publish_until_it_is_refused(publisher, accepted, choose)
            filler.unlink()
            publisher.publish(refused)
            accepted.append(refused.event_id)
            if number % 3 == 2:
                daemon.start() if daemon.process is None else None
                assert publisher.flush(60)
            publisher.close(timeout=0 if number % 2 else 1)
            attack.runs += 1
        daemon.start() if daemon.process is None else None
        with Publisher(daemon.endpoint, "camera", tmp_path / "small") as publisher:
            assert publisher.flush(60)
        assert not list(tmp_path.glob("small/camera/*.damaged"))
    found = [event.event_id for event in daemon.reader().find_events(camera_id="camera")]
    assert len(found) == len(accepted)
    assert set(found) == set(accepted)


def fill_but(filler: Path, count: int) -> None:
    """All but some bytes, so that a write ends anywhere in a record."""
    filler.write_bytes(b"")
    fill(filler)
    os.truncate(filler, max(0, filler.stat().st_size - count))


def publish_until_it_is_refused(publisher: Publisher, accepted: list[str], choose: Random) -> Event:
    while True:
        event = Event("camera", llm_description="x" * choose.randrange(9_000))
        try:
            publisher.publish(event)
        except SpoolFull:
            return event
        accepted.append(event.event_id)
