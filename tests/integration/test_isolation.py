"""No read call of one site ever shows another's, however alike their names are and in whatever order rows came."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from sightlog import Detection, Event, Observation, Reader
from sightlog.protocol.encoding import encode_record, format_time
from sightlog.protocol.messages import START, Position
from sightlogd.protocol.decoder import decode_record
from sightlogd.protocol.session import Chunk, Session
from sightlogd.store import Store

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PAIRS = (("a.b", "a_b"), ("a", "A"), ("_", "__"), ("a.b", "a.b.c"), ("x", "observation"))
CAMERAS = ("door", "door_2", "observation")
TEXTS = ("a person at the door", "the door of a b", "observation of a person person")
VECTORS = ((1.0, 0.0), (1.0, 1.0), (-1.0, 0.5))

moments = st.integers(0, 5 * 86_400).map(lambda seconds: BEGIN + timedelta(seconds=seconds))
vectors = st.none() | st.sampled_from(VECTORS)
events = st.builds(
    Event,
    camera_id=st.sampled_from(CAMERAS),
    event_type=st.sampled_from(["motion", "ding"]),
    recorded_at=moments,
    detections=st.lists(st.sampled_from([Detection("person", 0.9), Detection("cat", 0.3)]), max_size=2),
    person_name=st.none() | st.sampled_from(["anna", "ben"]),
    unlock_granted=st.none() | st.booleans(),
    door_action=st.none() | st.sampled_from(["unlocked", "locked", "none"]),
    llm_description=st.none() | st.sampled_from(TEXTS),
    alert_sent=st.booleans(),
    embedding=vectors,
)
observations = st.builds(
    Observation, content=st.sampled_from(TEXTS), source=st.just("vlm"), recorded_at=moments, embedding=vectors
)


def write(data_dir: Path, records: list[Event | Observation]) -> Path:
    """Stores records of any sites, in this order, as the daemon does; returns the database."""
    data_dir.mkdir()
    store = Store(data_dir, "NORMAL", clock=lambda: BEGIN)
    session = Session("p", "camera", b"", 1, START, START)
    for seq, record in enumerate(records, 1):
        packed, _ = encode_record(record)
        written = store.write([Chunk(session, Position(1, seq), [decode_record(packed)], [packed])], {}, [])
        assert written.exceptions == [[]]
    store.close()
    return store.path


def everything_read(path: Path, site: str, records: list[Event | Observation]) -> dict[str, object]:
    """What every read call gives, with the ids of all sites asked for."""
    since, until = BEGIN + timedelta(days=1), BEGIN + timedelta(days=4)
    filters: list[dict[str, object]] = [
        {}, {"newest_first": True}, {"camera_id": "door"}, {"event_type": "ding"}, {"person": "anna"},
        {"stranger": True}, {"label": "person", "min_confidence": 0.5}, {"door_action": "unlocked"},
        {"unlock_granted": True}, {"alert_sent": True}, {"start": since, "end": until},
        {"start": since, "limit": 3, "offset": 1},
        {"after": f"{format_time(since)}/1"}, {"before": f"{format_time(until)}/1", "limit": 2},
    ]  # fmt: skip
    names = [getattr(record, "observation_id", None) or record.event_id for record in records]
    with Reader(path, site) as reader:
        ours = reader.count_events()
        read: dict[str, object] = {
            "events": [reader.get_event(name) for name in names],
            "observations": [reader.get_observation(name) for name in names],
            "recent": reader.get_recent_events(100),
            "time range": reader.get_events_by_timerange(since, until),
            "camera": [reader.get_events_by_camera(camera) for camera in CAMERAS],
            "found": [list(reader.find_events(**one)) for one in filters],
            "observed": [
                list(reader.find_observations(**one))
                for one in (
                    {},
                    {"source": "vlm"},
                    {"start": since, "newest_first": True},
                    *({"event_id": n} for n in names),
                )
            ],
            "search": [
                reader.search(text, **one)
                for text in ("person", "door", '"a b"', "obs*")
                for one in ({}, {"camera_id": "door"}, {"camera_id": "observation"}, {"since": since}, {"until": until})
            ],
            "similar": [reader.similar(vector, k=50) for vector in VECTORS],
            "counts": [reader.counts(by) for by in ("day", "camera", "person", "type", "label")],
            "count": ours,
            "status": {**reader.status(), "dead_letters": None},
            "dead letters": reader.dead_letters(),
            "followed": list(islice(reader.follow(after=0), ours)),
        }
    return read


def without_ids(value):
    """Ids are given over all sites: they differ, and nothing else may."""
    if isinstance(value, (Event, Observation)):
        embedding = None if value.embedding is None else tuple(value.embedding)
        return (type(value).__name__, replace(value, id=None, embedding=None), embedding)
    if isinstance(value, dict):
        return {key: without_ids(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_ids(one) for one in value]
    if hasattr(value, "observation"):
        rest = [getattr(value, name) for name in ("excerpt", "score", "distance") if hasattr(value, name)]
        return (without_ids(value.event), without_ids(value.observation), rest)
    return value


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(PAIRS))
def test_a_site_reads_as_if_it_were_alone(tmp_path_factory, data, pair):
    home = tmp_path_factory.mktemp("sites")
    made = data.draw(st.lists(st.tuples(st.sampled_from(pair), events | observations), max_size=25))
    named = [record.event_id for _, record in made if isinstance(record, Event)]
    records = [
        replace(
            record,
            site=site,
            # About an event of this site, of the other one, or one that never comes.
            **(
                {"event_id": data.draw(st.sampled_from([*named, "none", None]))}
                if isinstance(record, Observation)
                else {}
            ),
        )
        for site, record in made
    ]
    together = write(home / "all", records)
    for site in pair:
        alone = [record for record in records if record.site == site]
        apart = write(home / f"{site}.alone", alone)
        assert without_ids(everything_read(together, site, records)) == without_ids(
            everything_read(apart, site, records)
        )
    shutil.rmtree(home)
