"""Every query of a Reader on a million events is answered by the index meant for it: what really runs is asserted."""

from __future__ import annotations

import re
import sqlite3
from datetime import timedelta
from itertools import islice

import generated
import pytest

from sightlog import Reader

# Made once, and not in each worker.
pytestmark = [pytest.mark.xdist_group("million"), pytest.mark.timeout(300)]
SHAPE = generated.Shape()
MIDDLE = generated.moment(SHAPE, SHAPE.events // 2)
HOUR = {"start": MIDDLE, "end": MIDDLE + timedelta(hours=1)}
CURSOR = "2026-06-01T00:00:00.000Z/500000"
VECTOR = [1.0] * generated.NUMBERS
FACES = ["detections.PRIMARY KEY", "face_embeddings.INTEGER PRIMARY KEY"]

FILTERS = {
    "everything": ({}, "by_time"),
    "time range": (HOUR, "by_time"),
    "camera": ({"camera_id": "gate"}, "by_camera"),
    "camera and time": ({"camera_id": "gate", **HOUR}, "by_camera"),
    "person": ({"person": "anna"}, "by_person"),
    "person and camera": ({"person": "anna", "camera_id": "gate"}, "by_person"),
    "person and time": ({"person": "anna", **HOUR}, "by_person"),
    "person and lock": ({"person": "anna", "unlock_granted": True}, "by_person"),
    "stranger": ({"stranger": True}, "by_time"),
    "stranger at camera": ({"stranger": True, "camera_id": "gate"}, "by_camera"),
    "motion": ({"event_type": "motion"}, "by_time"),
    "ding": ({"event_type": "ding"}, "by_type"),
    "ding at camera": ({"event_type": "ding", "camera_id": "gate"}, "by_type"),
    "ding and time": ({"event_type": "ding", **HOUR}, "by_type"),
    "unlocked": ({"door_action": "unlocked"}, "at_lock"),
    "locked": ({"door_action": "locked"}, "at_lock"),
    "lock asked, nothing done": ({"door_action": "none"}, "by_time"),
    "granted": ({"unlock_granted": True}, "at_lock"),
    "refused at camera": ({"unlock_granted": False, "camera_id": "gate"}, "at_lock"),
    "refused and type": ({"unlock_granted": False, "event_type": "ding"}, "at_lock"),
    "label": ({"label": "truck"}, "by_time"),
    "label and confidence at camera": ({"label": "truck", "min_confidence": 0.9, "camera_id": "gate"}, "by_camera"),
    "alert": ({"alert_sent": True}, "by_time"),
}
PLACES = {
    "from the start": {},
    "after": {"after": CURSOR},
    "before": {"before": CURSOR},
    "before, newest first": {"before": CURSOR, "newest_first": True},
    "after, newest first": {"after": CURSOR, "newest_first": True},
    "newest first": {"newest_first": True},
}
OTHERS = {
    "recent": (
        lambda r: r.get_recent_events(100, offset=50),
        ["clock_days.PRIMARY KEY", "events.events_by_time", *FACES],
    ),
    "time range, of old": (
        lambda r: r.get_events_by_timerange(HOUR["start"], HOUR["end"]),
        ["events.events_by_time", *FACES],
    ),
    "camera, of old": (
        lambda r: r.get_events_by_camera("gate", 50),
        ["clock_days.PRIMARY KEY", "events.events_by_camera", *FACES],
    ),
    "one event": (lambda r: r.get_event("e00000001"), ["events.sqlite_autoindex_events_1", *FACES]),
    "count": (lambda r: r.count_events(), ["counted.INTEGER PRIMARY KEY", "events.events_by_time"]),
    "follow": (lambda r: next(r.follow(after=5)), ["events.INTEGER PRIMARY KEY", *FACES]),
    "follow at the end": (
        lambda r: next(r.follow(after=r.last_id() - 50)),
        ["events", "events.INTEGER PRIMARY KEY", *FACES],
    ),
    "last id": (lambda r: r.last_id(), ["events"]),
    "one observation": (
        lambda r: r.get_observation(next(r.find_observations()).observation_id),
        ["observations.observations_by_time", "observations.sqlite_autoindex_observations_1"],
    ),
    "observations": (lambda r: list(r.find_observations(limit=50)), ["observations.observations_by_time"]),
    "observations, newest first": (
        lambda r: list(r.find_observations(newest_first=True, limit=50)),
        ["observations.observations_by_time"],
    ),
    "observations of a time, from a source": (
        lambda r: list(r.find_observations(**HOUR, source="vlm")),
        ["observations.observations_by_time"],
    ),
    "count days": (lambda r: r.counts("day", *HOUR.values()), ["events.events_by_time"]),
    "count cameras": (lambda r: r.counts("camera"), ["events.events_by_camera"]),
    "count persons": (lambda r: r.counts("person"), ["events.events_by_person", "events.events_by_time"]),
    "count types": (lambda r: r.counts("type"), ["events.events_by_time", "events.events_by_type"]),
}
HIT = [
    "events.INTEGER PRIMARY KEY", "events.sqlite_autoindex_events_1", "observations.INTEGER PRIMARY KEY",
    "texts_index.MATCH", *FACES,
]  # fmt: skip
ABOUT = ["about.sqlite_autoindex_events_1"]
TIMES = ["events.events_by_time", "observations.observations_by_time"]
SEARCHES = {
    "common": ({"text": generated.COMMONEST}, HIT),
    "rare": ({"text": generated.word(2900)}, HIT),
    "camera": ({"text": generated.COMMONEST, "camera_id": "gate"}, HIT + ABOUT),
    "an hour": ({"text": generated.COMMONEST, "since": HOUR["start"], "until": HOUR["end"]}, HIT + TIMES),
    "since": ({"text": generated.COMMONEST, "since": MIDDLE}, HIT + TIMES),
    "until": ({"text": generated.COMMONEST, "until": MIDDLE, "camera_id": "gate"}, HIT + TIMES + ABOUT),
}
SIMILAR = [
    "events.INTEGER PRIMARY KEY", "events.sqlite_autoindex_events_1", "face_embeddings.INTEGER PRIMARY KEY",
    "face_embeddings.face_embeddings_by_model", "detections.PRIMARY KEY",
    "observations.INTEGER PRIMARY KEY", "observations.observations_by_model",
]  # fmt: skip

ALLOWED = re.compile(
    r"(CORRELATED )?(SCALAR|LIST) SUBQUERY \d+|SCAN json_each VIRTUAL TABLE INDEX 1:|SCAN CONSTANT ROW"
)
SEARCH = re.compile(r"SEARCH (\w+)(?: USING (?:COVERING )?(?:INDEX )?(INTEGER PRIMARY KEY|PRIMARY KEY|\w+).*)?")
MATCH = re.compile(r"SCAN texts_index VIRTUAL TABLE INDEX \d+:M\d+[<>]*")


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("million") / "events.db"
    generated.write(path, SHAPE)
    yield path
    for file in path.parent.iterdir():
        file.unlink()


@pytest.fixture(scope="module")
def reader(database):
    with Reader(database, "home") as reader:
        yield reader


@pytest.fixture(scope="module")
def plain(database):
    """Without sqlite-vec, without anything."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    connection.create_function("vec_distance_cosine", 2, lambda one, other: 0.0)
    yield connection
    connection.close()


def driven(reader, plain, call, *, allowed=()):
    """What the statements of a call search, as table.index; fails for any other step."""
    statements: list[str] = []
    reader._connection.set_trace_callback(statements.append)
    call(reader)
    reader._connection.set_trace_callback(None)
    # Without FTS5's own on its tables.
    selects = [text for text in statements if text.startswith("SELECT") and "'main'." not in text]
    assert selects
    found = set()
    for statement in selects:
        plan = [row[3] for row in plain.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert plan
        for step in plan:
            if search := SEARCH.fullmatch(step):
                found.add(".".join(filter(None, search.groups())))
            elif MATCH.fullmatch(step):
                found.add("texts_index.MATCH")
            else:
                assert ALLOWED.fullmatch(step) or step in allowed, (step, statement[:2000], plan)
    return sorted(found)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("filters", "index"), FILTERS.values(), ids=FILTERS)
def test_a_filter_drives_from_its_index_and_nothing_is_sorted(reader, plain, filters, index, place):
    found = driven(reader, plain, lambda r: list(islice(r.find_events(**filters, **place, limit=20), 20)))
    assert found == sorted([f"events.events_{index}", *FACES])


@pytest.mark.parametrize(("call", "expected"), OTHERS.values(), ids=OTHERS)
def test_it_is_a_search_in_an_index_and_nothing_is_sorted(reader, plain, call, expected):
    assert driven(reader, plain, call) == sorted(expected)


@pytest.mark.parametrize(("asked", "expected"), SEARCHES.values(), ids=SEARCHES)
def test_a_search_drives_from_the_index_of_texts(reader, plain, asked, expected):
    assert driven(reader, plain, lambda r: r.search(**asked)) == sorted(expected)


@pytest.mark.parametrize("model", [generated.MODEL, generated.FACE_MODEL])
def test_similar_reads_what_is_of_the_model(reader, plain, model):
    found = driven(reader, plain, lambda r: r.similar(VECTOR, model=model), allowed=["USE TEMP B-TREE FOR DISTINCT"])
    assert found == sorted(SIMILAR)


def test_the_few_observations_about_an_event_are_sorted(reader, plain):
    name = next(reader.find_observations()).event_id
    found = driven(
        reader,
        plain,
        lambda r: list(r.find_observations(event_id=name)),
        allowed=["USE TEMP B-TREE FOR ORDER BY"],
    )
    assert found == ["observations.observations_by_event"]


def test_labels_are_grouped(reader, plain):
    found = driven(reader, plain, lambda r: r.counts("label", *HOUR.values()), allowed=["USE TEMP B-TREE FOR GROUP BY"])
    assert found == ["before.PRIMARY KEY", "detections.PRIMARY KEY", "events.events_by_time"]
