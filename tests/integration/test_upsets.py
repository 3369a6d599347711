"""What owners, crashes and broken clocks do to a data directory: nothing stops the daemon, nothing is lost for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import daylogs
import pytest
import stored
from conftest import AS_NOBODY, open_to_all, wait_for
from pictures import jpeg, jpeg_of
from test_storage import config, day, fill_a_day, folders, purge, said, taken

from sightlog import DatabaseWriteError, Event

BIN = Path(sys.executable).parent


def has_looked_at_everything(daemon) -> bool:
    return (daemon.data_dir / "ballast").exists()


def move_the_database_away(daemon, to: Path) -> None:
    to.mkdir()
    for file in daemon.data_dir.glob("events.db*"):
        shutil.move(file, to)
    stored.write(daemon.database)  # the daemon makes none beside its days


def test_old_folders_beside_a_new_database_stop_neither_the_daemon_nor_a_purge(idle_daemon, tmp_path):
    daemon = idle_daemon.start(config=config(1.0))
    fill_a_day(daemon, 5, count=3)
    assert daemon.stop() == 0
    move_the_database_away(daemon, tmp_path / "old")
    daemon.start(config=config(1.0))
    shown = purge(daemon, "--dry-run", "--before", day(0))
    assert (shown.returncode, shown.stdout[:10]) == (0, day(5)), shown.stderr
    assert daemon.process.poll() is None
    assert daemon.stop() == 0


def test_pictures_of_events_that_the_logs_know_outlive_their_database(idle_daemon, tmp_path):
    daemon = idle_daemon.start()
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("door", thumbnail=jpeg()) for _ in range(3)])
    assert daemon.stop() == 0
    move_the_database_away(daemon, tmp_path / "old")
    daemon.start()
    wait_for(lambda: has_looked_at_everything(daemon), "it has looked at everything")
    assert daemon.stop() == 0
    assert len(list(daemon.data_dir.glob("events/*/*.jpg"))) == 3


@pytest.mark.parametrize(
    "name", ["events/2025-99-99", "events/0000-00-00", "events/trash/2025-99-99.5", "events/２０２５-01-01"]
)
def test_a_folder_that_is_no_day_is_left_alone(idle_daemon, name):
    (idle_daemon.data_dir / name).mkdir(parents=True)
    daemon = idle_daemon.start(config=config(1.0))
    fill_a_day(daemon, 3, count=3)
    wait_for(lambda: has_looked_at_everything(daemon), "it has looked at everything")
    assert f"removed {day(3)}" in purge(daemon, "--before", day(0), "--force").stdout
    assert (daemon.data_dir / name).is_dir()
    assert daemon.stop() == 0


@pytest.mark.parametrize("moment", [datetime(1, 1, 1, 12, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC)])
@pytest.mark.parametrize("zone", ["", "America/Sao_Paulo", "Pacific/Apia"])
def test_an_event_at_the_end_of_time_is_an_event_like_any_other(idle_daemon, tmp_path, zone, moment):
    settings = f"[store]\ntimezone = '{zone}'\n"
    daemon = idle_daemon.start(config=settings)
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door", recorded_at=moment))
    daemon.kill()
    daemon.start(config=settings)
    wait_for(lambda: has_looked_at_everything(daemon), "it has looked at everything")
    wait_for(lambda: daylogs.are_marked(daemon.database), "the logs are complete")
    assert daemon.stop() == 0
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def fill_until_refused(daemon) -> None:
    with daemon.publisher("filler") as publisher:

        def fill() -> None:
            while publisher.insert_events([Event("door", llm_description="x" * 60_000) for _ in range(20)]):
                pass

        with pytest.raises(DatabaseWriteError, match="storage limit"):
            fill()


def test_the_limit_holds_while_something_else_is_done(idle_daemon):
    daemon = idle_daemon.start(config=config(0.02, min_retention_days=7))
    fill_until_refused(daemon)
    before = daemon.reader().count_events()
    with daemon.publisher("late") as publisher:
        publisher.publish(Event("late"))
        for _ in range(20):
            assert purge(daemon, "--dry-run").returncode == 1
        wait_for(lambda: publisher._book.busy_reason, "it is refused meanwhile")
        assert daemon.reader().count_events() == before
    assert len(said(daemon, "Storage limit exceeded")) == 1


@pytest.mark.parametrize("leftover", ["events/trash", "events/trash/2025-01-01.5"])
def test_the_limit_holds_when_nothing_can_be_removed(idle_daemon, leftover):
    """The trash, or something in it, is a file."""
    path = idle_daemon.data_dir / leftover
    path.parent.mkdir(parents=True)
    path.write_text("somebody's")
    daemon = idle_daemon.start(config=config(0.02, purge_share_max=1.0))
    if leftover == "events/trash":
        fill_a_day(daemon, 3, count=300)
        fill_until_refused(daemon)
        assert folders(daemon)[0] == day(3)
        assert said(daemon, "cannot keep the storage in order")
    else:
        fill_a_day(daemon, 3, count=600)
        wait_for(lambda: said(daemon, f"removed {day(3)}"), "other days are removed all the same")
    assert path.read_text() == "somebody's"


def test_days_of_a_clock_that_is_ahead_go_by_force(idle_daemon):
    daemon = idle_daemon.start(config=config(1.0))
    fill_a_day(daemon, -800, count=3)
    fill_a_day(daemon, 0, count=3)
    wait_for(lambda: folders(daemon) == [day(0), day(-800)], "both are logged")
    assert f"removed {day(-800)}" in purge(daemon, "--force", "--before", "2999-01-01").stdout
    assert folders(daemon) == [day(0)]


def test_a_stop_because_of_the_limit_is_a_clean_one(idle_daemon):
    daemon = idle_daemon.start(config=config(0.02, min_retention_days=7, over_limit_action="shutdown"))
    with daemon.publisher() as publisher:
        publisher.publish_many([Event("door", llm_description="x" * 60_000) for _ in range(300)])
        assert daemon.process.wait(60) == 28
        stored = daemon.reader().count_events()
        daemon.start(config=config(4.0))
        assert publisher.flush(60)
    assert stored < daemon.reader().count_events() == 300
    assert not said(daemon, "the last stop was not clean")


# -- rebuild ---------------------------------------------------------------------------------------------------------


def test_a_rebuild_in_place_and_a_daemon_keep_out_of_each_others_way(idle_daemon, tmp_path):
    daemon = idle_daemon.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
    assert daemon.stop() == 0
    move_the_database_away(daemon, tmp_path / "old")
    daemon.start()
    done = daylogs.rebuild(daemon.data_dir, daemon.data_dir / "other.db")
    assert (done.returncode, "another sightlogd" in done.stderr) == (75, True)
    assert daemon.stop() == 0
    assert daylogs.rebuild(daemon.data_dir, daemon.data_dir / "other.db").returncode == 0


@pytest.mark.parametrize(
    ("sound", "flipped"),
    [
        (b'motion_confidence":0.9', b'motion_confidence":9.9'),
        (b'"door_action":"unlocked"', b'"door_action":"unlockee"'),
        (b'"recorded_at":"2', b'"recorded_at":"x'),
        (b'"event_type":"ding"', b'"event_type":"di\x6eg\x22,"site":"\x2f"'),
        (b'"created_at":"2', b'"created_at":"x'),
        (b'{"kind":"event","id":2,', b'{"kind":"event","id":9223372036854775807,'),
        (b'{"kind":"event","id":2,', b'{"kind":"event","id":99999999999999999999,'),
        (b'{"kind":"event","id":2,', b'{"kind":"event","id":-2,'),
    ],
)
def test_a_flipped_bit_costs_a_rebuild_one_event_at_most(daemon, tmp_path, sound, flipped):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
        hit = {"event_type": "ding", "door_action": "unlocked", "motion_confidence": 0.9}
        publisher.insert_event(Event("hit", **hit))
        publisher.insert_event(Event("door"))
    assert daemon.stop() == 0
    file = next(daemon.data_dir.glob("events/*/events.json"))
    data = file.read_bytes()
    hit_line = data.splitlines(keepends=True)[2]
    assert sound in hit_line
    file.write_bytes(data.replace(hit_line, hit_line.replace(sound, flipped)))
    done = daylogs.rebuild(daemon.data_dir, tmp_path / "new.db")
    assert (done.returncode, "1 lines could not be read" in done.stdout) in ((0, False), (74, True)), done.stderr
    cameras = [row[3] for row in daylogs.rows(tmp_path / "new.db")["events"]]
    assert cameras.count("door") == 2
    assert cameras.count("hit") == (done.returncode == 0)
    assert max(row[0] for row in daylogs.rows(tmp_path / "new.db")["events"]) < 2**53


def test_what_is_learnt_after_the_time_zone_was_changed_is_in_a_rebuild(idle_daemon, tmp_path):
    daemon = idle_daemon.start(config="[store]\ntimezone = 'UTC'\n")
    event = Event("door", recorded_at=datetime(2025, 11, 8, 23, 30, tzinfo=UTC))
    with daemon.publisher() as publisher:
        publisher.insert_event(event)
    assert daemon.stop() == 0
    daemon.start(config="[store]\ntimezone = 'Europe/Zurich'\n")
    with daemon.publisher() as publisher:
        publisher.amend(event.event_id, person_name="Anna").wait(10)
    assert daemon.stop() == 0
    assert len(folders(daemon)) == 1
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def test_a_log_that_is_moved_away_is_begun_anew_with_what_it_had(idle_daemon, tmp_path):
    daemon = idle_daemon.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("before"))
        wait_for(lambda: daylogs.lines(daemon.data_dir), "it is logged")
        shutil.move(next(daemon.data_dir.glob("events/*/events.json")), tmp_path / "rotated.json")
        publisher.insert_event(Event("after"))
    assert daemon.stop() == 0
    daemon.start()
    wait_for(lambda: daylogs.are_marked(daemon.database), "it caught up")
    assert daemon.stop() == 0
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def test_a_long_catch_up_ends_while_a_sensor_goes_on(idle_daemon, tmp_path):
    daemon = idle_daemon.start()
    fill_a_day(daemon, 0, count=4000, size=10)
    daemon.kill()
    for file in daemon.data_dir.glob("events/*/events.*"):
        file.unlink()
    daemon.start()
    with daemon.publisher() as publisher:
        for _ in range(20_000):
            publisher.insert_event(Event("steady"))
            if said(daemon, "what they missed"):
                break
    assert said(daemon, "what they missed")
    assert daemon.stop() == 0
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


# -- people ----------------------------------------------------------------------------------------------------------


def test_a_purge_by_another_user_is_told_whose_it_is(idle_daemon):
    daemon = idle_daemon.start()
    open_to_all(daemon.home)
    daemon.data_dir.chmod(0o755)
    script = f"{AS_NOBODY}\nsys.exit(sightlogd.__main__.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "purge", "--dry-run", "--data-dir", daemon.data_dir]
    running = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (running.returncode, "its own user" in running.stderr) == (77, True), running.stderr
    assert daemon.stop() == 0
    stopped = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (stopped.returncode, "belongs to another user" in stopped.stderr) == (77, True), stopped.stderr


HOSTILE = [
    {"at": "yesterday"},
    {"producers": None},
    {"producers": [{}]},
    {"commit_ms": "x"},
    {"storage_bytes": "\x1b[2J"},
    {"inference_ms": [{"producer": 5, "name": "a", "ms": {}}]},
    {"memory_rss_bytes": []},
    {"wal_held_by": [4711]},
    {"wal_held_by": None},
]


@pytest.mark.parametrize("changed", HOSTILE, ids=str)
def test_a_metrics_file_that_was_tampered_with_is_not_shown(daemon, changed):
    file = daemon.data_dir / "metrics" / "metrics.json"
    wait_for(file.exists, "a snapshot")
    assert daemon.stop() == 0
    snapshot = json.loads(file.read_text().splitlines()[-1])
    for name in ("metrics.json", "latest.json"):
        file.with_name(name).write_text(json.dumps({**snapshot, **changed}) + "\n")
    done = subprocess.run(
        [BIN / "sightlog", "status", "--data-dir", daemon.data_dir], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert "figures" not in done.stdout
    assert not re.search(r"\x1b\[2J", done.stdout)


def test_a_control_socket_that_cannot_be_made_costs_only_the_purge(idle_daemon):
    (idle_daemon.data_dir / "control.sock").mkdir(parents=True)
    daemon = idle_daemon.start()
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"))
    assert said(daemon, "no control socket")
    assert daemon.stop() == 0


def test_a_picture_written_again_and_again_counts_once(idle_daemon):
    """A locked database refuses the batch: its pictures are there already when it comes again."""
    import sqlite3

    daemon = idle_daemon.start(config=config(1.0) + "[metrics]\nmetrics_interval = 1\n")
    wait_for(lambda: has_looked_at_everything(daemon), "it has looked at everything")
    holder = sqlite3.connect(daemon.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with daemon.publisher() as publisher:
        publisher.publish_many([Event("door", thumbnail=jpeg_of(100_000)) for _ in range(20)], urgent=True)
        wait_for(lambda: said(daemon, "still cannot write"), "it was tried twice", 40)
        holder.execute("ROLLBACK")
        holder.close()
        assert publisher.flush(40)
    pictures = sum(os.stat(path).st_blocks * 512 for path in daemon.data_dir.glob("events/*/*.jpg"))

    def counted() -> int:
        line = (daemon.data_dir / "metrics" / "metrics.json").read_text().splitlines()[-1]
        return json.loads(line)["storage_bytes"]

    assert pictures > 1_500_000
    wait_for(lambda: abs(counted() - taken(daemon)) < pictures / 2, "what is counted is what the disk says")
