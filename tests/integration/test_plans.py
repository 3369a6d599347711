"""Every query of a Reader is answered by an index, without sorting: asserted on the statements it really runs."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from sightlog import Detection, Event

START = datetime(2025, 11, 8, tzinfo=UTC)
CALLS = {
    "recent": lambda r: r.get_recent_events(100, offset=50),
    "time range": lambda r: r.get_events_by_timerange(START, START + timedelta(seconds=50)),
    "camera": lambda r: r.get_events_by_camera("garage", 100),
    "one": lambda r: r.get_event("x"),
    "count": lambda r: r.count_events(),
    "follow": lambda r: next(r.follow(after=5)),
    "last id": lambda r: r.last_id(),
}


@pytest.fixture
def reader(daemon):
    with daemon.publisher() as publisher:
        events = [
            Event(
                ("front_door", "garage")[n % 2],
                recorded_at=START + timedelta(seconds=n),
                detections=[Detection("a", 1)],
            )
            for n in range(2000)
        ]
        publisher.insert_events(events)
    return daemon.reader()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_it_is_a_search_in_an_index_and_nothing_is_sorted(reader, daemon, call):
    statements: list[str] = []
    reader._connection.set_trace_callback(statements.append)
    call(reader)
    reader._connection.set_trace_callback(None)
    plain = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    selects = [text for text in statements if text.startswith("SELECT")]
    assert selects
    for statement in selects:
        plan = [row[3] for row in plain.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert plan
        for step in plan:
            assert step.startswith("SEARCH"), (statement, plan)
            assert "TEMP B-TREE" not in step, (statement, plan)
    plain.close()
