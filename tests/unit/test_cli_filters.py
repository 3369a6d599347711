"""The filters of `tail -f` mean what the reader's mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import stored
from hypothesis import given
from hypothesis import strategies as st

from sightlog import Detection, Event, Reader
from sightlog.reader.filters import matches

CAMERAS, TYPES, PERSONS, LABELS = ("door", "Door", "yard"), ("motion", "ding"), ("Anna", "anna"), ("dog", "person")
SURE = (0.0, 0.1, 0.5, 0.7, 1.0)
BEGIN = datetime(2026, 11, 20, tzinfo=UTC)


def events():
    """Every combination that a filter could take for another."""
    boxes = [(), (("dog", 0.7),), (("dog", 0.1), ("person", 0.7)), (("person", 0.5), ("dog", 0.5)), (("person", 1.0),)]
    number = 0
    for camera in CAMERAS:
        for kind in TYPES:
            for person in (None, *PERSONS):
                for door in (None, "none", "locked", "unlocked"):
                    yield Event(
                        camera, kind, event_id=f"e{number:03}", person_name=person, door_action=door,
                        unlock_granted=(None, False, True)[number % 3], alert_sent=number % 2 == 0,
                        recorded_at=BEGIN + timedelta(seconds=number),
                        detections=[Detection(*box) for box in boxes[number % len(boxes)]],
                    )  # fmt: skip
                    number += 1


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    path = stored.write(tmp_path_factory.mktemp("filters") / "events.db", list(events()))
    with Reader(path) as reader:
        yield reader


@st.composite
def filters(draw):
    who = draw(st.sampled_from([{}, {"stranger": True}, *({"person": person} for person in (*PERSONS, "nobody"))]))
    label = draw(st.sampled_from([None, *LABELS, "cat"]))
    return {
        "camera_id": draw(st.sampled_from([None, *CAMERAS])),
        "event_type": draw(st.sampled_from([None, *TYPES])),
        "label": label,
        "min_confidence": draw(st.sampled_from([None, *SURE])) if label else None,
        "unlock_granted": draw(st.sampled_from([None, False, True])),
        "door_action": draw(st.sampled_from([None, "none", "locked", "unlocked"])),
        "alert_sent": draw(st.sampled_from([None, False, True])),
        **who,
    }


@given(filters=filters())
def test_what_matches_is_what_the_reader_finds(reader, filters):
    found = [event.event_id for event in reader.find_events(**filters)]
    assert found == [event.event_id for event in events() if matches(event, filters)]


def test_the_events_tell_the_filters_apart(reader):
    everything = len(list(events()))
    for filters in (
        {"camera_id": "door"}, {"event_type": "ding"}, {"person": "Anna"}, {"stranger": True}, {"label": "dog"},
        {"door_action": "none"}, {"alert_sent": False}, {"unlock_granted": True}, {"unlock_granted": False},
    ):  # fmt: skip
        assert 0 < sum(matches(event, filters) for event in events()) < everything
    sure = {"label": "dog", "min_confidence": 0.5}
    surely, at_all = ([event for event in events() if matches(event, one)] for one in (sure, {"label": "dog"}))
    assert 0 < len(surely) < len(at_all)
