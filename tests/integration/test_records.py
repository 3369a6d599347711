"""Every field of every record, from publish() in one process to a query in another."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from array import array
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pictures import jpeg

from sightlog import (
    Amendment,
    Detection,
    Event,
    InvalidRecord,
    Observation,
    Person,
    RecordRejected,
    UsageError,
)

START = datetime(2025, 11, 8, 14, 32, 15, 123000, tzinfo=UTC)
JPEG = jpeg()


def random_event(seed: int) -> Event:
    r = random.Random(seed)

    def maybe(value):
        return value if r.random() < 0.6 else None

    return Event(
        camera_id=r.choice(["front_door", "garage", "cam-3"]),
        event_type=r.choice(["motion", "ding", "package"]),
        site=r.choice(["default", "cabin"]),
        recorded_at=START + timedelta(milliseconds=r.randrange(10**9)),
        recording_id=maybe(f"rec-{seed}"),
        motion_confidence=maybe(r.random()),
        person_name=maybe(r.choice(["Anna", "José", "李雷", "O'Brien; DROP TABLE events"])),
        face_confidence=maybe(r.random()),
        face_distance=maybe(r.random() * 40),
        unlock_granted=maybe(r.random() < 0.5),
        door_action=maybe(r.choice(["unlocked", "locked", "none"])),
        image_path=maybe(f"/mnt/pictures/{seed}.jpg"),
        metadata=maybe({"frame": seed, "yolo_ms": 84.25, "night": seed % 2 == 0, "model": "yolo11n"}),
        llm_description=maybe("Person in blue shirt\ncarrying a brown package 📦"),
        alert_sent=r.random() < 0.5,
        **maybe({"embedding": [r.gauss(0, 1) for _ in range(128)], "embedding_model": maybe("dlib")}) or {},
        detections=[
            Detection(
                r.choice(["person", "package", "cell phone"]),
                r.random(),
                maybe(tuple(r.random() * 4000 for _ in "1234")),
            )
            for _ in range(r.randrange(5))
        ],
    )


def random_observation(seed: int, event: Event) -> Observation:
    r = random.Random(seed)
    fields = {"embedding": [r.gauss(0, 1) for _ in range(64)], "embedding_model": "clip", "embedding_version": "1"}
    return Observation(
        r.choice(["The man with the brown package 📦", "Nobody's\nthere", ""]),
        r.choice(["moondream", "Anna"]),
        r.choice([event.event_id, None]),
        **(fields if seed % 2 else {}),
        metadata=r.choice([None, {"ms": 12.5}]),
        site=event.site,
        recorded_at=event.recorded_at + timedelta(seconds=seed),
    )


def test_1000_events_come_back_with_every_field(daemon):
    events = [random_event(seed) for seed in range(1000)]
    with daemon.publisher() as publisher:
        assert publisher.insert_events(events).stored == 1000
    assert daemon.stop() == 0
    daemon.start()
    for event in events:
        found = daemon.reader(event.site).get_event(event.event_id)
        assert found == event
        assert found.detections == event.detections
        assert found.embedding == (event.embedding and array("f", event.embedding))
        assert found.embedding_model == event.embedding_model
        assert found.id > 0
        assert abs(found.created_at - datetime.now(UTC)) < timedelta(minutes=5)


def test_observations_come_back_with_every_field(daemon):
    events = [random_event(seed) for seed in range(100)]
    observations = [random_observation(seed, event) for seed, event in enumerate(events)]
    with daemon.publisher() as publisher:
        # Before their events: nothing waits for anything.
        assert publisher.publish_many(observations).wait(10).stored == 100
        assert publisher.insert_events(events).stored == 100
    for observation in observations:
        reader = daemon.reader(observation.site)
        found = reader.get_observation(observation.observation_id)
        assert found == observation
        assert found.embedding == (observation.embedding and array("f", observation.embedding))
        assert found.created_at is not None
        if observation.event_id is not None:
            assert observation in list(reader.find_observations(event_id=observation.event_id))


def test_the_same_observation_again_is_a_duplicate_and_its_neighbours_are_stored(daemon):
    first = Observation("a man", "llm")
    again = Observation("a woman", "llm", observation_id=first.observation_id)
    with daemon.publisher() as publisher:
        receipt = publisher.publish_many([first, again, Event("door"), Observation("a dog", "llm")])
        result = receipt.wait(10)
    assert (result.stored, result.duplicates, result.rejected) == (3, 1, 0)
    assert daemon.reader().get_observation(first.observation_id) == first
    ids = [observation.id for observation in daemon.reader().find_observations()]
    assert len(set(ids) | {event.id for event in daemon.reader().find_events()}) == 3  # one sequence for both


def test_an_observation_whose_id_is_taken_by_damage_is_rejected_and_kept(daemon):
    with daemon.publisher() as publisher:
        publisher.publish(Observation("a dog", "llm")).wait(10)
        daemon.stop()
        with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
            connection.execute("UPDATE sqlite_sequence SET seq = 0")
        daemon.start()
        receipt = publisher.publish(Observation("a cat", "llm"))
        assert receipt.wait(10) == "rejected"
    (dead_letter,) = daemon.reader().dead_letters()
    assert "constraint" in dead_letter["reason"]


@pytest.mark.parametrize("kind", ["events", "observations"])
def test_ids_of_what_was_removed_are_not_given_again(daemon, kind):
    with daemon.publisher() as publisher:
        publisher.publish_many([Event("door"), Observation("a dog", "llm")]).wait(10)
        daemon.stop()
        with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
            connection.execute(f"DELETE FROM {kind}")
        daemon.start()
        publisher.publish_many([Event("door"), Observation("a dog", "llm")]).wait(10)
    later = [*daemon.reader().find_events(), *daemon.reader().find_observations()]
    assert sorted(record.id for record in later)[-2:] == [3, 4]


def test_records_of_one_site_are_invisible_to_every_call_of_another(daemon):
    events = [random_event(seed) for seed in range(200)]
    with daemon.publisher() as publisher:
        publisher.insert_events(events)
        wrong_site = publisher.amend(events[0].event_id, site="elsewhere", person_name="Mallory")
        assert wrong_site.wait(10) == "stored"
    far = (START - timedelta(days=1), START + timedelta(days=30))
    for site in ("default", "cabin"):
        own = {event.event_id for event in events if event.site == site}
        reader = daemon.reader(site)
        assert reader.count_events() == len(own)
        for found in (
            reader.get_recent_events(1000),
            reader.get_events_by_timerange(*far, limit=1000),
            [e for camera in ("front_door", "garage", "cam-3") for e in reader.get_events_by_camera(camera, 1000)],
        ):
            assert {event.event_id for event in found} == own
        assert all(reader.get_event(event.event_id) is None for event in events if event.site != site)
    assert daemon.reader(events[0].site).get_event(events[0].event_id).person_name == events[0].person_name
    assert daemon.reader("elsewhere").count_events() == 0


def test_what_was_not_stored_is_shown_at_its_own_site(daemon):
    with daemon.publisher() as publisher:
        for site in ("cabin", "default"):
            publisher.add_person("Anna", site=site).wait(10)
            publisher.add_person("Anna", site=site).wait(10)
            publisher.amend("never", site=site, person_name="Anna").wait(10)
        publisher.insert_events([event := Event("door", site="cabin"), event])
    for site, wanted in (("cabin", ["duplicate", "rejected"]), ("default", ["rejected"]), ("elsewhere", [])):
        reader = daemon.reader(site)
        assert [dead_letter["status"] for dead_letter in reader.dead_letters()] == wanted
        assert all(
            site in dead_letter["reason"]
            for dead_letter in reader.dead_letters()
            if dead_letter["status"] == "rejected"
        )
        assert sum(reader.status()["dead_letters"].values()) == len(wanted)
        assert reader.status()["pending_amendments"] == len(wanted[:1])


def test_a_second_record_with_a_known_id_is_a_duplicate_and_the_first_is_kept(daemon):
    with daemon.publisher() as publisher:
        first = Event("front_door", person_name="Anna", detections=[Detection("person", 0.9)])
        assert publisher.insert_event(first) is True
        second = Event("garage", event_id=first.event_id, detections=[Detection("dog", 0.8)])
        assert publisher.insert_event(second) is False
        result = publisher.insert_events([Event("a"), second, Event("b"), first])
        assert (result.stored, result.duplicates, result.rejected) == (2, 2, 0)
        assert sorted(result.reasons) == [1, 3]
    assert daemon.reader().get_event(first.event_id) == first
    warnings = [line for line in daemon.logged() if line["level"] == "warning"]
    assert any(first.event_id in line["event"] for line in warnings)


def test_the_same_new_event_twice_in_one_batch_is_stored_once(daemon):
    with daemon.publisher() as publisher:
        event = Event("front_door", detections=[Detection("person", 0.9)])
        result = publisher.insert_events([event, event])
        assert (result.stored, result.duplicates) == (1, 1)
    assert daemon.reader().get_event(event.event_id).detections == event.detections


def test_amendments_after_their_event_change_what_they_name_and_leave_the_rest(daemon):
    with daemon.publisher() as publisher:
        event = Event(
            "front_door", person_name="Anna", detections=[Detection("person", 0.9, (1, 2, 3, 4))], metadata={"frame": 7}
        )
        publisher.insert_event(event)
        publisher.amend(event.event_id, detections=[Detection("package", 0.7), Detection("dog", 0.6)])
        publisher.amend(event.event_id, unlock_granted=False, door_action="locked")
        publisher.publish(Amendment(event.event_id, face_confidence=0.8, face_distance=0.31, alert_sent=True))
        publisher.amend(event.event_id, metadata={"yolo_ms": 84.0, "model": "yolo11n"})
        publisher.amend(event.event_id, metadata={"yolo_ms": 80.5, "face_ms": 210})
        assert publisher.flush(10)
    found = daemon.reader().get_event(event.event_id)
    assert found.metadata == {"frame": 7, "yolo_ms": 80.5, "model": "yolo11n", "face_ms": 210}
    assert [d.label for d in found.detections] == ["person", "package", "dog"]
    assert (found.person_name, found.unlock_granted, found.door_action) == ("Anna", False, "locked")
    assert (found.face_confidence, found.face_distance, found.alert_sent) == (0.8, 0.31, True)


def test_amendments_that_come_before_their_event_are_applied_with_it_in_order(daemon):
    event = Event("front_door", detections=[Detection("person", 0.9)])
    with daemon.publisher("detector") as detector:
        assert (
            detector.amend(event.event_id, llm_description="first", detections=[Detection("dog", 0.5)]).wait(10)
            == "stored"
        )
        assert (
            detector.amend(event.event_id, llm_description="second", detections=[Detection("cat", 0.5)]).wait(10)
            == "stored"
        )
    assert daemon.reader().get_event(event.event_id) is None
    daemon.kill()
    daemon.start()
    with daemon.publisher("camera") as camera:
        camera.insert_event(event)
    found = daemon.reader().get_event(event.event_id)
    assert found.llm_description == "second"
    assert [d.label for d in found.detections] == ["person", "dog", "cat"]


def test_a_person_is_known_once_a_site_and_the_sender_is_told(daemon):
    with daemon.publisher() as publisher:
        assert publisher.add_person("anna", "Anna B.").wait(10) == "stored"
        again = publisher.add_person("anna")
        assert again.wait(10) == "rejected"
        assert "anna" in again.reason
        assert publisher.publish(Person("anna", site="cabin")).wait(10) == "stored"


def test_strangers_dings_empty_detections_and_separate_face_numbers(daemon):
    with daemon.publisher() as publisher:
        ding = Event("front_door", event_type="ding", face_confidence=0.4, face_distance=0.6)
        publisher.insert_event(ding)
    found = daemon.reader().get_event(ding.event_id)
    assert found.event_type == "ding"
    assert found.person_name is None
    assert found.detections == []
    assert (found.face_confidence, found.face_distance) == (0.4, 0.6)
    assert found.unlock_granted is None


def test_pages_follow_each_other_newest_first_without_overlap(daemon):
    events = [Event("front_door", recorded_at=START + timedelta(seconds=n // 2)) for n in range(50)]
    with daemon.publisher() as publisher:
        publisher.insert_events(events)
    reader = daemon.reader()
    pages = [reader.get_recent_events(limit=20, offset=offset) for offset in (0, 20, 40, 60)]
    assert [len(page) for page in pages] == [20, 20, 10, 0]
    found = [event.event_id for page in pages for event in page]
    assert found == [event.event_id for event in reversed(events)]
    first, last = START + timedelta(seconds=5), START + timedelta(seconds=10)
    between = reader.get_events_by_timerange(first, last, limit=100, offset=0)
    assert [event.event_id for event in between] == [event.event_id for event in reversed(events[10:20])]
    elsewhere = timezone(timedelta(hours=5, minutes=30))
    assert reader.get_events_by_timerange(first.astimezone(elsewhere), last.astimezone(elsewhere)) == between
    with pytest.raises(InvalidRecord, match="time zone"):
        reader.get_events_by_timerange(first.replace(tzinfo=None), last)
    with pytest.raises(UsageError, match="limit"):
        reader.get_recent_events(limit=-1)


def test_a_jpeg_is_kept_in_the_day_folder_and_anything_else_costs_only_the_picture(daemon):
    with daemon.publisher() as publisher:
        good, bad = Event("a", thumbnail=JPEG), Event("a", thumbnail=b"GIF89a not a jpeg")
        publisher.insert_events([good, Event("between"), bad])
    path = daemon.reader().get_event(good.event_id).thumbnail_path
    assert path == f"events/{good.recorded_at.astimezone().date()}/{good.event_id}.jpg"
    assert (daemon.data_dir / path).read_bytes() == JPEG
    assert daemon.reader().get_event(bad.event_id).thumbnail_path is None
    assert any(bad.event_id in line["event"] for line in daemon.logged())


@pytest.mark.parametrize(
    "event",
    [
        Event("../etc"),
        Event(""),
        Event("a\0b"),
        Event("a", recorded_at=datetime(2025, 1, 1)),  # noqa: DTZ001
        Event("a", motion_confidence=float("nan")),
        Event("a", motion_confidence=1.01),
        Event("a", detections=[Detection("person", 0.5, (1, 2, 3))]),
        Event("a", detections=[Detection("", 0.5)]),
        Event("a", person_name="\ud800"),
        Event("a", event_id="a/b"),
        Event("a", thumbnail=b"x" * (4 * 1024 * 1024 + 1)),
    ],
)
def test_what_breaks_a_limit_is_refused_before_it_is_spooled(idle_daemon, event):
    with idle_daemon.publisher() as publisher:
        with pytest.raises(InvalidRecord):
            publisher.publish(event)
        with pytest.raises(InvalidRecord):
            publisher.publish_many([Event("fine"), event])
        assert publisher.spooled == 0


def test_a_record_that_a_constraint_refuses_raises_for_insert_event(daemon, monkeypatch):
    # The client would refuse it first: only a client that checks less can send it.
    from sightlog.protocol import encoding

    monkeypatch.setattr(encoding, "_fraction", lambda _field, value: value)
    with daemon.publisher() as publisher, pytest.raises(RecordRejected, match="motion_confidence"):
        publisher.insert_event(Event("front_door", motion_confidence=7.0))
