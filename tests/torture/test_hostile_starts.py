"""A daemon on a damaged database or WAL: it refuses with an explanation and changes nothing, or it works."""

from __future__ import annotations

import time

import pytest
import verbs
from conftest import Daemon, wait_for
from damage import copy, damage
from lab import often
from test_hostile_files import sound  # noqa: F401 - a fixture

from sightlog import AckTimeout, DaemonError, Event

STARTS = often(3, 40)
EXPLAINED = {28, 74, 77, 78}


@pytest.mark.timeout(120 + STARTS * 15)
def test_a_daemon_on_a_damaged_database_explains_itself_or_works(sound, tmp_path, attack):  # noqa: F811
    attack.on("P5, P8", "a daemon started on a damaged database or WAL, and an event published to it", "starts")
    choose = attack.random()
    daemon = Daemon(tmp_path)
    daemon.settings = "[storage]\nkeep_free_gb = 0.0\n"
    refused = 0
    try:
        for number in range(STARTS):
            copy(sound / "data", daemon.data_dir)
            file = daemon.data_dir / ("events.db-wal" if number % 4 == 3 else "events.db")
            what = f"{damage(choose, file)}: {file.name}"
            before = verbs.tree(daemon.data_dir)
            daemon.log.write_text("")
            daemon.start(wait=False)
            wait_for(lambda: '"ready"' in daemon.log.read_text() or daemon.process.poll() is not None, what, 60)
            if daemon.process.poll() is None:
                publish(daemon, what)
                if daemon.process.poll() is None:
                    assert daemon.stop(60) in {0, *EXPLAINED}, what
            else:
                after = verbs.tree(daemon.data_dir)
                changed = {name for name in before if after.get(name) != before[name]}
                assert changed <= {"lock", "writer.json"}, f"{changed} changed after {what}"
            log = daemon.log.read_text()
            assert "Traceback" not in log, f"{what}\n{log[-3_000:]}"
            assert daemon.process.returncode in {0, *EXPLAINED}, f"{what}: {daemon.process.returncode}\n{log[-1_000:]}"
            refused += daemon.process.returncode != 0
            attack.runs += 1
    finally:
        daemon.end()
    attack.note = f"{refused} refused or ended"


def publish(daemon: Daemon, what: str) -> None:
    """It is acked, or the daemon says why not, or ends."""
    deadline = time.monotonic() + 60
    with daemon.publisher(f"p{time.monotonic_ns()}") as publisher:
        while daemon.process.poll() is None:
            assert time.monotonic() < deadline, what
            try:
                publisher.insert_event(Event("door", llm_description="blue"), timeout=1)
                return
            except (DaemonError, AckTimeout):
                continue
