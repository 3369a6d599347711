"""tests/vectors/v1.json is what clients in other languages are checked with: the code here has to agree with it.

The vectors are data and stay as they are: if one of these tests fails, the protocol was changed, and needs a version.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import msgpack
import pytest

from sightlog import Amendment, Detection, Event, Observation, Person
from sightlog.protocol import encoding, messages
from sightlog.protocol.embedding import unpack
from sightlog.protocol.limits import COUNTERS
from sightlog.protocol.messages import Limits, Position, SpoolReport
from sightlogd.protocol.decoder import Refusal, decode_body, decode_header, decode_record

VECTORS = Path(__file__).parent.parent / "vectors" / "v1.json"
CLASSES = {"event": Event, "amendment": Amendment, "person": Person, "observation": Observation}


def load(part: str) -> list:
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))[part]
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def named_records() -> dict[str, bytes]:
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))["records"]
    return {vector["name"]: bytes.fromhex(vector["hex"]) for vector in vectors}


def record_of(value: dict, image: bytes | None):
    """The record that a program would publish to send `value`."""
    fields = {field: content for field, content in value.items() if field != "kind"}
    if "detections" in fields:
        fields["detections"] = [
            Detection(**{**d, "bbox": d["bbox"] and tuple(d["bbox"])}) for d in fields["detections"]
        ]
    if "recorded_at" in fields:
        fields["recorded_at"] = datetime.fromisoformat(fields["recorded_at"])
    if image is not None:
        fields["thumbnail"] = image
    return CLASSES[value["kind"]](**fields)


def frames_of(kind: str, value: dict, packed: dict[str, bytes]) -> list[bytes]:
    """The message that means `value`, by sightlog.protocol.messages."""
    if kind == "hello":
        return messages.hello(value["producer_id"], value["name"], value["epoch"], Position(*value["first"]))
    if kind == "records":
        records = [packed[name] for name in value["records"]]
        images = [bytes.fromhex(value["images"].get(str(index), "")) for index in range(len(records))]
        return messages.records(Position(*value["first"]), records, images, flush=value["flush"])
    if kind == "ping":
        return messages.ping(value["spooled_records"], value["spooled_bytes"], flush=value["flush"])
    if kind == "telemetry":
        told = SpoolReport(**{name: value[name] for name in SpoolReport._fields})
        return messages.telemetry(told, {name: value[name] for name in COUNTERS}, value["inference_ms"])
    arguments = {field: content for field, content in value.items() if field != "protocol"}
    if kind == "busy":
        arguments = {"reason": value["reason"], "retry_after": value["retry_after_ms"] / 1000}
    if arguments.get("last") is not None:
        arguments["last"] = Position(*arguments["last"])
    if "limits" in arguments:
        arguments["limits"] = Limits(**arguments["limits"])
    return getattr(messages, kind)(**arguments)


def test_every_kind_of_message_and_record_has_a_vector():
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    assert vectors["protocol"] == messages.PROTOCOL
    assert {message["kind"] for message in vectors["messages"]} == {
        "hello", "records", "ping", "telemetry", "welcome", "ack", "busy", "resync", "refused", "pong",
    }  # fmt: skip
    assert {record["value"]["kind"] for record in vectors["records"]} == set(CLASSES)
    assert len(vectors["refused"]) > 40


@pytest.mark.parametrize("vector", load("records"))
def test_a_record_is_encoded_to_these_bytes_and_decoded_to_this_value(vector):
    packed, image = bytes.fromhex(vector["hex"]), bytes.fromhex(vector["image"] or "")
    assert encoding.encode_record(record_of(vector["value"], image or None)) == (packed, image)
    decoded = decode_record(packed)
    assert not isinstance(decoded, Refusal)
    value = vector["value"] if vector["value"]["kind"] == "observation" else {"detections": [], **vector["value"]}
    assert decoded.__struct_config__.tag == value["kind"]
    for field in decoded.__struct_fields__:
        found = getattr(decoded, field)
        if field == "detections":
            found = [{"label": d.label, "confidence": d.confidence, "bbox": d.bbox and list(d.bbox)} for d in found]
        if field == "embedding" and found is not None:
            found = list(unpack(found))
        assert found == value.get(field), field


@pytest.mark.parametrize("vector", load("messages"))
def test_a_message_is_encoded_to_these_frames(vector):
    frames = [bytes.fromhex(frame) for frame in vector["frames"]]
    assert frames_of(vector["kind"], vector["value"], named_records()) == frames


@pytest.mark.parametrize("vector", [v for v in load("messages") if v.values[0]["from"] == "producer"])
def test_a_message_of_a_producer_is_read_by_the_daemon(vector):
    frames, value = [bytes.fromhex(frame) for frame in vector["frames"]], vector["value"]
    header = decode_header(frames[0])
    assert header.__struct_config__.tag == vector["kind"]
    for field in set(header.__struct_fields__) - {"images"}:
        found = getattr(header, field)
        assert (list(found) if isinstance(found, tuple) else found) == value[field], field
    if vector["kind"] == "records":
        assert decode_body(frames[1]) == [named_records()[name] for name in value["records"]]
        images = dict(zip(map(str, header.images), (frame.hex() for frame in frames[2:]), strict=True))
        assert images == value["images"]


@pytest.mark.parametrize("vector", [v for v in load("messages") if v.values[0]["from"] == "daemon"])
def test_a_message_of_the_daemon_is_read_by_a_client(vector):
    reply = messages.decode_reply([bytes.fromhex(frame) for frame in vector["frames"]])
    assert type(reply).__name__.lower() == vector["kind"]
    for field, meant in vector["value"].items():
        if field == "protocol":
            continue
        found = reply.retry_after * 1000 if field == "retry_after_ms" else getattr(reply, field)
        if field == "last" and found is not None:
            found = list(found)
        elif field == "exceptions":
            found = [list(exception) for exception in found]
        elif field == "limits":
            found = found._asdict()
        assert found == meant, field


@pytest.mark.parametrize("vector", load("refused"))
def test_a_bad_record_is_refused_with_a_word_of_the_reason(vector):
    packed = bytes.fromhex(vector["hex"]) if "hex" in vector else msgpack.packb(vector["value"])
    decoded = decode_record(packed)
    assert isinstance(decoded, Refusal)
    assert vector["reason"] in decoded.reason
