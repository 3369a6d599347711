"""What waits for the day logs: it comes out in the order it was committed, and its bounds are told."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from sightlog import Event
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.messages import START, Position
from sightlogd.daylogs import backlog
from sightlogd.daylogs.backlog import Backlog
from sightlogd.daylogs.writer import DayLogs
from sightlogd.protocol.decoder import AmendmentRecord, DetectionRecord, EventRecord, decode_record
from sightlogd.protocol.session import Chunk, Session
from sightlogd.retention import purge
from sightlogd.store import Store
from sightlogd.store.written import AmendmentKept, EventAmended, EventsStored, Subject


def record(number: int, detections: int = 0) -> EventRecord:
    seen = [DetectionRecord("cat", 1.0)] * detections
    return EventRecord(f"record {number}", "default", "door", "2026-11-20T10:00:00.000Z", "motion", seen)


def stored(first: int, records: list[EventRecord]) -> EventsStored:
    return EventsStored(range(first, first + len(records)), records, {}, "2026-11-20T10:00:00.000Z")


def batch(first: int, events: int, others: int) -> list:
    found: list = [stored(first, [record(first + n) for n in range(events)])]
    return found[: bool(events)] + [AmendmentKept("p", 1, first + events + n, None, "") for n in range(others)]  # type: ignore[arg-type]


def numbers(changes: list) -> list[int]:
    found = []
    for change in changes:
        if isinstance(change, EventsStored):
            assert [record.event_id for record in change.records] == [f"record {row_id}" for row_id in change.ids]
            found += change.ids
        else:
            found.append(change.seq)
    return found


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3))), st.lists(st.integers(1, 9), min_size=1))
def test_everything_comes_out_once_in_order_in_slices_of_any_size(batches, limits):
    waiting = Backlog()
    count = 0
    for events, others in batches:
        waiting.add(batch(count, events, others), 10)
        count += events + others
    found: list[int] = []
    turn = 0
    while waiting:
        taken = numbers(waiting.take(limits[turn % len(limits)]))
        assert 0 < len(taken) <= limits[turn % len(limits)]
        found += taken
        turn += 1
    assert found == list(range(count))
    assert waiting.take(1) == []


def test_it_tells_when_too_many_records_wait(monkeypatch):
    monkeypatch.setattr(backlog, "RECORDS_MAX", 5)
    waiting = Backlog()
    waiting.add(batch(0, 5, 0), 1)
    assert not waiting.over
    waiting.add(batch(5, 1, 0), 1)
    assert waiting.over
    waiting.take(5)
    assert not waiting.over


def test_it_tells_when_too_many_bytes_wait():
    waiting = Backlog()
    waiting.add(batch(0, 1, 0), backlog.BYTES_MAX)
    assert not waiting.over
    waiting.add(batch(1, 1, 0), 1)
    assert waiting.over
    waiting.take(1)
    assert not waiting.over


def test_detections_of_four_bytes_count_by_what_they_take_in_memory():
    waiting = Backlog()
    count = backlog.BYTES_MAX // backlog.DETECTION_BYTES
    waiting.add([stored(1, [record(1, count)])], 0)
    assert not waiting.over
    amended = AmendmentRecord("e", "default", [DetectionRecord("cat", 1.0)])
    waiting.add([EventAmended(Subject(1, "e", "default", "door", "motion", ""), amended, "")], 20)
    assert waiting.over


def test_a_day_that_goes_takes_along_what_waits_for_its_logs(tmp_path):
    store = Store(tmp_path)
    logs = DayLogs(tmp_path, store, print, lambda *_: None)
    packed = [encode_record(Event("door", recorded_at=datetime(2026, 11, 20, tzinfo=UTC)))[0]]
    chunk = Chunk(Session("p", "p", b"", 1, START, START), Position(1, 1), [decode_record(packed[0])], packed)
    logs.add(store.write([chunk], {}, []).changes, 100)
    leaving = purge.begin(tmp_path, "2026-11-20", store, logs, store.now())
    logs.write_all()
    assert not (tmp_path / "events" / "2026-11-20").exists()
    assert (leaving.folder / "events.json").read_text().count('"kind":"event"') == 1
    logs.close_all()
    store.close()
