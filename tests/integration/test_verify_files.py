"""sightlogd verify: pictures and day logs against the database, both ways, while the daemon runs or not."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import threading
from datetime import UTC, datetime, timedelta

import backups
import daylogs
import pytest
from backups import verify
from conftest import wait_for
from pictures import jpeg
from test_daylogs import publish_a_bit_of_everything

from sightlog import Detection, Event, Observation

AT = datetime.now(UTC).replace(hour=12) - timedelta(days=2)
DAY = f"{AT:%Y-%m-%d}"


@pytest.fixture
def stopped(daemon):
    """With three events that have pictures, an amendment, an observation and a person; cleanly stopped."""
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("door", event_id=f"e{n}", recorded_at=AT, thumbnail=jpeg()) for n in range(3)])
        publisher.amend("e1", person_name="Anna", detections=[Detection("hat", 0.5)]).wait(10)
        publisher.publish(Observation("a hat", "llm", "e1", observation_id="o1", recorded_at=AT)).wait(10)
        publisher.add_person("anna", "Anna").wait(10)
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 6, "all is logged")
    assert daemon.stop() == 0
    assert verify(daemon.data_dir).returncode == 0
    return daemon


def log_of(daemon, day: str = DAY):
    return daemon.data_dir / "events" / day / "events.json"


def without(text: str, *words: str) -> str:
    """Its lines but for those that have all the words."""
    lines = text.splitlines(keepends=True)
    left = [line for line in lines if not all(word in line for word in words)]
    assert len(left) == len(lines) - 1
    return "".join(left)


def change(daemon, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_thumbnail_that_is_gone_is_damage(stopped):
    (stopped.data_dir / "events" / DAY / "e1.jpg").unlink()
    found = verify(stopped.data_dir)
    assert found.returncode == 74
    assert f"events/{DAY}/e1.jpg: event e1 has it, and the file is not there" in found.stdout
    assert "bring them back from a backup before the daemon is started" in found.stdout


@pytest.mark.parametrize("how", ["empty", "cut", "directory", "link"])
def test_a_thumbnail_that_is_no_whole_file_is_damage(stopped, how):
    picture = stopped.data_dir / "events" / DAY / "e1.jpg"
    data = picture.read_bytes()
    picture.unlink()
    if how == "directory":
        picture.mkdir()
    elif how == "link":
        picture.symlink_to("e2.jpg")
    else:
        picture.write_bytes(data[: -len(data) // 2] if how == "cut" else b"")
    found = verify(stopped.data_dir)
    assert (found.returncode, f"events/{DAY}/e1.jpg: event e1 has it, and " in found.stdout) == (74, True)


def test_marks_that_are_gone_are_damage(stopped, tmp_path):
    change(stopped, "DELETE FROM day_log_marks WHERE kind = 'event'")
    found = verify(stopped.data_dir)
    assert (found.returncode, "day_log_marks has no row event" in found.stdout) == (74, True)
    done = backups.backup(stopped.data_dir, tmp_path / "backup")
    assert (done.returncode, "day_log_marks lacks rows" in done.stdout) == (74, True)


def test_a_sound_backup_is_sound_with_names_of_its_own_and_days_that_it_kept(daemon, tmp_path):
    """What is not right in it is named, mended by the next backup, and right again then."""
    dest = tmp_path / "backup"
    with daemon.publisher() as publisher:
        events = [Event("door", event_id=f"Front-{n}", recorded_at=AT, thumbnail=jpeg()) for n in range(3)]
        publisher.insert_events([*events, Event("door", recorded_at=AT - timedelta(days=5), thumbnail=jpeg())])
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 4, "all is logged")
    assert backups.backup(daemon.data_dir, dest).returncode == 0
    assert backups.run("purge", "--force", "--before", DAY, "--data-dir", daemon.data_dir).returncode == 0
    assert backups.backup(daemon.data_dir, dest).returncode == 0
    found = verify(dest)
    assert (found.returncode, found.stderr) == (0, "")
    assert "all files are what was backed up" in found.stdout
    picture, log, database = (
        dest / "events" / DAY / "%46ront-1.jpg",
        dest / "events" / DAY / "events.json",
        "events.db",
    )
    flipped = picture.read_bytes()
    picture.write_bytes(flipped[:100] + bytes([flipped[100] ^ 1]) + flipped[101:])
    log.unlink()
    with (dest / database).open("r+b") as file:
        file.truncate(4096)
    found = verify(dest)
    assert found.returncode == 74
    assert f"{picture}: it is not what was backed up" in found.stdout
    assert f"{log}: it is not there" in found.stdout
    assert f"{dest / database}: it is not what was backed up" in found.stdout
    assert "Remove these files from it and run sightlogd backup again" in found.stdout
    picture.unlink()
    assert backups.backup(daemon.data_dir, dest).returncode == 0
    assert verify(dest).returncode == 0
    holder = subprocess.Popen(["flock", dest, "cat"], stdin=subprocess.PIPE)
    try:
        wait_for(lambda: verify(dest).returncode == 75, "it is held")
    finally:
        holder.communicate()


def test_a_picture_that_nobody_knows_is_told_and_no_damage(stopped):
    stray = stopped.data_dir / "events" / DAY / "stray.jpg"
    stray.write_bytes(jpeg())
    assert "stray" not in verify(stopped.data_dir).stdout  # it may be on its way to its row
    os.utime(stray, (AT.timestamp(), AT.timestamp()))
    found = verify(stopped.data_dir)
    assert found.returncode == 0
    assert f"events/{DAY}/stray.jpg: neither a row nor a line knows it" in found.stdout
    assert "no damage" in found.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (('"kind":"event"', '"e1"'), "event e1: no line of it in"),
        (('"kind":"amendment"', '"e1"'), "event e1: not as it is in"),
        (('"kind":"observation"',), "observation o1: no line of it in"),
    ],
)
def test_what_the_database_has_and_the_logs_have_not_is_damage(stopped, words, said):
    log = log_of(stopped)
    log.write_text(without(log.read_text(), *words))
    found = verify(stopped.data_dir)
    assert found.returncode == 74
    assert f"{said} events/{DAY}/events.json" in found.stdout
    assert "do not rebuild from them" in found.stdout


def test_a_person_whose_line_is_gone_is_damage(stopped):
    log = log_of(stopped, f"{datetime.now(UTC):%Y-%m-%d}")
    log.write_text(without(log.read_text(), '"kind":"person"'))
    found = verify(stopped.data_dir)
    assert (found.returncode, "person anna" in found.stdout) == (74, True)


def test_what_the_logs_have_and_the_database_has_not_is_damage(stopped):
    change(stopped, "DELETE FROM events WHERE event_id = 'e0'", "DELETE FROM observations")
    found = verify(stopped.data_dir)
    assert found.returncode == 74
    assert "has event e0, and no row of it is there" in found.stdout
    assert "has observation o1, and no row of it is there" in found.stdout
    assert "rebuild --from-logs makes one that has all of it" in found.stdout


def test_rows_that_the_logs_need_not_have_yet_are_no_damage(stopped):
    log = log_of(stopped)
    log.write_text(without(log.read_text(), '"kind":"amendment"'))
    change(stopped, "INSERT INTO amended_events SELECT id FROM events WHERE event_id = 'e1'")
    assert verify(stopped.data_dir).returncode == 0
    log.write_text("")
    change(stopped, "UPDATE day_log_marks SET last_id = 0", "DELETE FROM amended_events")
    assert verify(stopped.data_dir).returncode == 0
    stopped.start()  # and this is how the daemon compares all of the logs
    wait_for(lambda: daylogs.are_marked(stopped.database), "it has compared")
    assert verify(stopped.data_dir).returncode == 0
    assert log.read_text().count('"kind":"event"') == 3


def test_a_line_that_cannot_be_read_is_damage_and_a_torn_end_is_not(stopped):
    log = log_of(stopped)
    whole = log.read_text()
    log.write_text(whole + '{"kind":"event","id":9')
    assert verify(stopped.data_dir).returncode == 0
    flipped = whole.splitlines()[0].replace("T", "D", 1).encode()
    for line in (b"what is this\n", b'{"kind":"event","event_id":"\xff"}\n', b"[" * 10_000 + b"\n", flipped + b"\n"):
        log.write_bytes(line + whole.encode())
        found = verify(stopped.data_dir)
        assert found.returncode == 74
        assert f"events/{DAY}/events.json: line 1 cannot be read" in found.stdout


def test_a_day_folder_that_was_removed_by_hand_is_one_finding(stopped):
    shutil.rmtree(stopped.data_dir / "events" / DAY)
    found = verify(stopped.data_dir)
    assert found.returncode == 74
    assert f"events/{DAY} is not there, and the database has 3 events and 1 observations of that day" in found.stdout
    assert "e1.jpg" not in found.stdout


def test_no_more_than_twenty_of_a_kind_are_shown(stopped):
    with log_of(stopped).open("a") as log:
        log.write("damaged\n" * 30)
    found = verify(stopped.data_dir)
    assert found.stdout.count("cannot be read") == 20
    assert "10 more like these" in found.stdout


def test_a_time_zone_that_was_changed_is_no_damage(idle_daemon):
    daemon = idle_daemon.start(config="[store]\ntimezone = 'Asia/Tokyo'\n")
    with daemon.publisher() as publisher:
        times = [AT.replace(hour=hour) for hour in range(24)]
        publisher.insert_events([Event("door", recorded_at=at, thumbnail=jpeg()) for at in times])
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 24, "all is logged")
    assert daemon.stop() == 0
    (daemon.home / "config.toml").write_text("[store]\ntimezone = 'America/Los_Angeles'\n")
    found = backups.run("verify", "--config", daemon.home / "config.toml", "--data-dir", daemon.data_dir)
    assert found.returncode == 0, found.stdout


def test_beside_a_daemon_at_work_nothing_is_damage(daemon):
    publish_a_bit_of_everything(daemon)
    ended = threading.Event()

    def publish():
        with daemon.publisher("camera") as publisher:
            while not ended.wait(0.01):
                times = [AT - timedelta(days=n) for n in range(12)]
                events = [Event("yard", recorded_at=at, thumbnail=jpeg(), llm_description="a bird") for at in times]
                publisher.insert_events(events)
                for event in events:
                    publisher.amend(event.event_id, person_name="Anna")

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for number in range(6):
            before = f"{AT - timedelta(days=9 - number):%Y-%m-%d}"
            purging = subprocess.Popen(
                [backups.SIGHTLOGD, "purge", "--before", before, "--force", "--data-dir", daemon.data_dir],
                stdout=subprocess.DEVNULL,
            )
            found = verify(daemon.data_dir)
            purging.wait(60)
            assert (found.returncode, found.stderr) == (0, ""), found.stdout
            assert "neither" not in found.stdout
    finally:
        ended.set()
        thread.join()
