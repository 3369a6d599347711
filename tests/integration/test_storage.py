"""The budget holds: it warns, removes the oldest days, refuses when nothing may go, and loses nothing acked."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import daylogs
import pytest
from conftest import fill_the_disk, small_file_system, wait_for

from sightlog import DatabaseWriteError, Event, Observation

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


def config(gb: float, **more: object) -> str:
    keys = {"max_storage_gb": gb, "min_retention_days": 0, "keep_free_gb": 0.0, **more}
    return "[storage]\n" + "".join(f"{key} = {value!r}\n" for key, value in keys.items())


def day(ago: int) -> str:
    return (NOON - timedelta(days=ago)).astimezone().date().isoformat()


def fill_a_day(daemon, ago: int, count: int = 200, size: int = 10_000) -> list[Event]:
    """About count * size * 3 bytes: in the database and in both logs."""
    at = NOON - timedelta(days=ago)
    events = [
        Event("front_door", recorded_at=at + timedelta(seconds=n), llm_description="x" * size) for n in range(count)
    ]
    with daemon.publisher() as publisher:
        assert publisher.insert_events(events).stored == count
    return events


def folders(daemon) -> list[str]:
    return sorted(path.name for path in daemon.data_dir.glob("events/[0-9]*"))


def purge(daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("sightlogd"), "purge", "--config", daemon.home / "config.toml"]
    command += ["--data-dir", daemon.data_dir, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def said(daemon, text: str) -> list[str]:
    return [line["event"] for line in daemon.logged() if text in line["event"]]


def taken(daemon) -> int:
    """Bytes, as du counts them; it fails when a file goes while it looks, as they do here."""
    command = ["du", "-s", "-B1", daemon.data_dir]
    done = wait_for(
        lambda: (
            (tried := subprocess.run(command, capture_output=True, text=True, check=False)).returncode == 0 and tried
        ),
        "du sees a whole tree",
    )
    return int(done.stdout.split()[0])


def test_the_oldest_days_go_with_their_rows_and_files_and_it_is_told(idle_daemon, tmp_path):
    daemon = idle_daemon.start(config=config(0.03, purge_share_max=1.0))
    for ago in (6, 5, 4, 3, 2, 1, 0):
        fill_a_day(daemon, ago)
    wait_for(lambda: said(daemon, f"removed {day(6)}"), "the oldest day is removed")
    trash = daemon.data_dir / "events" / "trash"
    # Below 80 % after a removal; what was stored since may be on top of it.
    wait_for(lambda: taken(daemon) <= 27_000_000 and not list(trash.iterdir()), "it is below 90 %")
    assert daemon.stop() == 0
    left = folders(daemon)
    assert left == [day(ago) for ago in range(len(left) - 1, -1, -1)], "the oldest went, in order"
    assert 2 <= len(left) <= 5
    assert taken(daemon) < 30_000_000
    for text in said(daemon, "approaching limit"):
        assert re.fullmatch(r"Storage at [\d.]+MB / 30MB \(8\d%\), approaching limit", text)
    freed = [line for line in daemon.logged() if line["event"].startswith("removed ")]
    assert all(line["level"] == "warning" and line["mb"] > 3 and line["events"] == 200 for line in freed)
    reader = daemon.reader()
    assert {event.recorded_at.astimezone().date().isoformat() for event in reader.find_events()} == set(left)
    assert reader.count_events() == 200 * len(left)
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db", purged=True)


def test_what_is_counted_is_what_the_disk_says(idle_daemon):
    daemon = idle_daemon.start(config=config(1.0))
    for ago in (3, 2, 1):
        fill_a_day(daemon, ago, count=100)
    shown = purge(daemon, "--dry-run").stdout
    megabytes = float(re.match(r"Storage: ([\d.]+)MB / 1GB", shown)[1])
    assert megabytes * 10**6 == pytest.approx(taken(daemon), rel=0.05)


def test_observations_go_with_their_day_and_cannot_be_found_any_more(idle_daemon, tmp_path):
    daemon = idle_daemon.start(config=config(1.0))
    fill_a_day(daemon, 2, count=5)
    at = NOON - timedelta(days=2)
    # Of a site that no camera has: it is known by its observations alone.
    texts = [Observation(f"package {n}", "llm", site="cabin", recorded_at=at, embedding=[n, 1]) for n in range(300)]
    with daemon.publisher() as publisher:
        publisher.publish_many(texts).wait(10)
        publisher.publish(Observation("package of today", "llm", site="cabin")).wait(10)
        publisher.publish(Observation("package of an older day", "llm", recorded_at=at - timedelta(days=1))).wait(10)
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 307, "all is logged")
    done = purge(daemon, "--before", day(0), "--force")
    assert f"removed {day(2)}" in done.stdout
    assert f"removed {day(3)}" in done.stdout
    assert [hit.observation.content for hit in daemon.reader("cabin").search("package")] == ["package of today"]
    assert daemon.reader().search("package") == []
    assert len(list(daemon.reader("cabin").find_observations())) == 1
    assert daemon.stop() == 0
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db", purged=True)


@pytest.mark.parametrize("record", [lambda **at: Event("door", **at), lambda **at: Observation("wet", "llm", **at)])
def test_what_was_stored_lately_stays_however_old_its_clock_says_it_is(idle_daemon, record):
    daemon = idle_daemon.start(config=config(1.0, min_retention_days=7))
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
        daemon.stop()
        with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
            # It has run for three weeks, as far as it knows.
            days = [(day(ago), 1) for ago in range(1, 21)]
            connection.executemany("INSERT OR IGNORE INTO clock_days VALUES (?, ?)", days)
        daemon.start(config=config(1.0, min_retention_days=7))
        publisher.publish(record(recorded_at=NOON - timedelta(days=30))).wait(10)
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 2, "all is logged")
    assert day(30) not in purge(daemon, "--before", day(0)).stdout
    assert f"removed {day(30)}" in purge(daemon, "--before", day(0), "--force").stdout


def test_the_index_of_texts_shrinks_with_what_is_removed(idle_daemon):
    daemon = idle_daemon.start(config=config(1.0))
    words = [f"word{number}" for number in range(2_000)]
    with daemon.publisher() as publisher:
        for ago in (2, 1):
            at = NOON - timedelta(days=ago)
            for number in range(20):
                text = " ".join(words[number * 50 : number * 50 + 200])
                texts = [Observation(text, "llm", recorded_at=at) for _ in range(100)]
                publisher.publish_many([Event("door", recorded_at=at, llm_description=text), *texts]).wait(20)

    def index_bytes() -> int:
        with contextlib.closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT sum(length(block)) FROM texts_index_data").fetchone()[0]

    before = index_bytes()
    assert f"removed {day(2)}" in purge(daemon, "--before", day(1), "--force").stdout
    assert index_bytes() < 0.6 * before


def test_persons_stay_when_the_day_they_became_known_goes(idle_daemon, tmp_path):
    daemon = idle_daemon.start(config=config(1.0))
    with daemon.publisher() as publisher:
        publisher.add_person("anna", "Anna").wait(10)
    fill_a_day(daemon, 1, count=5)
    today = next(daemon.data_dir.glob(f"events/{day(0)}/events.json"))
    wait_for(lambda: "anna" in today.read_text(), "it is logged")
    folder = daemon.data_dir / "events" / day(1)
    wait_for((folder / "events.json").exists, "the day before has a folder")
    # As if that had been yesterday.
    line = today.read_text()
    with (folder / "events.json").open("a") as log:
        log.write(line)
    today.unlink()
    assert purge(daemon, "--before", day(0)).returncode == 0
    assert daemon.stop() == 0
    assert folders(daemon) == [day(0)]
    new = tmp_path / "new.db"
    assert daylogs.rebuild(daemon.data_dir, new).returncode == 0
    assert [row[2] for row in daylogs.rows(new)["persons"]] == ["anna"]


def test_young_days_stay_and_over_the_limit_producers_wait_until_there_is_room(idle_daemon):
    daemon = idle_daemon.start(config=config(0.02, min_retention_days=7))
    stored = []
    with daemon.publisher("bulk") as publisher:

        def fill() -> None:
            for number in range(600):
                at = NOON - timedelta(days=9 - number // 100)
                event = Event("door", recorded_at=at, llm_description="x" * 60_000)
                publisher.insert_event(event)
                stored.append(event.event_id)

        with pytest.raises(DatabaseWriteError, match="storage limit exceeded"):
            fill()
    error = wait_for(lambda: said(daemon, "Storage limit exceeded"), "it says so")[0]
    assert re.fullmatch(r"Storage limit exceeded: [\d.]+MB / 20MB \(1\d\d%\)", error)
    assert any(
        re.search(r"No day may go: .*min_retention_days = 7.*purge --force", text) for text in said(daemon, "Storage")
    )
    assert daemon.reader().count_events() == len(stored)
    with daemon.publisher("late") as publisher:
        receipt = publisher.publish(Event("door"))
        refused = purge(daemon)
        assert (refused.returncode, "may go" in refused.stdout) == (1, True), refused.stdout
        planned = purge(daemon, "--force", "--dry-run")
        assert re.search(r"^\d{4}-\d\d-\d\d +[\d.]+MB +\d+ events$", planned.stdout, re.MULTILINE)
        assert daemon.reader().count_events() == len(stored), "a dry run removes nothing"
        done = purge(daemon, "--force")
        assert (done.returncode, "removed" in done.stdout) == (0, True), done.stdout + done.stderr
        assert receipt.wait(60) == "stored"
        assert publisher.flush(60)


def test_over_the_limit_it_can_stop_instead(idle_daemon):
    daemon = idle_daemon.start(config=config(0.02, min_retention_days=7, over_limit_action="shutdown"))
    with daemon.publisher() as publisher:
        receipts = [publisher.publish(Event("door", llm_description="x" * 60_000)) for _ in range(300)]
        assert daemon.process.wait(60) == 28
        assert said(daemon, "Storage limit exceeded")
        acked = sum(receipt.settled for receipt in receipts)
        assert 0 < acked == 300 - publisher.spooled
    assert daemon.reader().count_events() >= acked


def test_a_removal_that_a_crash_interrupts_is_finished_at_the_next_start(idle_daemon, tmp_path):
    daemon = idle_daemon.start(config=config(1.0))
    fill_a_day(daemon, 3, count=3000, size=300)
    kept = fill_a_day(daemon, 2, count=50)
    for kill_after in range(4):
        before = daemon.reader().count_events()
        asking = subprocess.Popen(
            [Path(sys.executable).with_name("sightlogd"), "purge", "--before", day(2), "--data-dir", daemon.data_dir],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if kill_after:
            reader = daemon.reader()
            wait_for(lambda r=reader, b=before: r.count_events() < b or r.count_events() == 50, "it removes rows")
        else:
            wait_for((daemon.data_dir / "events" / "trash").exists, "it begins")
        daemon.kill()
        asking.wait(20)
        daemon.start(config=config(1.0))
    wait_for(lambda: daemon.reader().count_events() == 50, "the rest of the day is gone")
    wait_for(lambda: not list((daemon.data_dir / "events" / "trash").iterdir()), "it is done")
    assert daemon.stop() == 0
    assert {event.event_id for event in daemon.reader().find_events()} == {event.event_id for event in kept}
    assert folders(daemon) == [day(2)]
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db", purged=True)


def with_an_interrupted_removal(daemon) -> list[Event]:
    """Two days; of the older one the folder has gone to the trash, and no row. Returns the events of the other."""
    daemon.start(config=config(1.0))
    fill_a_day(daemon, 3)
    kept = fill_a_day(daemon, 2)
    assert daemon.stop() == 0
    trash = daemon.data_dir / "events" / "trash"
    trash.mkdir(exist_ok=True)
    (daemon.data_dir / "events" / day(3)).rename(trash / f"{day(3)}.{len(kept) * 2}")
    return kept


def test_a_rotation_that_a_crash_interrupts_is_finished_where_room_is_as_scarce_as_before(idle_daemon):
    daemon = idle_daemon
    kept = with_an_interrupted_removal(daemon)
    daemon.start(config=config(taken(daemon) / 0.95 / 10**9, purge_share_max=1.0))
    wait_for(lambda: not list((daemon.data_dir / "events" / "trash").iterdir()), "it is done")
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("front_door"))
    # Further days may go behind it: how much room the first made shows only with the next checkpoint.
    assert 1 <= daemon.reader().count_events() <= len(kept) + 1
    assert not said(daemon, "exceeded")


def test_purge_without_a_daemon_finishes_the_removal_that_a_crash_interrupted(idle_daemon):
    daemon = idle_daemon
    kept = with_an_interrupted_removal(daemon)
    assert "removal" not in purge(daemon, "--before", day(0), "--dry-run").stdout
    done = purge(daemon, "--before", day(2))
    assert (done.returncode, f"removed what was left of {day(3)}" in done.stdout) == (0, True), done.stdout
    assert not list((daemon.data_dir / "events" / "trash").iterdir())
    assert daemon.reader().count_events() == len(kept)


def test_what_comes_for_a_day_that_is_being_removed_stays(idle_daemon):
    daemon = idle_daemon.start(config=config(1.0))
    fill_a_day(daemon, 3, count=3000, size=300)
    late = Event("late", recorded_at=NOON - timedelta(days=3))
    with daemon.publisher("late") as publisher:
        asking = subprocess.Popen(
            [Path(sys.executable).with_name("sightlogd"), "purge", "--before", day(2), "--data-dir", daemon.data_dir],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: list(daemon.data_dir.glob("events/trash/*")) or asking.poll() is not None, "it begins")
        publisher.insert_event(late)
        output, _ = asking.communicate(timeout=60)
    assert f"removed {day(3)}" in output
    wait_for(lambda: daemon.reader().count_events() == 1, "all but the late one are gone")
    assert daemon.reader().get_event(late.event_id) is not None


def test_purge_works_without_a_daemon_and_says_when_nothing_may_go(idle_daemon):
    daemon = idle_daemon.start(config=config(1.0, min_retention_days=7))
    fill_a_day(daemon, 3, count=10)
    assert daemon.stop() == 0
    nothing = purge(daemon, "--before", day(0))
    assert (nothing.returncode, "--force" in nothing.stdout) == (0, True)
    done = purge(daemon, "--before", day(0), "--force")
    assert (done.returncode, f"removed {day(3)}" in done.stdout) == (0, True)
    assert folders(daemon) == []
    wrong = purge(daemon, "--before", "yesterday")
    assert (wrong.returncode, "expected a day" in wrong.stderr) == (2, True)
    missing = subprocess.run(
        [Path(sys.executable).with_name("sightlogd"), "purge", "--data-dir", daemon.home / "nowhere"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (missing.returncode, "no database" in missing.stderr) == (78, True)


# -- a disk that is really full --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(idle_daemon):
    """The data directory on a file system of 24 MB."""
    with small_file_system(idle_daemon.data_dir, "24m"):
        yield idle_daemon
        idle_daemon.end()


def test_on_a_completely_full_disk_the_ballast_makes_it_possible_to_remove_a_day(small_disk):
    daemon = small_disk.start(config=config(4.0, purge_share_max=1.0))
    fill_a_day(daemon, 3, count=300)
    wait_for((daemon.data_dir / "ballast").exists, "the ballast is there")
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 300, "all is logged")
    # Its files would make room by themselves; its rows do not, without room for the WAL.
    shutil.rmtree(daemon.data_dir / "events" / day(3))
    fill_the_disk(daemon.data_dir / "filler")
    with daemon.publisher() as publisher:
        assert publisher.publish(Event("door", llm_description="x" * 50_000)).wait(60) == "stored"
    assert said(daemon, f"removed {day(3)}")
    wait_for((daemon.data_dir / "ballast").exists, "the ballast stands again")


def insert_until_it_is_refused(publisher, published: list[str]) -> None:
    while True:
        event = Event("door", llm_description="x" * 2_000)
        published.append(event.event_id)
        publisher.insert_event(event)


def test_a_disk_filled_and_freed_again_and_again_loses_nothing_that_was_acked(small_disk):
    daemon = small_disk.start(
        config="[storage]\nkeep_free_gb = 0.0\nmin_retention_days = 7\n[log]\nslow_commit_ms = 60000"
    )
    filler = daemon.data_dir / "filler"
    published = []
    with daemon.publisher() as publisher:
        for _ in range(10):  # a hundred times: the reliability lab
            fill_the_disk(filler)
            events = [Event("door", llm_description="x" * 2_000) for _ in range(5)]
            receipts = [publisher.publish(event) for event in events]
            published += [event.event_id for event in events]
            with pytest.raises(DatabaseWriteError):
                insert_until_it_is_refused(publisher, published)
            filler.unlink()
            assert publisher.flush(40)
            assert all(receipt.status == "stored" for receipt in receipts)
    assert daemon.stop() == 0
    found = [event.event_id for event in daemon.reader().find_events()]
    assert len(found) == len(set(found))
    assert set(found) == set(published)
