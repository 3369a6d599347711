"""`Reader.counts`: what a look at every event counts, on days of any length."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import apsw
import generated
import pytest

from sightlog import Reader, UsageError
from sightlog.protocol.encoding import format_time
from sightlogd.store.opening import create

SHAPE = generated.Shape(events=4000, days=40)
ZONES = {
    "UTC": "2026-01-01",
    "Europe/Zurich": "2026-03-29",  # 23 hours
    "America/New_York": "2026-11-01",  # 25 hours
    "America/Santiago": "2026-09-06",  # forward at midnight: the day begins at 01:00
    "America/Havana": "2026-11-01",  # back at 01:00: midnight is there twice
    "Asia/Kathmandu": "2026-01-01",
    "Pacific/Apia": "2011-12-29",  # the day after it was left out
}


@pytest.fixture
def zone(monkeypatch):
    def set_to(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_to
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    path = tmp_path_factory.mktemp("counts") / "events.db"
    generated.write(path, SHAPE)
    with Reader(path, "home") as reader:
        yield reader


@pytest.mark.parametrize("begin", [None, generated.BEGIN + timedelta(days=3, hours=5)])
@pytest.mark.parametrize("end", [None, generated.BEGIN + timedelta(days=30)])
def test_counts_are_those_of_all_events(reader, begin, end):
    events = list(reader.find_events(start=begin, end=end))
    counted = {
        "camera": Counter(event.camera_id for event in events),
        "person": Counter(event.person_name for event in events),
        "type": Counter(event.event_type for event in events),
        "label": Counter(label for event in events for label in {found.label for found in event.detections}),
    }
    for by, expected in counted.items():
        found = reader.counts(by, begin, end)
        assert dict(found) == expected, by
        assert [count for _, count in found] == sorted(expected.values(), reverse=True)
    days = Counter(event.recorded_at.astimezone().date().isoformat() for event in events)
    assert reader.counts("day", begin, end) == sorted(days.items())


@pytest.mark.parametrize("name", ZONES)
def test_days_are_local_and_of_any_length(tmp_path, zone, name):
    zone(name)
    create(tmp_path / "events.db", lambda: "2026-01-01T00:00:00.000Z")
    first = datetime.fromisoformat(f"{ZONES[name]}T00:00:00+00:00") - timedelta(days=2)
    moments = [first + timedelta(minutes=20 * n) for n in range(3 * 24 * 6)] + [first + timedelta(days=400)]
    with apsw.Connection(str(tmp_path / "events.db")) as connection:
        connection.executemany(
            "INSERT INTO events (event_id, site, camera_id, recorded_at, event_type, created_at) "
            "VALUES (?, 'default', 'door', ?, 'motion', '')",
            [(f"e{n}", format_time(moment)) for n, moment in enumerate(moments)],
        )
    connection.close()
    expected = Counter(moment.astimezone().date().isoformat() for moment in moments)
    with Reader(tmp_path / "events.db") as reader:
        assert reader.counts("day") == sorted(expected.items())
        half = reader.counts("day", moments[10], moments[100])
    assert half == sorted(Counter(moment.astimezone().date().isoformat() for moment in moments[10:100]).items())


def test_the_ends_of_the_calendar(tmp_path, zone):
    zone("Europe/Zurich")
    create(tmp_path / "events.db", lambda: "2026-01-01T00:00:00.000Z")
    moments = [datetime(1, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC)]
    with apsw.Connection(str(tmp_path / "events.db")) as connection:
        connection.executemany(
            "INSERT INTO events (event_id, site, camera_id, recorded_at, event_type, created_at) "
            "VALUES (?, 'default', 'door', ?, 'motion', '')",
            [(f"e{n}", format_time(moment)) for n, moment in enumerate(moments)],
        )
    connection.close()
    with Reader(tmp_path / "events.db") as reader:
        assert sum(count for _, count in reader.counts("day")) == 3


def test_one_view(reader):
    """All statements are between one BEGIN and its COMMIT."""
    for by in ("day", "camera", "person", "type", "label"):
        statements: list[str] = []
        reader._connection.set_trace_callback(statements.append)
        reader.counts(by)
        reader._connection.set_trace_callback(None)
        assert [statement for statement in statements if not statement.startswith(("SELECT", "PRAGMA"))] == [
            "BEGIN", "COMMIT",
        ]  # fmt: skip


def test_nothing_to_count(reader):
    end = generated.BEGIN - timedelta(days=1)
    for by in ("day", "camera", "person", "type", "label"):
        assert reader.counts(by, end=end) == []


def test_what_cannot_be_counted_by_is_told(reader):
    with pytest.raises(UsageError, match="expected one of day, label, camera, person, type"):
        reader.counts("hour")
