from __future__ import annotations

from sightlog import Event


def test_a_published_event_is_there_for_a_reader(daemon):
    with daemon.publisher() as publisher:
        event = Event("front_door")
        assert publisher.insert_event(event) is True
    assert daemon.reader().get_event(event.event_id) == event
