"""The soak, for seconds: it passes, and it sees what leaks and what is lost."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from lab import often
from soak import SENSORS, Soak
from soak_check import Loss, check_ledger, removed_days
from soak_plot import plot
from soak_verdict import growth, theil_sen

SECONDS = often(6, 75)
LEAKING = Path(__file__).with_name("leaking_daemon.py")


@pytest.mark.timeout(300)
def test_a_soak_loses_nothing_and_nothing_grows(tmp_path, attack):
    attack.on("P1, P2, P3, P7", "a soak: 50 events/s, readers, kills and purges; growth is judged", "kills and purges")
    soak = Soak(SECONDS, attack.seed, tmp_path / "soak")
    try:
        soak.run()
        found = soak.evaluate()
    finally:
        soak.close()
    attack.runs = soak.kills + soak.purges
    assert not soak.failures
    assert found, "growth was not judged"
    assert soak.acked > SECONDS * 10
    plot(soak.summary(), found, tmp_path / "soak.png")
    attack.note = "; ".join(f"{one.bound.what} {one.grew:+.1f} {one.bound.unit}".strip() for one in found[:2])
    assert_the_check_sees_a_loss(soak, tmp_path / "broken.db")


def assert_the_check_sees_a_loss(soak: Soak, broken: Path) -> None:
    """On copies of what the soak left."""
    name, removed = SENSORS[0], removed_days(soak.home)
    for statement, said in (
        ("DELETE FROM events WHERE id = (SELECT max(id) FROM events WHERE camera_id = :name)", "is gone"),
        (
            "DELETE FROM observations WHERE event_id IN (SELECT event_id FROM events WHERE camera_id = :name)",
            "0 observ",
        ),
        ("UPDATE events SET person_name = NULL WHERE camera_id = :name", "amended 0"),
        ("UPDATE events SET id = -id WHERE camera_id = :name", "not in the order"),
    ):
        shutil.copy(soak.data_dir / "events.db", broken)
        with contextlib.closing(sqlite3.connect(broken)) as connection:
            check_ledger(connection, name, soak.ledgers[name], removed)
            connection.execute(statement, {"name": name})
            with pytest.raises(Loss, match=said):
                check_ledger(connection, name, soak.ledgers[name], removed)


@pytest.mark.timeout(300)
def test_a_daemon_that_leaks_is_caught(tmp_path, attack):
    attack.without("P7", "a daemon that keeps descriptors and memory of every batch", "leaks")
    soak = Soak(often(5, 30), attack.seed, tmp_path / "soak", [str(LEAKING)])
    try:
        soak.run()
    finally:
        soak.close()
    attack.runs = 2
    grows = {one.bound.what for one in growth(soak.samples, soak.calm_from) if not one.is_flat}
    attack.caught = len(grows & {"the daemon's memory", "the daemon's descriptors"})
    assert grows == {"the daemon's memory", "the daemon's descriptors"}


def test_a_slope_is_found_behind_waves_and_outliers():
    waves = [(float(at), 10 + 0.5 * at + (at % 7) + (1_000 if at % 9 == 0 else 0)) for at in range(200)]
    assert theil_sen(waves) == pytest.approx(0.5, abs=0.02)
    assert theil_sen([(at, 10 + (at % 7)) for at, _ in waves]) == pytest.approx(0, abs=0.01)
