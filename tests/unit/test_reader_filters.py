"""`find_events` and `find_observations`: filters, places in the order of time."""

from __future__ import annotations

import shutil
from datetime import timedelta
from itertools import pairwise

import apsw
import generated
import made_up
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightlog import DatabaseDamaged, InvalidRecord, Reader, SchemaMismatch, UsageError
from sightlog.protocol.encoding import format_time
from sightlogd.store import Store

SHAPE = generated.Shape(events=3000, days=30, observed=0.3)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("filters") / "events.db"
    generated.write(path, SHAPE)
    return path


@pytest.fixture(scope="module")
def reader(database):
    with Reader(database, "home") as reader:
        yield reader


@pytest.fixture(scope="module")
def everything(reader):
    return list(reader.find_events())


PASSES = {
    "start": lambda e, v: e.recorded_at >= v,
    "end": lambda e, v: e.recorded_at < v,
    "camera_id": lambda e, v: e.camera_id == v,
    "event_type": lambda e, v: e.event_type == v,
    "person": lambda e, v: e.person_name == v,
    "stranger": lambda e, v: e.person_name is None or not v,
    "door_action": lambda e, v: e.door_action == v,
    "unlock_granted": lambda e, v: e.unlock_granted is v,
    "alert_sent": lambda e, v: e.alert_sent is v,
}
moments = st.integers(1, SHAPE.events).map(lambda number: generated.moment(SHAPE, number))
asked = st.fixed_dictionaries(
    {},
    optional={
        "start": moments,
        "end": moments,
        "camera_id": st.sampled_from([*generated.CAMERAS, "nowhere"]),
        "event_type": st.sampled_from(["motion", "ding", "else"]),
        "person": st.sampled_from([*generated.PERSONS, "nobody"]),
        "stranger": st.booleans(),
        "door_action": st.sampled_from(["unlocked", "locked", "none"]),
        "unlock_granted": st.booleans(),
        "alert_sent": st.booleans(),
        "label": st.sampled_from([*generated.LABELS, "ghost"]),
        "min_confidence": st.sampled_from([0, 0.5, 0.98]),
    },
)


def ids(events):
    return [event.event_id for event in events]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(asked, st.booleans(), st.none() | st.integers(0, 700), st.integers(0, 5))
def test_filters_give_what_a_look_at_every_event_gives(reader, everything, filters, newest_first, limit, offset):
    if filters.get("stranger") and "person" in filters:
        del filters["person"]
    if "label" not in filters:
        filters.pop("min_confidence", None)
    given_label, least = filters.get("label"), filters.get("min_confidence", 0)
    wanted = [
        event
        for event in everything
        if all(PASSES[name](event, value) for name, value in filters.items() if name in PASSES)
        and (
            given_label is None
            or any(found.label == given_label and found.confidence >= least for found in event.detections)
        )
    ]
    if newest_first:
        wanted.reverse()
    wanted = wanted[offset:][:limit]
    found = list(reader.find_events(**filters, newest_first=newest_first, limit=limit, offset=offset))
    assert found == wanted


@pytest.mark.parametrize("least", [0, 0.4, 0.9])
def test_label_and_confidence_are_of_one_detection(reader, everything, least):
    wanted = [e for e in everything if any(d.label == "cat" and d.confidence >= least for d in e.detections)]
    mixed = [
        e for e in everything
        if any(d.label == "cat" for d in e.detections) and any(d.confidence >= least for d in e.detections)
    ]  # fmt: skip
    assert list(reader.find_events(label="cat", min_confidence=least)) == wanted
    assert 0 < len(wanted) < len(everything)
    assert least == 0 or len(wanted) < len(mixed)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    st.data(),
    st.booleans(),
    st.none() | st.integers(0, 700),
    st.sampled_from([{}, {"camera_id": "garage"}, {"stranger": True}]),
)
def test_after_and_before_are_what_is_behind_and_in_front(reader, data, newest_first, limit, filters):
    order = list(reader.find_events(**filters, newest_first=newest_first))
    at = data.draw(st.integers(0, len(order) - 1))
    behind = list(reader.find_events(**filters, newest_first=newest_first, limit=limit, after=order[at].cursor))
    assert ids(behind) == ids(order[at + 1 :][:limit])
    before = list(reader.find_events(**filters, newest_first=newest_first, limit=limit, before=order[at].cursor))
    assert ids(before) == ids(order[:at] if limit is None else order[max(0, at - limit) : at])


def test_a_place_between_two_others_and_a_time_range(reader, everything):
    between = reader.find_events(
        after=everything[10].cursor, before=everything[20].cursor, start=everything[12].recorded_at, limit=3
    )
    assert ids(between) == ids(everything[17:20])


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_stay_right_while_events_are_inserted(tmp_path, newest_first):
    path = tmp_path / "events.db"
    shape = generated.Shape(events=400, days=4)
    generated.write(path, shape)
    writer = apsw.Connection(str(path))
    with Reader(path, "home") as reader:
        there = ids(reader.find_events(newest_first=newest_first))
        shown, cursor = [], None
        while True:
            page = list(reader.find_events(newest_first=newest_first, limit=17, after=cursor))
            shown += page
            if len(page) < 17:
                break
            cursor = page[-1].cursor
            # One that happened in the same moment as the last one shown, one as the first of all.
            for moment in (format_time(page[-1].recorded_at), format_time(generated.BEGIN)):
                writer.execute(
                    "INSERT INTO events (event_id, site, camera_id, recorded_at, event_type, created_at) "
                    "SELECT 'n' || count(*), 'home', 'gate', ?, 'motion', ? FROM events",
                    (moment, moment),
                )
        old = [event.event_id for event in shown if event.event_id.startswith("e")]
        assert old == there
        assert len(set(ids(shown))) == len(shown)
        # Nothing is left out: what came later is shown exactly when its place was still ahead.
        now = list(reader.find_events(newest_first=newest_first))
        places = [(event.recorded_at, event.id) for event in shown]
        assert places == sorted(places, reverse=newest_first)
        back = list(reader.find_events(newest_first=newest_first, limit=50, before=now[200].cursor))
        assert ids(back) == ids(now[150:200])
    writer.close()


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"stranger": True, "person": "anna"}, "one or the other"),
        ({"min_confidence": 0.5}, "give its label"),
        ({"label": "car", "min_confidence": 2}, "from 0 to 1"),
        ({"label": "car", "min_confidence": "high"}, "from 0 to 1"),
        ({"door_action": "open"}, "unlocked, locked, none"),
        ({"after": "yesterday"}, "no cursor"),
        ({"before": ""}, "no cursor"),
        ({"before": 7}, "no cursor"),
        ({"after": "2026-11-20T10:00:00.000Z/9999999999999999999"}, "no cursor"),
        ({"after": "2026-11-20T10:00:00.000Z/1; DROP"}, "no cursor"),
        ({"limit": -1}, "whole number"),
        ({"offset": -1}, "whole number"),
        ({"camera_id": "\udcff"}, "not valid Unicode"),
        ({"offset": 2**70, "limit": 1}, "wrong type"),
        ({"person": ["anna"]}, "wrong type"),
    ],
)
def test_mistakes_are_told(reader, filters, says):
    with pytest.raises(UsageError, match=says):
        list(reader.find_events(**filters))


def test_a_mistake_is_told_by_the_call_itself(reader):
    with pytest.raises(InvalidRecord, match="time zone"):
        reader.find_events(start=generated.BEGIN.replace(tzinfo=None))


def test_an_event_comes_with_the_embedding_of_its_face(reader, everything):
    with_face = [event for event in everything if event.embedding is not None]
    assert len(with_face) == sum(event.person_name is not None for event in everything) > 10
    for event in with_face:
        assert event.embedding.typecode == "f"
        assert len(event.embedding) == generated.NUMBERS
        assert (event.embedding_model, event.embedding_version) == (generated.FACE_MODEL, None)
    assert reader.get_event(with_face[0].event_id).embedding == with_face[0].embedding
    assert reader.get_event(everything[0].event_id).embedding is None


def test_observations_by_time_event_and_source(reader):
    all_of_them = list(reader.find_observations())
    assert len(all_of_them) > 500
    for one, next_one in pairwise(all_of_them):
        assert (one.recorded_at, one.id) < (next_one.recorded_at, next_one.id)
    one = all_of_them[200]
    assert reader.get_observation(one.observation_id) == one
    assert one.embedding.typecode == "f"
    assert one.recorded_at.utcoffset() == one.created_at.utcoffset() == timedelta(0)
    assert list(reader.find_observations(event_id=one.event_id)) == [one]
    assert list(reader.find_observations(source="vlm")) == all_of_them
    assert list(reader.find_observations(source="somebody")) == []
    later = list(reader.find_observations(start=one.recorded_at, newest_first=True))
    assert later == all_of_them[:199:-1]
    assert list(reader.find_observations(end=one.recorded_at, limit=5)) == all_of_them[:5]
    assert reader.get_observation("none") is None


def test_an_observation_of_another_site_is_not_there(database, reader):
    with Reader(database, "shed") as shed:
        theirs = next(shed.find_observations())
        assert reader.get_observation(theirs.observation_id) is None
        assert list(reader.find_observations(event_id=theirs.event_id)) == []


def test_metadata_of_an_observation(tmp_path):
    path = tmp_path / "events.db"
    generated.write(path, generated.Shape(events=50, observed=1))
    writer = apsw.Connection(str(path))
    writer.execute("""UPDATE observations SET metadata = '{"frame": 7, "sure": true}', embedding = NULL""")
    writer.close()
    with Reader(path, "home") as reader:
        found = next(reader.find_observations())
    assert found.metadata == {"frame": 7, "sure": True}
    assert found.embedding is None


def test_a_reader_that_was_open_before_a_migration_goes_on_if_it_knows_the_new_schema(database, tmp_path):
    shutil.copy(database, tmp_path / "events.db")
    with (
        Reader(tmp_path / "events.db", "home") as older,
        made_up.later(),
        Reader(tmp_path / "events.db", "home") as newer,
    ):
        before = newer.get_recent_events()
        assert older.get_recent_events() == before
        Store(tmp_path).close()
        assert newer.get_recent_events() == before
        assert newer.status()["schema_version"] == made_up.NEWEST
        with made_up.later(made_up.NEWEST - 1), pytest.raises(SchemaMismatch, match="Upgrade sightlog here"):
            older.get_recent_events()


def test_a_cursor_and_an_offset_are_one_too_many(reader, everything):
    with pytest.raises(UsageError, match="leave offset out"):
        reader.find_events(after=everything[0].cursor, offset=1)


def test_what_the_daemon_never_wrote_is_damage_and_no_traceback(database, tmp_path):
    shutil.copy(database, tmp_path / "events.db")
    with apsw.Connection(str(tmp_path / "events.db")) as connection:
        connection.execute("UPDATE events SET recorded_at = replace(recorded_at, '-', '@')")
    with Reader(tmp_path / "events.db", "home") as reader, pytest.raises(DatabaseDamaged, match="sightlogd verify"):
        list(reader.find_events())
