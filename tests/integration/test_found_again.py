"""What was written can be found, and nothing else, whatever happened in between."""

from __future__ import annotations

import daylogs
from conftest import wait_for
from test_storage import config, day, purge

from sightlog import Event, Observation, Reader
from sightlog.records import now_utc


def texts(reader: Reader, words: str) -> list[str]:
    """Of what is found, by the alphabet."""
    found = [hit.observation.content if hit.observation else hit.event.llm_description for hit in reader.search(words)]
    return sorted(found)


def test_texts_are_found_again_after_a_restart_an_amendment_a_purge_and_a_rebuild(idle_daemon, tmp_path):
    daemon = idle_daemon.start(config=config(1.0))
    today = Event("door", llm_description="a man with a brown package")
    old = Event("door", llm_description="a package in the rain", recorded_at=now_utc().replace(year=2025))
    with daemon.publisher() as publisher:
        publisher.insert_events([today, old])
        publisher.publish(Observation("the package is gone", "llm", today.event_id)).wait(10)
        publisher.amend(old.event_id, llm_description="a parcel in the rain").wait(10)
    reader = daemon.reader()
    assert texts(reader, "package") == ["a man with a brown package", "the package is gone"]
    assert texts(reader, "parcels") == ["a parcel in the rain"]
    daemon.kill()
    daemon.start(config=config(1.0))
    assert texts(reader, "package") == ["a man with a brown package", "the package is gone"]
    assert texts(daemon.reader(), "rain") == ["a parcel in the rain"]
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 4, "all is logged")
    assert purge(daemon, "--before", day(0), "--force").returncode == 0
    assert texts(reader, "rain") == texts(reader, "parcel") == []
    assert texts(reader, "package") == ["a man with a brown package", "the package is gone"]
    assert daemon.stop() == 0
    assert daylogs.rebuild(daemon.data_dir, tmp_path / "new.db").returncode == 0
    with Reader(tmp_path / "new.db") as rebuilt:
        assert texts(rebuilt, "package") == ["a man with a brown package", "the package is gone"]
        assert texts(rebuilt, "rain") == []
        about = [hit.event for hit in rebuilt.search("gone")]
        assert about == [today]


def test_faces_and_observations_are_similar_across_a_restart_and_a_rebuild(daemon, tmp_path):
    kind = {"embedding_model": "arcface", "embedding_version": "1"}
    anna, ben = Event("door", person_name="anna", embedding=[1, 0.1, 0], **kind), Event("door", person_name="ben")
    with daemon.publisher() as publisher:
        publisher.insert_events([anna, ben])
        publisher.amend(ben.event_id, embedding=[0, 1, 0.1], **kind).wait(10)
        publisher.publish(Observation("somebody like anna", "faces", embedding=[1, 0, 0], **kind)).wait(10)

    def nearest(reader: Reader) -> list[str]:
        hits = reader.similar([1, 0, 0], k=3, model="arcface")
        assert [hit.metric for hit in hits] == ["cosine"] * 3
        assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
        return [hit.observation.content if hit.observation else hit.event.person_name for hit in hits]

    assert nearest(daemon.reader()) == ["somebody like anna", "anna", "ben"]
    daemon.kill()
    daemon.start()
    assert nearest(daemon.reader()) == ["somebody like anna", "anna", "ben"]
    assert daemon.stop() == 0
    assert daylogs.rebuild(daemon.data_dir, tmp_path / "new.db").returncode == 0
    with Reader(tmp_path / "new.db") as rebuilt:
        assert nearest(rebuilt) == ["somebody like anna", "anna", "ben"]
