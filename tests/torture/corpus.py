"""What a real Publisher says, recorded, and the messages and records of tests/vectors/v1.json."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import pictures
import sample
import zmq

from sightlog import Amendment, Detection, Event, Observation, Person, Publisher
from sightlog.protocol import messages as wire
from sightlog.protocol.messages import Limits, Position

VECTORS = Path(__file__).parents[1] / "vectors" / "v1.json"
ID_BYTES = 36
"""Of an event id as `Event` makes them."""


@dataclass
class Corpus:
    messages: list[list[bytes]] = field(default_factory=list)
    """As they came, by kind mixed."""
    records: list[bytes] = field(default_factory=list)
    """All that were in them, each once."""
    images: list[bytes] = field(default_factory=list)

    @property
    def frames(self) -> list[bytes]:
        """All well-formed msgpack."""
        return [frame for message in self.messages for frame in message[:2]] + self.records


def record(tmp_path: Path) -> Corpus:
    """Connects a Publisher to a socket that welcomes and acks all it gets."""
    corpus = Corpus()
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.RCVTIMEO, 100)
    endpoint = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
    ended = threading.Event()

    def answer() -> None:
        while not ended.is_set():
            try:
                route, *frames = router.recv_multipart()
            except zmq.Again:
                continue
            corpus.messages.append(frames)
            header = msgpack.unpackb(frames[0])
            if header["kind"] == "hello":
                router.send_multipart([route, *wire.welcome(Position(0, 0), [], Limits(500, 1 << 20))])
            elif header["kind"] == "records":
                epoch, seq = header["first"]
                last = Position(epoch, seq + len(msgpack.unpackb(frames[1])) - 1)
                router.send_multipart([route, *wire.ack(last, [])])
            elif header["kind"] == "ping":
                router.send_multipart([route, *wire.pong()])

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with Publisher(endpoint, "recorded", tmp_path / "recorded") as publisher:
            everything = Event(
                "front_door", "ding", detections=[Detection("person", 0.95, (10, 20, 100, 200)), Detection("dog", 0.5)],
                recording_id="clip-7", motion_confidence=0.4, person_name="Zoë", face_confidence=0.9, face_distance=0.3,
                unlock_granted=True, door_action="unlocked", image_path="/media/front/7.jpg", alert_sent=True,
                llm_description="A person with a parcel. " * 5, metadata={"frame": 7, "ms": 31.5,
                "night": False, "m": "x"}, embedding=[0.25] * 128, embedding_model="face", embedding_version="2",
            )  # fmt: skip
            publisher.publish(Event("yard", thumbnail=pictures.jpeg(7)), urgent=True).wait(20)
            publisher.publish_many([everything, *sample.EVENTS[:2], Event("yard", thumbnail=pictures.png())]).wait(20)
            publisher.amend(everything.event_id, person_name="Anna", detections=[Detection("cat", 1)], urgent=True)
            publisher.publish(
                Amendment(everything.event_id, metadata={"late": 1}, embedding=[1, 2], embedding_model="f")
            )
            publisher.publish(Person("anna", "Anna B."))
            publisher.publish_many(sample.OBSERVATIONS).wait(20)
            publisher.publish(Observation("seen", "vlm", everything.event_id, metadata={"k": 1}), urgent=True).wait(20)
            publisher.telemetry(frames_processed=9, motion_detected=2, events_created=1, inference_ms={"yolo": 31.5})
            publisher.flush(20)
    finally:
        ended.set()
        thread.join()
        router.close()
        context.term()
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    corpus.messages += [
        [bytes.fromhex(frame) for frame in message["frames"]]
        for message in vectors["messages"]
        if message["from"] == "producer"
    ]
    known = dict.fromkeys(bytes.fromhex(one["hex"]) for one in vectors["records"])
    for message in corpus.messages:
        if msgpack.unpackb(message[0])["kind"] == "records":
            known |= dict.fromkeys(msgpack.unpackb(message[1]))
            corpus.images += message[2:]
    corpus.records = list(known)
    return corpus
