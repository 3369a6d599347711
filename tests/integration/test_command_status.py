"""`sightlog status` before, during and after the daemon's life."""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path

from commands import SIGHTLOG, environment, ids, run
from conftest import wait_for
from locker import locked


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
    assert status["daemon"] == {"running": False, "pid": None, "trouble": None}
    assert status["database"]["path"] == str(daemon.database)
    assert status["database"]["bytes"] == daemon.database.stat().st_size > 0
    assert status["database"]["wal_bytes"] == Path(f"{daemon.database}-wal").stat().st_size > 0
    assert status["database"]["schema_version"] == 1
    assert status["events"] == 2
    assert status["newest_event"]["event_id"] == "e2"
    assert status["dead_letters"]["counts"] == {"duplicate": 1, "rejected": 1}
    assert [letter["status"] for letter in status["dead_letters"]["latest"]] == ["rejected", "duplicate"]
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
