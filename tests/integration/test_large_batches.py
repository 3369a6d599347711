"""The largest batch that the configuration allows, with an amendment waiting for one of its events."""

from __future__ import annotations

from sightlog import Event
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.messages import START, Position
from sightlog.records import Amendment
from sightlogd.protocol.decoder import decode_record
from sightlogd.protocol.session import Chunk, Session
from sightlogd.store import Store


def chunk(session: Session, first: int, records: list[Event | Amendment]) -> Chunk:
    packed = [encode_record(record)[0] for record in records]
    return Chunk(session, Position(1, first), [decode_record(record) for record in packed], packed)


def test_a_batch_of_more_events_than_sqlite_takes_variables_finds_its_amendment(tmp_path):
    store = Store(tmp_path)
    session = Session("p", "camera", b"", 1, START, START)
    events = [Event("front_door") for _ in range(40_000)]
    store.write([chunk(session, 1, [Amendment(events[-1].event_id, person_name="Anna")])], {}, [])
    written = store.write([chunk(session, 2, events)], {}, [])
    assert written.exceptions == [[]]
    found = store._connection.execute("SELECT event_id, person_name FROM events WHERE person_name IS NOT NULL").get
    assert found == (events[-1].event_id, "Anna")
    assert store._connection.execute("SELECT count(*) FROM pending_amendments").get == 0
    store.close()
