"""`sightlog status` before, during and after the daemon's life."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import SIGHTLOG, environment, ids, run
from conftest import SMALL_DISK, Daemon, fill_the_disk, small_file_system, wait_for
from locker import locked

from sightlog import Event


def test_status_before_during_and_after_the_daemons_life(idle_daemon):
    never = run(idle_daemon, "status")
    assert never.returncode == 3
    assert "sightlogd is not running" in never.stdout
    assert "makes it at its first start" in never.stdout
    assert json.loads(run(idle_daemon, "status", "-o", "json").stdout)["database"] is None

    daemon = idle_daemon.start(config="[metrics]\nmetrics_interval = 1\n")
    for event_id in ("e1", "e1", "e2"):
        run(daemon, "publish", "--camera", "door", "--event-id", event_id)
    with daemon.publisher("faces") as publisher:
        publisher.add_person("Anna").wait(20)
        assert publisher.add_person("Anna").wait(20) == "rejected"
        publisher.amend("not-yet", alert_sent=True).wait(20)

    def accounts():
        producers = json.loads(run(daemon, "status", "-o", "json").stdout)["producers"]
        return all(producer["account"] for producer in producers)

    wait_for(accounts, "a snapshot has what both told")
    running = run(daemon, "status")
    assert running.returncode == 0
    assert f"sightlogd is running (process {daemon.process.pid})" in running.stdout
    assert max(map(len, running.stdout.splitlines()[:6])) <= 80
    table = {line.split()[0]: line.split()[1:8] for line in running.stdout.splitlines() if line.split()[7:]}
    heading = ["published", "stored", "dupl.", "rejected", "spool", "lost", "off"]
    assert table["producer"] == heading
    assert table["cli"] == ["3", "2", "1", "0", "0", "0", "0"]
    assert table["faces"] == ["3", "2", "0", "1", "0", "0", "0"]
    assert "1 duplicate, 1 rejected" in running.stdout
    assert "faces  rejected: constraint: site default has a person named 'Anna' already" in running.stdout
    assert "1 wait for their event" in running.stdout

    daemon.kill()
    stopped = run(daemon, "status", "-o", "json")
    assert stopped.returncode == 3
    status = json.loads(stopped.stdout)
    daemon_now = status["daemon"]
    assert (daemon_now["running"], daemon_now["pid"], daemon_now["trouble"]) == (False, None, None)
    assert status["database"]["path"] == str(daemon.database)
    assert status["database"]["bytes"] == daemon.database.stat().st_size > 0
    assert status["database"]["wal_bytes"] == Path(f"{daemon.database}-wal").stat().st_size > 0
    assert status["database"]["schema_version"] == 1
    assert status["events"] == 2
    assert status["newest_event"]["event_id"] == "e2"
    assert status["dead_letters"]["counts"] == {"duplicate": 1, "rejected": 1}
    assert [dead_letter["status"] for dead_letter in status["dead_letters"]["latest"]] == ["rejected", "duplicate"]
    assert status["pending_amendments"] == 1
    assert ids(run(daemon, "events").stdout) == ["e1", "e2"]


def test_somebody_else_who_asks_is_not_taken_for_the_daemon(daemon):
    daemon.kill()
    with (
        open(daemon.data_dir / "lock") as lock,
        locked(daemon.data_dir / "writer.json", 0, 0),
        locked(daemon.database, 0, 0),
    ):
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert run(daemon, "status").returncode == 3


def test_asking_for_the_status_never_keeps_the_daemon_from_starting(idle_daemon):
    idle_daemon.start()
    idle_daemon.stop()
    askers = [
        subprocess.Popen([SIGHTLOG, "status"], stdout=subprocess.DEVNULL, env=environment(idle_daemon))
        for _ in range(8)
    ]
    idle_daemon.start()
    assert all(process.wait(20) in (0, 3) for process in askers)


# -- how old what is shown may be ------------------------------------------------------------------------------------


def seen(daemon: Daemon) -> dict:
    return json.loads(run(daemon, "status", "-o", "json").stdout)


def test_what_was_acked_a_moment_ago_is_in_the_figures(daemon):
    """Between two snapshots there is a minute."""
    with daemon.publisher("camera") as publisher:
        publisher.insert_events(Event("door") for _ in range(1_501))
        assert publisher.flush(30)
        assert "1,501 events stored" in run(daemon, "status").stdout
        publisher.insert_events(Event("door") for _ in range(500))
        assert publisher.flush(30)
        assert "2,001 events stored" in run(daemon, "status").stdout
        assert not publisher.insert_event(Event("door", event_id=daemon.reader().get_recent_events(1)[0].event_id))
        wait_for(lambda: seen(daemon)["metrics"]["duplicates"] == 1, "the figures have it")
    figures = seen(daemon)["metrics"]
    assert figures["events_persisted"] == 2_001
    assert figures["commit_ms"]["count"] >= 3
    assert len((daemon.data_dir / "metrics" / "metrics.json").read_text().splitlines()) == 1


def test_no_old_figure_stands_under_a_new_error(idle_daemon, tmp_path):
    small = tmp_path / "small"
    idle_daemon.settings = SMALL_DISK
    with small_file_system(small, "4m"):
        idle_daemon.data_dir = small / "data"
        daemon = idle_daemon.start()
        with daemon.publisher("camera") as publisher:
            publisher.insert_event(Event("door"))
            wait_for(lambda: seen(daemon)["metrics"]["events_persisted"] == 1, "the figures have it")
            filler = small / "filler"
            fill_the_disk(filler)
            publisher.publish_many([Event("door", llm_description="x" * 60_000) for _ in range(20)])
            wait_for(lambda: seen(daemon)["daemon"]["trouble"], "it cannot write")
            wait_for(lambda: seen(daemon)["metrics"]["db_write_errors"], "the figures have it")
            said = run(daemon, "status").stdout
            assert "cannot write" in said
            assert "batches not written" in said
            assert "writing       100%" not in said
            filler.unlink()
            assert publisher.flush(60)
            wait_for(lambda: seen(daemon)["metrics"]["events_persisted"] == 21, "the figures have it")
            assert seen(daemon)["daemon"]["trouble_since"] is None
        assert daemon.stop() == 0


def test_figures_that_a_start_or_an_error_made_untrue_are_shown_as_what_they_are(daemon):
    with daemon.publisher("camera") as publisher:
        publisher.insert_event(Event("door"))
    wait_for(lambda: seen(daemon)["metrics"]["events_persisted"] == 1, "the figures have it")
    wait_for(lambda: "\n  storage " in run(daemon, "status").stdout, "all is measured")
    for name in ("latest.json", "metrics.json"):
        file = daemon.data_dir / "metrics" / name
        snapshots = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**one, "at": "2020-01-01T00:00:00.000Z"}) + "\n" for one in snapshots))
    said = run(daemon, "status").stdout
    assert "figures of the last run" in said
    assert "\n  storage " not in said


# -- a daemon that is down -------------------------------------------------------------------------------------------

FAULTY = "import sys; from sightlogd.service import loop; loop.Ingest.serve = lambda _: {}[1]; "
MAIN = "from sightlogd.__main__ import main; sys.exit(main(sys.argv[1:]))"


def damaged(daemon: Daemon) -> None:
    daemon.stop()
    with daemon.database.open("r+b") as file:
        file.seek(4_096)
        file.write(b"x" * 40_000)
    daemon.start(wait=False)


def removed(daemon: Daemon) -> None:
    (daemon.data_dir / "events.db").rename(daemon.data_dir / "aside.db")
    with daemon.publisher("other") as publisher:
        publisher.publish(Event("door"))
        daemon.process.wait(60)


def full(daemon: Daemon) -> None:
    daemon.stop()
    daemon.start(config='[storage]\nmax_storage_gb = 0.001\nover_limit_action = "shutdown"\n', wait=False)


def faulty(daemon: Daemon) -> None:
    daemon.stop()
    daemon.start(program=("-c", FAULTY + MAIN), wait=False)


def without_a_socket(daemon: Daemon) -> None:
    daemon.stop()
    daemon.start("--endpoint", f"ipc://{daemon.home}/no/such/folder/s", wait=False)


FAILURES = [
    (damaged, 78, "is damaged or not a database"),
    (removed, 74, "rebuild --from-logs"),
    (full, 28, "Storage limit exceeded"),
    (faulty, 1, "an error in sightlogd itself, KeyError(1)"),
    (without_a_socket, 74, "no/such/folder"),
]


@pytest.mark.parametrize(("fail", "code", "reason"), FAILURES, ids=[fail.__name__ for fail, _, _ in FAILURES])
def test_why_a_daemon_that_failed_is_down_is_told_until_it_runs_again(daemon, fail, code, reason):
    with daemon.publisher("camera") as publisher:
        publisher.insert_event(Event("door"))
    fail(daemon)
    assert daemon.process.wait(60) == code
    said = run(daemon, "status")
    assert said.returncode in (3, 74)
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("  failed ")]
    assert f"with exit code {code}: " in line
    assert reason in line
    if fail is removed:
        (daemon.data_dir / "aside.db").rename(daemon.data_dir / "events.db")
    if fail is damaged:
        return
    # A purge is no daemon: it does not explain it away.
    purged = subprocess.run(
        [SIGHTLOG + "d", "purge", "--before", "2020-01-01", "--data-dir", daemon.data_dir], check=False
    )
    assert purged.returncode == 0
    assert seen(daemon)["daemon"]["failure"]["exit_code"] == code
    daemon.start()
    assert seen(daemon)["daemon"]["failure"] is None
    assert "\n  failed " not in run(daemon, "status").stdout
    assert daemon.stop() == 0
    assert seen(daemon)["daemon"]["failure"] is None
    assert not (daemon.data_dir / "writer.json").exists()


def test_of_a_daemon_that_was_killed_it_is_said(daemon):
    daemon.kill()
    assert "\n  failed        killed, or the power was cut\n" in run(daemon, "status").stdout
    daemon.start()
    assert "\n  failed " not in run(daemon, "status").stdout


def test_the_reason_is_kept_where_the_disk_is_full(idle_daemon, tmp_path):
    small = tmp_path / "small"
    with small_file_system(small, "4m"):
        idle_daemon.data_dir = small / "data"
        daemon = idle_daemon.start(config=SMALL_DISK)
        try:
            fill_the_disk(small / "filler")
            removed(daemon)
            assert daemon.process.poll() == 74
            assert seen(daemon)["daemon"]["failure"]["exit_code"] == 74
        finally:
            daemon.end()


# -- how many there are ----------------------------------------------------------------------------------------------


def test_events_of_a_day_without_a_folder_are_counted(filled):
    assert filled.stop() == 0
    shutil.rmtree(filled.data_dir / "events" / "2026-03-01")
    filled.start()
    wait_for(lambda: seen(filled)["metrics"]["pid"] == filled.process.pid, "a snapshot")
    wait_for(lambda: seen(filled)["metrics"]["events_total"] is not None, "all is counted")
    assert seen(filled)["metrics"]["events_total"] == 30 == seen(filled)["events"]
