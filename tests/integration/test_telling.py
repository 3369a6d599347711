"""Metrics, telemetry and the accounts of producers, with real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import daylogs
import pytest
from conftest import SMALL_DISK, Daemon, fill_the_disk, small_file_system, wait_for
from prometheus_client.parser import text_string_to_metric_families

from sightlog import Amendment, Event

EVERY_SECOND = "[metrics]\nmetrics_interval = 1\n"
SIGHTLOG = Path(sys.executable).with_name("sightlog")
HAS_EVERY_KIND = """
import os, signal, sys
from sightlog import Event, Publisher
endpoint, spool_dir, life = sys.argv[1:]
with Publisher(endpoint, "door", spool_dir) as publisher:
    publisher.publish(Event("door"))
    publisher.publish(Event("door", event_id="the-same"))
    publisher.add_person("anna")
    publisher.publish_many([Event("door", thumbnail=b"\\xff\\xd8" + b"." * 3000 + b"\\xff\\xd9") for _ in range(50)])
    if life != "left":
        assert publisher.flush(20)
    if life != "clean":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def daemon(idle_daemon: Daemon) -> Daemon:
    return idle_daemon.start(config=EVERY_SECOND)


def status(daemon: Daemon) -> dict:
    command = [SIGHTLOG, "status", "-o", "json", "--data-dir", daemon.data_dir]
    return json.loads(subprocess.run(command, capture_output=True, check=False).stdout)


def account(daemon: Daemon, producer_id: str) -> dict | None:
    found = {row["producer_id"]: row for row in status(daemon)["producers"]}
    return found.get(producer_id, {}).get("account")


def lines(daemon: Daemon) -> list[dict]:
    """One that is being written is not there yet."""
    path = daemon.data_dir / "metrics" / "metrics.json"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def live(daemon: Daemon, session: str) -> None:
    command = [sys.executable, "-c", HAS_EVERY_KIND, daemon.endpoint, str(daemon.home / "spool"), session]
    assert subprocess.run(command, check=False).returncode == (0 if session == "clean" else -signal.SIGKILL)


# -- accounts --------------------------------------------------------------------------------------------------------


def test_everything_published_in_all_lives_is_accounted_for_after_clean_stops_and_kills(daemon):
    sessions = ("clean", "delivered", "left", "delivered", "delivered", "clean", "left", "left")
    for session in sessions:
        live(daemon, session)
    with daemon.publisher("door") as publisher:
        assert publisher.published == 53 * len(sessions)
        publisher.publish(Event("door")).wait(20)
        assert publisher.flush(20)
        wait_for(lambda: account(daemon, publisher.producer_id), "the daemon told of the producer")
        found = account(daemon, publisher.producer_id)
    assert found == {"published": 53 * len(sessions) + 1, "spooled": 0, "lost": 0, "difference": 0}
    (row,) = daemon.reader().producers()
    assert (row["duplicates"], row["rejected"]) == (len(sessions) - 1, len(sessions) - 1)


def test_a_delivered_life_that_is_killed_is_counted_though_nothing_of_it_is_left(daemon):
    for _ in range(3):
        live(daemon, "delivered")
        segments = list((daemon.home / "spool" / "door").glob("*.spool"))
        assert [path.stat().st_size for path in segments] == [0]
    with daemon.publisher("door") as publisher:
        assert publisher.published == 3 * 53


def test_a_full_disk_is_counted_and_afterwards_everything_is_accounted_for(idle_daemon, tmp_path):
    small = tmp_path / "small"
    idle_daemon.settings = SMALL_DISK
    with small_file_system(small, "4m"):
        idle_daemon.data_dir = small / "data"
        daemon = idle_daemon.start(config=EVERY_SECOND)
        with daemon.publisher("door") as publisher:
            publisher.publish(Event("door")).wait(20)
            wait_for(lambda: daylogs.lines(daemon.data_dir), "it is logged")
            filler = small / "filler"
            fill_the_disk(filler)
            big = [Event("door", llm_description="x" * 60_000) for _ in range(20)]
            publisher.publish_many(big)
            wait_for(lambda: any("events.json: No space left" in e["event"] for e in daemon.logged()), "told")
            filler.unlink()
            assert publisher.flush(60)
            wait_for(lambda: lines(daemon)[-1]["file_write_errors"] > 0, "a snapshot after the trouble")
            last = lines(daemon)[-1]
            assert last["db_write_errors"] > 0
            assert last["busy"] > 0
            assert 0 < last["availability"] < 1
            wait_for(lambda: (account(daemon, publisher.producer_id) or {}).get("published") == 21, "the account")
            assert account(daemon, publisher.producer_id)["difference"] == 0
        assert daemon.stop() == 0


# -- telemetry -------------------------------------------------------------------------------------------------------


def test_totals_are_counted_once_whatever_breaks_in_between(daemon):
    with daemon.publisher("camera") as publisher:
        wait_for(lambda: publisher.connected, "connected")
        publisher.telemetry(frames_processed=30, motion_detected=3, events_created=2, inference_ms={"hog": 12.5})
        wait_for(lambda: lines(daemon)[-1]["frames_processed"] == 30, "the totals are in a snapshot")
        last = lines(daemon)[-1]
        assert (last["motion_detected"], last["motion_hit_rate"], last["events_created"]) == (3, 0.1, 2)
        spread = dict.fromkeys(("average", "min", "max", "p95"), 12.5)
        assert last["inference_ms"] == [{"producer": "camera", "name": "hog", "ms": {"count": 1, **spread}}]
        daemon.kill()
        publisher.telemetry(frames_processed=5)
        daemon.start(config=EVERY_SECOND)
        # What the life did before this daemon is not this daemon's; what it tells from now on is.
        wait_for(lambda: lines(daemon)[-1]["pid"] == daemon.process.pid, "a snapshot of the new daemon")
        wait_for(lambda: lines(daemon)[-1]["producers"], "the camera is there again")
        assert lines(daemon)[-1]["frames_processed"] == 0
        publisher.telemetry(frames_processed=7)
        wait_for(lambda: lines(daemon)[-1]["frames_processed"] == 7, "the difference is counted")
    with daemon.publisher("camera") as publisher:
        publisher.telemetry(frames_processed=100)
        wait_for(lambda: lines(daemon)[-1]["frames_processed"] == 107, "a new life begins at 0")


def test_a_sensor_that_ends_tells_what_it_counted_last(daemon):
    for _ in range(3):
        with daemon.publisher("camera") as publisher:
            wait_for(lambda: publisher.connected, "connected")
            for _ in range(100):
                publisher.telemetry(frames_processed=1)
    wait_for(lambda: lines(daemon)[-1]["frames_processed"] == 300, "all of it is counted")


def test_telemetry_never_waits_for_a_daemon_and_is_not_spooled(idle_daemon):
    with idle_daemon.publisher("camera") as publisher:
        for _ in range(1_000):
            publisher.telemetry(frames_processed=1)
        assert publisher.spooled == publisher.published == 0


# -- what is written -------------------------------------------------------------------------------------------------


def test_both_files_say_the_same_and_only_the_readers_group_may_read_them(idle_daemon):
    daemon = idle_daemon
    daemon.data_dir.mkdir()
    daemon.data_dir.chmod(0o2750)  # as it is installed: what is made in there has the readers' group
    daemon.start()
    with daemon.publisher("door") as publisher:
        for _ in range(3):
            publisher.insert_event(Event("door"))
        publisher.publish(Amendment("nobody", alert_sent=True)).wait(20)
    assert daemon.stop() == 0
    last = lines(daemon)[-1]
    assert (last["events_persisted"], last["commit_ms"]["count"], last["latency_ms"]["count"]) == (3, 4, 3)
    assert 0 < last["latency_ms"]["min"] <= last["latency_ms"]["p95"] <= last["latency_ms"]["max"] < 60_000
    assert last["memory_rss_bytes"] > last["memory_pss_bytes"] > 10_000_000
    directory = daemon.data_dir / "metrics"
    families = {f.name: f for f in text_string_to_metric_families((directory / "sightlog.prom").read_text())}
    values = {name: family.samples[0].value for name, family in families.items()}
    assert values["sightlog_events_persisted"] == 3
    assert values["sightlog_commit_seconds_p95"] == last["commit_ms"]["p95"] / 1000
    assert values["sightlog_uptime_seconds"] == last["uptime_seconds"]
    assert values["sightlog_producer_published"] == 4
    modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in (directory, *directory.iterdir())}
    assert modes == {"metrics": "0o2750"} | dict.fromkeys(("metrics.json", "latest.json", "sightlog.prom"), "0o640")
    assert json.loads((directory / "latest.json").read_bytes()) == last


def test_a_status_line_is_logged_each_interval(daemon):
    daemon.publisher("door").insert_event(Event("door"))
    wait_for(lambda: any("p95 commit" in entry["event"] for entry in daemon.logged()), "a status line")


def test_metrics_that_cannot_be_written_stop_nothing(idle_daemon):
    (idle_daemon.data_dir).mkdir()
    (idle_daemon.data_dir / "metrics").write_text("somebody's file")
    daemon = idle_daemon.start(config=EVERY_SECOND)
    with daemon.publisher("door") as publisher:
        assert publisher.insert_event(Event("door"))
        wait_for(lambda: any(e["event"] == "cannot write the metrics" for e in daemon.logged()), "it was told")
        assert status(daemon)["metrics"] is None
        (daemon.data_dir / "metrics").unlink()
        wait_for(lambda: lines(daemon), "written again by itself")
    assert lines(daemon)[0]["file_write_errors"] >= 1
    assert sum(e["event"] == "cannot write the metrics" for e in daemon.logged()) == 1


def test_a_line_that_a_crash_cut_short_costs_that_line_alone(daemon):
    wait_for(lambda: lines(daemon), "a first snapshot")
    daemon.kill()
    path = daemon.data_dir / "metrics" / "metrics.json"
    path.write_bytes(path.read_bytes() + b'{"at": "2026')
    assert status(daemon)["metrics"]["pid"] == daemon.process.pid
    daemon.start(config=EVERY_SECOND)

    def newest() -> bool:
        return status(daemon)["metrics"]["pid"] == daemon.process.pid

    wait_for(newest, "a snapshot of the new daemon")
    torn = [line for line in path.read_bytes().splitlines() if not line.endswith(b"}")]
    assert torn == [b'{"at": "2026']
