"""Events and observations with every kind of text, for what reads a store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sightlog import Detection, Event, Observation

BEGIN = datetime(2026, 3, 1, 10, tzinfo=UTC)
HOSTILE = "\x1b]0;owned\x07\x1b[2J \u202egpj.exe 門門 é \r\n\t x"
LONG = "the quick brown fox " * 512


def event(number: int, camera: str = "door", **fields: object) -> Event:
    return Event(camera, event_id=f"e{number}", recorded_at=BEGIN + timedelta(hours=number), **fields)


EVENTS = [
    event(0, "door", event_type="ding", person_name="Anna", embedding=[1, 0, 0], embedding_model="face",
          detections=[Detection("person", 0.9), Detection("dog", 0.4)], llm_description="a man in a blue shirt rings"),
    event(1, "yard", llm_description="a blue bird", detections=[Detection("bird", 0.6)], alert_sent=True),
    event(2, "yard", person_name="Anna", embedding=[0.9, 0.1, 0], embedding_model="face", door_action="unlocked",
          thumbnail_path="events/2026-03-01/e2.jpg"),
    event(3, "door", person_name="Ben", embedding=[0, 1, 0], embedding_model="face", unlock_granted=False),
    event(4, "gate", llm_description=HOSTILE, person_name=HOSTILE, image_path=HOSTILE,
          detections=[Detection(HOSTILE, 1)]),
    event(40, "gate", llm_description=LONG, metadata={"frame": 7, "why": "wind"}),
]  # fmt: skip
OBSERVATIONS = [
    Observation("the man wears a blue shirt", "vlm", "e0", [1, 1, 0], "face", observation_id="o1", recorded_at=BEGIN),
    Observation(HOSTILE, "somebody", observation_id="o2", recorded_at=BEGIN + timedelta(days=2)),
]
