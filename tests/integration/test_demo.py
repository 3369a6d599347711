"""`sightlog demo` as a user runs it: real processes, a real video, the summary believed only where the store agrees."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

from sightlog import Event, Reader

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `sightlog demo` on `tmp_path/data`; what is still running at the end is killed."""
    demos = []

    def start(*arguments: str, data_dir: Path = tmp_path / "data") -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).with_name("sightlog")), "demo", "--data-dir", str(data_dir), *arguments]
        demos.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return demos[-1]

    yield start
    for demo in demos:
        demo.kill()
        demo.communicate()
    wait_for(lambda: not _processes_of(tmp_path), "processes of the demo are gone")


def _processes_of(path: Path) -> list[tuple[int, str]]:
    """(id, command line) of every process that names a file under `path`, but for the demo itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has ended
                continue
            if str(path) in command and "sightlog demo" not in command:
                found.append((int(entry.name), command))
    return found


def _events(data: Path) -> list[Event]:
    with Reader(data / "events.db") as reader:
        return reader.get_recent_events(1000)


def _counts(out: str) -> dict[str, int]:
    """The numbers of the line that must balance."""
    line = re.search(r"^published (\d+).* = stored (\d+) \+ duplicates (\d+) \+ rejected (\d+): OK$", out, re.MULTILINE)
    assert line, out
    return dict(zip(("published", "stored", "duplicates", "rejected"), map(int, line.groups()), strict=True))


def _stored(data: Path) -> int:
    with Reader(data / "events.db") as reader:
        return sum(producer["stored"] for producer in reader.producers())


def _similar(data: Path, event: Event) -> list[dict[str, Any]]:
    command = [Path(sys.executable).with_name("sightlog"), "similar", "--face", event.event_id, "--data-dir", data]
    done = subprocess.run([*command, "-n", "all", "-o", "json"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_eight_seconds_of_the_clip(tmp_path: Path, start: Start) -> None:
    data = tmp_path / "data"
    demo = start("--duration", "8")
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == 0, out + err
    assert not _processes_of(tmp_path)
    assert err == ""

    events = _events(data)
    labels = [detection.label for event in events for detection in event.detections]
    assert len(events) >= 3
    assert {event.event_type for event in events} == {"motion"}
    assert len({event.recording_id for event in events}) == 1
    assert "person" in labels
    assert all((data / str(event.thumbnail_path)).read_bytes()[:3] == b"\xff\xd8\xff" for event in events)
    named = [event for event in events if event.person_name == "Ada"]
    assert named
    assert all(event.unlock_granted and event.door_action == "unlocked" for event in named)
    assert not any(event.unlock_granted for event in events if event not in named)
    faces = [event for event in events if any(detection.label == "face" for detection in event.detections)]
    assert {event.embedding_model for event in faces} == {"grey-64x64"}
    assert all((event.metadata or {})["face_metric"] == "cosine" for event in faces)
    assert len(_similar(data, named[0])) == len(faces) - 1

    counts = _counts(out)
    assert counts["published"] == counts["stored"] == _stored(data)
    assert "\x1b" not in out
    assert re.search(r"^sightlogd: .*p95 commit [\d.]+ ms$", out, re.MULTILINE)
    told = json.loads((data / "metrics" / "metrics.json").read_text().splitlines()[-1])
    assert told["frames_processed"] > 50
    assert told["motion_detected"] >= told["events_created"] + told["events_suppressed"]
    assert told["events_created"] == len(events)
    assert told["events_suppressed"] > 0
    assert {(i["producer"], i["name"]) for i in told["inference_ms"]} == {("detector", "hog"), ("face", "haar")}
    assert all(p["account"]["difference"] == p["account"]["spooled"] == 0 for p in told["producers"])
    for event in events:
        assert f"…{event.event_id[-6:]}" in out
    assert f"sightlog show {events[0].event_id}" in out


def test_a_second_run_uses_the_same_store_and_counts_only_itself(tmp_path: Path, start: Start) -> None:
    data = tmp_path / "data"
    start("--duration", "4").communicate(timeout=60)
    stored, events = _stored(data), len(_events(data))
    out, err = start("--duration", "4").communicate(timeout=60)
    counts = _counts(out)
    assert counts["stored"] == _stored(data) - stored
    # Ada is known since the first run.
    assert counts["rejected"] == 1
    assert len(_events(data)) > events
    assert err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_middle_leaves_nothing_behind_and_balances(tmp_path: Path, start: Start, number: int) -> None:
    demo = start()
    assert demo.stdout is not None
    first = next(line for line in demo.stdout if "motion" in line)
    assert "thumbnail" in first
    demo.send_signal(number)
    out, err = demo.communicate(timeout=30)
    assert demo.returncode == 0, out + err
    assert not _processes_of(tmp_path)
    assert _counts(out)["published"] >= 1
    assert "Traceback" not in err


def test_a_killed_demo_takes_its_processes_along(tmp_path: Path, start: Start) -> None:
    demo = start()
    assert demo.stdout is not None
    next(line for line in demo.stdout if "motion" in line)
    assert len(_processes_of(tmp_path)) == 5
    demo.kill()
    wait_for(lambda: not _processes_of(tmp_path), "the demo's processes ended with it")


@pytest.mark.parametrize("victim", ["sightlogd", "sightlog_sensors.detector"])
def test_a_process_that_dies_ends_the_demo_and_is_named(tmp_path: Path, start: Start, victim: str) -> None:
    demo = start()
    assert demo.stdout is not None
    next(line for line in demo.stdout if "motion" in line)
    (process,) = [process for process, command in _processes_of(tmp_path) if f"-m {victim} " in command]
    os.kill(process, signal.SIGKILL)
    _, err = demo.communicate(timeout=14)  # the clip would go on for 18 s
    assert demo.returncode == 1
    assert f"{victim.removeprefix('sightlog_sensors.')} ended with exit code -9" in err
    assert "Traceback" not in err
    assert not _processes_of(tmp_path)


def test_a_source_that_is_not_there_is_said_before_anything_is_started(tmp_path: Path, start: Start) -> None:
    demo = start("--source", "nowhere.mp4")
    out, err = demo.communicate(timeout=60)
    assert (demo.returncode, out) == (2, "")
    assert err.splitlines()[-1].endswith("there is no video file nowhere.mp4")
    assert "Traceback" not in err


def test_two_demos_do_not_share_a_directory(tmp_path: Path, start: Start) -> None:
    first = start()
    assert first.stdout is not None
    next(line for line in first.stdout if "motion" in line)
    second = start()
    _, err = second.communicate(timeout=30)
    assert second.returncode == 2
    assert f"another demo is using {tmp_path / 'data'}" in err
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=30)
    assert first.returncode == 0
    assert _counts(out)


def test_a_directory_too_deep_for_a_socket(tmp_path: Path, start: Start) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    demo = start("--duration", "3", data_dir=deep)
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == 0, err
    assert _counts(out)["published"] >= 1


def test_output_that_nobody_reads_any_more(tmp_path: Path, start: Start) -> None:
    demo = start()
    assert demo.stdout is not None
    assert demo.stderr is not None
    demo.stdout.readline()
    demo.stdout.close()
    demo.wait(timeout=30)
    assert not _processes_of(tmp_path)
    assert "Traceback" not in demo.stderr.read()
