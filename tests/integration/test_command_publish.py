"""`sightlog publish` against a real daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

from commands import SIGHTLOG, environment, ids, run
from pictures import jpeg

JPEG = jpeg()


def test_publish_carries_every_option(daemon, tmp_path):
    picture = tmp_path / "door.jpg"
    picture.write_bytes(JPEG)
    done = run(
        daemon, "publish", "--camera", "door", "--type", "ding", "--site", "house", "--event-id", "e1",
        "--at", "2026-03-01T10:00:00.125Z", "--detection", "person:0.95:10,20,100,200", "--detection", "dog:0.4",
        "--person", "Zoë", "--description", "waves", "--thumbnail", picture, "--producer", "hook",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "e1 stored\n", "")
    with daemon.reader("house") as reader:
        event = reader.get_event("e1")
        assert reader.producers()[0]["name"] == "hook"
    assert (event.camera_id, event.event_type, event.person_name, event.llm_description) == (
        "door", "ding", "Zoë", "waves",
    )  # fmt: skip
    assert event.recorded_at.isoformat() == "2026-03-01T10:00:00.125000+00:00"
    assert [(d.label, d.confidence, d.bbox) for d in event.detections] == [
        ("person", 0.95, (10, 20, 100, 200)),
        ("dog", 0.4, None),
    ]
    shown = run(daemon, "show", "e1", "--site", "house").stdout
    path = next(line.split()[1] for line in shown.splitlines() if line.startswith("thumbnail_path"))
    assert Path(path).read_bytes() == JPEG


def test_publish_again_is_a_duplicate_and_no_error(daemon):
    arguments = ("publish", "--camera", "door", "--event-id", "e1")
    assert run(daemon, *arguments).stdout == "e1 stored\n"
    again = run(daemon, *arguments)
    assert (again.returncode, again.stdout) == (0, "e1 duplicate\n")
    assert "already" in again.stderr


def test_what_show_prints_is_published_elsewhere(daemon):
    run(daemon, "publish", "--camera", "door", "--event-id", "e1", "--detection", "dog:0.5", "--person", "Anna")
    shown = run(daemon, "show", "e1", "-o", "json").stdout
    copied = run(daemon, "publish", "--json", "-", "--event-id", "e2", "--site", "backup", given=shown)
    assert copied.stdout == "e2 stored\n"
    assert ids(run(daemon, "events", "--site", "backup").stdout) == ["e2"]
    original, copy = daemon.reader().get_event("e1"), daemon.reader("backup").get_event("e2")
    assert (copy.recorded_at, copy.detections, copy.person_name) == (
        original.recorded_at, original.detections, "Anna",
    )  # fmt: skip


def test_a_record_that_breaks_a_limit_is_refused_before_it_is_spooled(daemon):
    done = run(daemon, "publish", "--camera", "../../etc", "--event-id", "e1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "camera_id" in done.stderr
    assert run(daemon, "events").returncode == 1


def test_without_a_daemon_an_event_waits_in_the_spool_for_the_next_publish(idle_daemon):
    done = run(idle_daemon, "publish", "--camera", "door", "--event-id", "e1", "--timeout", "0.2")
    assert (done.returncode, done.stdout) == (75, "e1 spooled\n")
    assert "do not publish it again" in done.stderr
    idle_daemon.start()
    assert run(idle_daemon, "publish", "--camera", "door", "--event-id", "e2").stdout == "e2 stored\n"
    assert sorted(ids(run(idle_daemon, "events").stdout)) == ["e1", "e2"]


def test_two_at_once_both_get_through(daemon):
    processes = [
        subprocess.Popen([SIGHTLOG, "publish", "--camera", "door", "--timeout", "60"], env=environment(daemon))
        for _ in range(4)
    ]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(run(daemon, "events").stdout.splitlines()) == 4


def test_a_spool_in_use_for_too_long_is_told(daemon):
    with daemon.publisher("cli"):
        done = run(daemon, "publish", "--camera", "door", "--timeout", "0.1")
    assert (done.returncode, done.stdout) == (75, "")
    assert "was not published" in done.stderr
