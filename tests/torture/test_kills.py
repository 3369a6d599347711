"""SIGKILL at random moments of daemon, producers, or both, with ledgers kept outside."""

from __future__ import annotations

import time

import daylogs
import pytest
from conftest import wait_for
from lab import often
from ledger import acked, check, published, start_producer

KILLS = often(25, 300)
NAMES = ("camera", "detector", "face")


@pytest.mark.timeout(60 + KILLS * 3)
def test_whatever_is_killed_acked_is_stored_once_and_published_arrives(idle_daemon, tmp_path, attack):
    attack.on("P1, P2, P3", "SIGKILL of daemon, producer or both at random moments", "kills")
    choose = attack.random()
    daemon = idle_daemon
    daemon.start(wait=False)
    ledgers = {name: tmp_path / f"{name}.ledger" for name in NAMES}

    def start(name: str, count: int = 10_000_000):
        return start_producer(daemon.endpoint, tmp_path / "spool", name, ledgers[name], count)

    producers = {name: start(name) for name in NAMES}
    try:
        for number in range(KILLS):
            # Not a wait for something: the moment of the kill is what is drawn.
            time.sleep(choose.random() * 0.6)
            if number % 5 == 4:  # on a slow machine nobody would live long enough to get anything done
                before = {name: len(acked(ledger)) for name, ledger in ledgers.items()}
                wait_for(
                    lambda before=before: all(len(acked(ledgers[name])) > before[name] + 2 for name in NAMES), "acks"
                )
            victims = choose.choice(["daemon", "producer", "both"])
            if victims != "producer":
                daemon.kill()
                check(daemon.database, ledgers, delivered=False) if daemon.database.exists() else None
                daemon.start(wait=False)
            if victims != "daemon":
                name = choose.choice(NAMES)
                producers[name].kill()
                producers[name].wait()
                producers[name] = start(name)
            attack.runs += 1
    finally:
        for producer in producers.values():
            producer.kill()
            producer.wait()
    for name in NAMES:
        assert start(name, 1).wait(60) == 0
    check(daemon.database, ledgers, delivered=True)
    assert all(len(acked(ledger)) > 10 for ledger in ledgers.values())
    assert all(published(ledger) for ledger in ledgers.values())
    assert daemon.stop() == 0
    daemon.start()
    wait_for(lambda: daylogs.are_marked(daemon.database), "the day logs have caught up", 60)
    assert daemon.stop() == 0
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")
