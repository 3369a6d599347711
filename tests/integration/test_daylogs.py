"""events.json is a complete second copy, events.log is what people read, whatever was killed, torn or full."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import daylogs
import pytest
from conftest import AS_NOBODY, SMALL_DISK, fill_the_disk, open_to_all, small_file_system, wait_for
from test_records import random_event, random_observation

from sightlog import Amendment, DatabaseWriteError, Detection, Event, Observation

AT = datetime(2025, 11, 8, 13, 32, 15, tzinfo=UTC)
ZURICH = "[store]\ntimezone = 'Europe/Zurich'\n"


def publish_a_bit_of_everything(daemon, seed: int = 0) -> None:
    with daemon.publisher("camera") as camera, daemon.publisher("detector") as detector:
        events = [random_event(seed * 1000 + number) for number in range(60)]
        detector.publish_many([Amendment(events[3].event_id, site=events[3].site, llm_description="early")]).wait(10)
        camera.insert_events(events)
        camera.add_person(f"anna {seed}", "Anna").wait(10)
        for number, event in enumerate(events[::3]):
            fields = {"person_name": "Anna", "metadata": {"face_ms": number}, "detections": [Detection("hat", 0.5)]}
            if number % 3 == 1:
                fields |= {"embedding": [number, 0.1]}  # of no model, whatever the event's face was of
            elif number % 3:
                fields |= {"embedding": [0.1, number], "embedding_model": "arcface", "embedding_version": "2"}
            detector.amend(event.event_id, site=event.site, **fields)
        observations = [random_observation(seed * 1000 + number, event) for number, event in enumerate(events)]
        detector.publish_many(observations).wait(10)
        detector.amend(f"never-{seed}", llm_description="its event does not come").wait(10)
        assert detector.flush(10)


def test_an_event_reads_as_people_expect_it(idle_daemon):
    daemon = idle_daemon.start(config=ZURICH + "[files]\ndebug_line = true")
    event = Event(
        "front_door",
        recorded_at=AT,
        detections=[Detection("package", 0.871), Detection("person", 0.923)],
        llm_description="Person in blue shirt\n\x1b[31mcarrying brown package",
        metadata={"frame_number": 812, "yolo_ms": 84.2},
    )
    with daemon.publisher() as publisher:
        publisher.insert_event(event)
        publisher.insert_event(Event("garage", event_type="ding", recorded_at=AT, site="cabin"))
        publisher.amend(event.event_id, person_name="Anna", face_confidence=0.9, door_action="unlocked").wait(10)
    folder = daemon.data_dir / "events" / "2025-11-08"
    now = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\]"
    wanted = (
        r"\[2025-11-08 14:32:15\] EVENT: Person detected at front door \(confidence: 92%\)\n"
        r"  - Objects: package \(87%\), person \(92%\)\n"
        r"  - Description: Person in blue shirt \[31mcarrying brown package\n"
        r"  - DEBUG: frame number: 812, yolo ms: 84\.2\n\n"
        r"\[2025-11-08 14:32:15\] EVENT: Ding at garage of cabin\n\n"
        rf"{now} UPDATE: Motion at front door, {event.event_id}\n"
        r"  - Person: Anna \(confidence: 90%\)\n"
        r"  - Door: unlocked\n\n"
    )
    log = folder / "events.log"
    assert wait_for(lambda: log.exists() and re.fullmatch(wanted, log.read_text()), "the log is complete")
    assert (folder / "events.log").stat().st_mode & 0o777 == 0o644
    assert (folder / "events.json").stat().st_mode & 0o777 == 0o644
    of_day, first, second, third = map(json.loads, (folder / "events.json").read_text().splitlines())
    assert of_day == {
        "kind": "day", "day": "2025-11-08", "first": "2025-11-07T23:00:00.000Z", "after": "2025-11-08T23:00:00.000Z",
        "zone": "Europe/Zurich",
    }  # fmt: skip
    assert first["detections"][1] == {"label": "person", "confidence": 0.923}
    assert first["metadata"] == {"frame_number": 812, "yolo_ms": 84.2}
    assert (first["recorded_at"], second["site"], third["kind"]) == ("2025-11-08T13:32:15.000Z", "cabin", "amendment")


def test_an_event_is_in_the_folder_of_its_own_day_in_the_configured_zone(idle_daemon):
    daemon = idle_daemon.start(config=ZURICH)
    with daemon.publisher() as publisher:
        for moment in ("2025-11-08T22:59:59", "2025-11-08T23:00:00", "2024-02-29T12:00:00", "2025-03-30T00:30:00"):
            publisher.insert_event(Event("door", recorded_at=datetime.fromisoformat(f"{moment}+00:00")))
    assert daemon.stop() == 0
    assert {file.parent.name for file in daemon.data_dir.glob("events/*/events.json")} == {
        "2025-11-08", "2025-11-09", "2024-02-29", "2025-03-30",
    }  # fmt: skip
    assert all(file.read_text().count('"kind":"event"') == 1 for file in daemon.data_dir.glob("events/*/events.json"))


def test_a_database_made_from_the_logs_is_the_original_row_for_row(daemon, tmp_path):
    publish_a_bit_of_everything(daemon)
    publish_a_bit_of_everything(daemon, 1)
    assert daemon.stop() == 0
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def test_nothing_is_written_twice_however_often_it_starts(daemon, tmp_path):
    for seed in range(3):
        publish_a_bit_of_everything(daemon, seed)
        last = f"event never-{seed}"
        wait_for(lambda last=last: last in daylogs.text(daemon.data_dir), "the last record is logged")
        daemon.kill() if seed % 2 else daemon.stop()
        before = daylogs.lines(daemon.data_dir), daylogs.text(daemon.data_dir)
        daemon.start()
        daemon.stop()
        assert (daylogs.lines(daemon.data_dir), daylogs.text(daemon.data_dir)) == before
        daemon.start()
    events = [line for line in daylogs.lines(daemon.data_dir) if line["kind"] == "event"]
    assert len(events) == len({line["event_id"] for line in events}) == 180
    assert daylogs.text(daemon.data_dir).count("] EVENT: ") == 180


def test_lines_missing_because_of_a_crash_between_commit_and_append_are_added(idle_daemon, tmp_path):
    daemon = idle_daemon
    crashing = [sys.executable, Path(__file__).parent.parent / "crashing_daemon.py", "after_commit", "3", "run"]
    daemon.home.joinpath("config.toml").write_text("")
    with daemon.publisher() as publisher:
        first = publisher.publish(Event("a", recorded_at=AT))
        process = subprocess.Popen([*crashing, "--data-dir", daemon.data_dir, "--endpoint", daemon.endpoint])
        first.wait(20)
        publisher.amend("a-later", llm_description="waits").wait(20)
        wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 2, "both are in the logs")
        publisher.publish_many(
            [Event("b", recorded_at=AT + timedelta(days=n), detections=[Detection("cat", 1)]) for n in range(5)],
            urgent=True,
        )
        assert process.wait(20) == -signal.SIGKILL
        assert [line["camera_id"] for line in daylogs.lines(daemon.data_dir) if line["kind"] == "event"] == ["a"]
        daemon.start()
        assert publisher.flush(10)
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 7, "the missing lines are there")
    wait_for(lambda: any("missed" in line["event"] and line["lines"] == 5 for line in daemon.logged()), "it is told")
    assert daemon.stop() == 0
    assert daylogs.text(daemon.data_dir).count("EVENT: Motion detected at") == 1
    assert daylogs.text(daemon.data_dir).count("EVENT: Cat detected at b (confidence: 100%)") == 5
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def test_entries_that_a_crash_took_from_the_log_for_people_are_added(daemon, tmp_path):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
        publisher.publish(Observation("the package is gone", "llm")).wait(10)
    wait_for(lambda: "package is gone" in daylogs.text(daemon.data_dir), "all is logged")
    text = daylogs.text(daemon.data_dir)
    daemon.kill()
    (log,) = daemon.data_dir.glob("events/*/events.log")
    log.write_text("")
    daemon.start()
    wait_for(lambda: daylogs.are_marked(daemon.database), "it has looked at all")
    assert sorted(daylogs.text(daemon.data_dir).split("\n\n")) == sorted(text.split("\n\n"))


@pytest.mark.parametrize("tear", [b"", b'{"kind":"event","id":9', b"\0" * 4096, b"\0\0\n"])
def test_what_a_power_cut_took_from_the_logs_is_repaired_at_start(daemon, tmp_path, tear):
    publish_a_bit_of_everything(daemon)
    assert daemon.stop() == 0  # marked: all of that is durable
    kept = tmp_path / "kept"
    shutil.copytree(daemon.data_dir / "events", kept)
    early = random_event(3)
    daemon.start()
    with daemon.publisher("detector") as detector:
        event = daemon.reader(early.site).get_recent_events(1)[0]
        detector.amend(event.event_id, site=early.site, llm_description="after the mark", metadata={"x": 1}).wait(10)
    publish_a_bit_of_everything(daemon, 1)
    daemon.kill()
    # The page cache is gone, and with it what was appended behind the mark; what is left may be torn.
    shutil.rmtree(daemon.data_dir / "events")
    shutil.copytree(kept, daemon.data_dir / "events")
    for file in daemon.data_dir.glob("events/*/events.*"):
        with file.open("ab") as log:
            log.write(tear)
    daemon.start()
    wait_for(lambda: any("missed" in line["event"] for line in daemon.logged()), "it caught up")
    assert daemon.stop() == 0
    assert b"\0" not in b"".join(file.read_bytes() for file in daemon.data_dir.glob("events/*/events.*"))
    assert daylogs.text(daemon.data_dir).count("] EVENT: ") >= 120
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def test_a_log_that_is_deleted_while_the_daemon_runs_is_begun_anew(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("before"))
        wait_for(lambda: daylogs.lines(daemon.data_dir), "it is logged")
        for file in daemon.data_dir.glob("events/*/events.json"):
            file.unlink()
        publisher.insert_event(Event("after"))
        wait_for(lambda: [line["camera_id"] for line in daylogs.lines(daemon.data_dir)] == ["after"], "a new file")


# -- degradation -----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_disks(idle_daemon):
    """The database and the day folders on small file systems of their own."""
    idle_daemon.settings = SMALL_DISK
    data = idle_daemon.data_dir
    with small_file_system(data, "4m"), small_file_system(data / "events", "4m"):
        yield idle_daemon
        idle_daemon.end()


def test_while_the_database_is_full_the_logs_get_each_record_once_and_marked(two_disks, tmp_path):
    daemon = two_disks.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("before"))
        filler = daemon.data_dir / "filler"
        fill_the_disk(filler)
        refused = [Event("refused", event_id=f"r{n}", llm_description="x" * 5000) for n in range(20)]
        with pytest.raises(DatabaseWriteError):
            publisher.insert_events(refused)
        publisher.publish(Event("refused", event_id="r20"))

        def marked():
            return [line for line in daylogs.lines(daemon.data_dir) if not line.get("stored", True)]

        wait_for(lambda: len(marked()) >= 21, "the refused records are in the logs", 30)
        assert wait_for(lambda: sum("still cannot" in line["event"] for line in daemon.logged()), "it tried again")
        assert [line["event_id"] for line in marked()] == [f"r{n}" for n in range(21)]
        assert "EVENT (not in the database yet): Motion detected at refused" in daylogs.text(daemon.data_dir)
        assert daemon.reader().count_events() == 1
        filler.unlink()
        assert publisher.flush(40)
    assert daemon.stop() == 0
    assert daemon.reader().count_events() == 22
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def test_records_known_from_the_logs_alone_are_in_a_rebuilt_database(two_disks, tmp_path):
    daemon = two_disks.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("before"))
        fill_the_disk(daemon.data_dir / "filler")
        with pytest.raises(DatabaseWriteError):
            publisher.insert_events([Event("refused", llm_description="x" * 5000) for n in range(20)])
    daemon.kill()
    done = daylogs.rebuild(daemon.data_dir, tmp_path / "new.db")
    assert done.returncode == 0
    assert "21 events" in done.stdout
    assert "20 of the events came while the database could not be written" in done.stdout


def test_while_a_log_is_full_the_database_commits_and_the_log_gets_it_later(two_disks, tmp_path):
    daemon = two_disks.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("before", recorded_at=AT))
        wait_for(lambda: daylogs.lines(daemon.data_dir), "it is logged")
        filler = daemon.data_dir / "events" / "filler"
        fill_the_disk(filler)
        events = [Event("during", recorded_at=AT, llm_description="x" * 5000) for _ in range(20)]
        assert publisher.insert_events(events).stored == 20
        wait_for(lambda: any("events.json: No space left" in line["event"] for line in daemon.logged()), "it is told")
        assert [line["camera_id"] for line in daylogs.lines(daemon.data_dir)] == ["before"], "no torn line"
        filler.unlink()
        publisher.insert_event(Event("after", recorded_at=AT))
    assert daemon.stop() == 0
    daemon.start()
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 22, "what was missed is added")
    assert daemon.stop() == 0
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def test_without_the_permission_to_write_a_log_the_database_commits_and_the_log_gets_it_later(idle_daemon, tmp_path):
    daemon = idle_daemon
    open_to_all(daemon.home)
    daemon.data_dir.mkdir(mode=0o777)
    daemon.data_dir.chmod(0o777)
    events = daemon.data_dir / "events"
    events.mkdir()
    events.chmod(0o555)
    socket_dir = Path(daemon.endpoint.removeprefix("ipc://")).parent
    socket_dir.chmod(0o777)
    program = f"{AS_NOBODY}\nsys.exit(sightlogd.__main__.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "run", "--data-dir", daemon.data_dir, "--endpoint", daemon.endpoint]

    def start():
        with daemon.log.open("ab") as log:
            daemon.process = subprocess.Popen(command, stderr=log)

    start()
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("during", recorded_at=AT))
        wait_for(lambda: any("it is added when" in line["event"] for line in daemon.logged()), "it is told")
        assert daylogs.lines(daemon.data_dir) == []
        events.chmod(0o777)
        assert daemon.stop() == 0
        start()
        wait_for(lambda: sum(line["event"] == "ready" for line in daemon.logged()) == 2, "it runs again")
        wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 1, "what was missed is added")
    assert daemon.stop() == 0
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def test_rebuild_says_what_to_do_and_never_writes_over_a_database(daemon, tmp_path):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("a"))
    daemon.stop()
    done = daylogs.rebuild(daemon.data_dir, daemon.database)
    assert (done.returncode, "is there already" in done.stderr) == (78, True)
    done = daylogs.rebuild(tmp_path, tmp_path / "new.db")
    assert (done.returncode, "no day folders" in done.stderr) == (78, True)
    with next(daemon.data_dir.glob("events/*/events.json")).open("a") as log:
        log.write("what is this\n")
    done = daylogs.rebuild(daemon.data_dir, tmp_path / "new.db")
    assert done.returncode == 74
    assert "1 lines could not be read" in done.stdout
    assert "1 events" in done.stdout
