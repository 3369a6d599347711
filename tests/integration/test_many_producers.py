"""A store that knows as many producers as it may: the others go on, a new one is told why, and what to do about it."""

from __future__ import annotations

import apsw
import pytest
from commands import run
from conftest import wait_for

from sightlog import DatabaseWriteError, Event
from sightlog.protocol.messages import PRODUCERS_MAX

FULL = "takes no new one"


def test_a_new_identity_beyond_the_limit_is_told_at_both_ends(idle_daemon):
    daemon = idle_daemon.start()
    with daemon.publisher("old") as old:
        assert old.insert_event(Event("door"))
        assert daemon.stop() == 0
        connection = apsw.Connection(str(daemon.database))
        connection.execute(
            "INSERT INTO producers SELECT printf('p%d', value), 'gone', 1, 1, 1, 0, 0, 0, :then, :then "
            f"FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT {PRODUCERS_MAX - 1}) "
            "SELECT value FROM n)",
            {"then": "2020-01-01T00:00:00.000Z"},
        )
        connection.close()
        daemon.start(config="[metrics]\nmetrics_interval = 1\n")
        with daemon.publisher("new") as new:
            with pytest.raises(DatabaseWriteError, match=f"{FULL}, such as 'new'"):
                new.insert_event(Event("door"), 20)
            assert new.spooled == 1
            assert old.insert_event(Event("door"), 20)  # known ones go on
            assert any(FULL in line["event"] for line in daemon.logged() if line["level"] == "warning")
            assert "no new one is taken" in run(daemon, "status").stdout
            metrics = daemon.data_dir / "metrics/sightlog.prom"
            wait_for(lambda: f"sightlog_producers_known {PRODUCERS_MAX}" in metrics.read_text(), "the metrics say so")
            new.close(timeout=0)
        # What the guide says.
        assert daemon.stop() == 0
        connection = apsw.Connection(str(daemon.database))
        connection.execute("DELETE FROM producers WHERE last_seen_at < '2021-01-01'")
        connection.close()
        daemon.start()
        with daemon.publisher("new") as new:
            wait_for(lambda: new.spooled == 0, "what was spooled is stored")
        assert old.insert_event(Event("door"), 20)
    assert daemon.reader().count_events() == 4
