"""Face, from_face_recognition and from_insightface, on objects of the shape that those libraries give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sightlog import Amendment, Event, InvalidRecord, UsageError
from sightlog.adapters import Face, from_face_recognition, from_insightface
from sightlog.protocol.encoding import encode_record

# face_locations: (top, right, bottom, left) in pixels, as ints.
LOCATIONS = [(20, 110, 220, 10), (5, 50, 45, 15)]
BOXES = [(10, 20, 110, 220), (15, 5, 50, 45)]
KNOWN = ["anna", "ben", "anna"]
ENCODINGS = list(np.random.default_rng(1).normal(size=(2, 128)))


def assert_stored(face: Face) -> None:
    """The encoder takes it on an event and as an amendment."""
    encode_record(Event("front_door", **face.fields()))
    encode_record(Amendment("some-event", **face.fields()))


def test_face_recognition_names_the_nearest_known_face():
    # A row is face_distance(known_encodings, encoding).
    rows = [np.array([0.5, 0.625, 0.25]), np.array([0.75, 0.5, 0.875])]
    faces = from_face_recognition(LOCATIONS, rows, KNOWN, encodings=ENCODINGS)
    assert [(face.name, face.distance, face.metric) for face in faces] == [
        ("anna", 0.25, "euclidean"),
        ("ben", 0.5, "euclidean"),
    ]
    assert [face.bbox for face in faces] == BOXES
    assert [list(face.embedding) for face in faces] == [list(encoding) for encoding in ENCODINGS]
    assert {face.embedding_model for face in faces} == {"dlib_face_recognition_resnet_model_v1"}
    for face in faces:
        assert_stored(face)


def test_face_recognition_with_one_distance_each_has_one_name_each():
    faces = from_face_recognition(LOCATIONS, np.array([0.25, 0.5]), ["ben", None])
    assert [(face.name, face.distance) for face in faces] == [("ben", 0.25), (None, 0.5)]
    assert [face.embedding_model for face in faces] == [None, None]


@pytest.mark.parametrize(("distance", "name"), [(0.6, "ben"), (0.6000001, None), (0.9, None)])
def test_beyond_the_tolerance_a_face_is_a_stranger_with_its_distance(distance, name):
    for distances, names in (([distance], ["ben"]), ([[distance, 2.0]], ["ben", "anna"])):
        face = from_face_recognition(LOCATIONS[:1], distances, names)[0]
        assert (face.name, face.distance) == (name, distance)
        assert_stored(face)


def test_the_tolerance_can_be_chosen():
    assert from_face_recognition(LOCATIONS[:1], [[0.5]], ["ben"], tolerance=0.4)[0].name is None


def test_where_nobody_is_known_every_face_is_a_stranger():
    faces = from_face_recognition(LOCATIONS, [np.empty(0), np.empty(0)], [])
    assert [(face.name, face.distance) for face in faces] == [(None, None)] * 2
    assert_stored(faces[0])  # an amendment says at least that somebody looked


def test_no_faces_are_none():
    assert from_face_recognition([], [], KNOWN) == []
    assert from_face_recognition([], [], [], encodings=[]) == []
    assert from_insightface([], model="buffalo_l") == []


@pytest.mark.parametrize(
    ("locations", "distances", "names", "said"),
    [
        (LOCATIONS, [[0.1, 0.2, 0.3]], KNOWN, "2 locations, 1 distances"),
        (LOCATIONS[:1], [0.1, 0.2, 0.3], KNOWN, "1 locations, 3 distances"),
        (LOCATIONS[:1], [[0.1, 0.2]], KNOWN, "2 distances, 3 names"),
        (LOCATIONS, [0.1, 0.2], KNOWN, "2 distances, 3 names"),
        (LOCATIONS[:1], 0.5, KNOWN, "got float"),
        ([(1, 2, 3)], [0.1], ["ben"], r"locations: .*\(n, 4\)"),
        (LOCATIONS[:1], [math.nan], ["ben"], "distance=nan"),
        (LOCATIONS[:1], [[0.1, math.nan, 0.2]], KNOWN, "distance=nan"),
        (LOCATIONS[:1], [-0.5], ["ben"], r"distance=-0\.5"),
        (LOCATIONS[:1], [math.inf], ["ben"], "distance=inf"),
        (LOCATIONS[:1], ["near"], ["ben"], "distance='near'"),
    ],
)
def test_what_does_not_belong_together_is_refused(locations, distances, names, said):
    with pytest.raises(UsageError, match=said):
        from_face_recognition(locations, distances, names)


def test_encodings_have_to_be_of_the_locations():
    with pytest.raises(UsageError, match="2 locations, 1 encodings"):
        from_face_recognition(LOCATIONS, [0.1, 0.2], ["ben", "anna"], encodings=ENCODINGS[:1])


class InsightFace(dict):
    """As insightface has it: what the detector did not set is None, whatever it is called."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> None:
        return None

    @property
    def normed_embedding(self) -> Any:
        return None if self.embedding is None else self.embedding / np.linalg.norm(self.embedding)


def insight_face(**more: Any) -> InsightFace:
    return InsightFace(
        bbox=np.array([10, 20, 110, 220], np.float32), kps=np.zeros((5, 2)), det_score=np.float32(0.875), **more
    )


VECTOR = np.random.default_rng(2).normal(size=512).astype(np.float32)


def test_insightface_is_told_who_it_is():
    faces = from_insightface(
        [insight_face(embedding=VECTOR)] * 3, [("anna", 0.25), (None, np.float32(0.75)), None], model="buffalo_l"
    )
    assert [(face.name, face.distance, face.metric) for face in faces] == [
        ("anna", 0.25, "cosine"),
        (None, 0.75, "cosine"),
        (None, None, None),
    ]
    assert {face.bbox for face in faces} == {(10, 20, 110, 220)}
    assert {(face.embedding_model, face.embedding_version) for face in faces} == {("buffalo_l", None)}
    assert list(faces[0].embedding) == list(VECTOR)
    for face in faces:
        assert_stored(face)


def test_the_detectors_score_says_nothing_about_the_name():
    compared, alone = from_insightface([insight_face()] * 2, [("anna", 0.25), None], model="buffalo_l")
    assert compared.fields()["face_confidence"] == 0.75
    assert alone.fields()["face_confidence"] is None


def test_insightface_without_recognition_has_no_embedding():
    face = from_insightface([insight_face()], model="buffalo_l", version="0.7")[0]
    assert (face.embedding, face.embedding_model, face.embedding_version) == (None, None, None)
    assert set(face.fields().values()) == {None}, "there is nothing to amend"
    encode_record(Event("front_door", **face.fields()))


def test_insightface_keeps_the_version():
    face = from_insightface([insight_face(embedding=VECTOR)], model="buffalo_l", version="0.7")[0]
    assert face.fields()["embedding_version"] == "0.7"


def test_the_model_of_embeddings_has_to_be_named():
    with pytest.raises(TypeError, match="model"):
        from_insightface([insight_face()])


@pytest.mark.parametrize(
    ("faces", "matches", "said"),
    [
        ([insight_face()], [], "1 faces, 0 matches"),
        (insight_face(), None, "got str without a bbox"),
        ([InsightFace(det_score=0.5)], None, "without a bbox"),
        ([insight_face()], [("anna", math.nan)], "distance=nan"),
        ([insight_face()], [("anna", -0.5)], r"distance=-0\.5"),
        ([InsightFace(bbox=[1, 2, 3, math.nan])], None, "finite"),
    ],
)
def test_what_insightface_does_not_give_is_refused(faces, matches, said):
    with pytest.raises(UsageError, match=said):
        from_insightface(faces, matches, model="buffalo_l")


def test_a_face_with_itself_has_distance_0_although_rounding_says_less():
    face = Face("anna", -1e-7, "cosine")
    assert face.distance == 0.0
    assert face.fields()["face_confidence"] == 1.0


@pytest.mark.parametrize(
    ("face", "confidence"),
    [
        (Face("anna", 0.25, "euclidean"), 0.75),
        (Face("anna", 1.5, "cosine"), 0.0),
        (Face("anna", 0.25, "euclidean", confidence=0.5), 0.5),
        (Face("anna", confidence=1.0000001), 1.0),
        (Face("anna"), None),
    ],
)
def test_the_confidence_comes_from_the_distance_where_there_is_no_other(face, confidence):
    assert face.fields()["face_confidence"] == confidence
    encode_record(Event("front_door", **face.fields()))


def test_fields_are_those_of_an_event_and_of_an_amendment():
    face = Face("anna", 0.25, "cosine", 0.5, (1, 2, 3, 4), embedding=[1.0], embedding_model="m", embedding_version="2")
    fields = face.fields()
    assert fields == {
        "person_name": "anna",
        "face_confidence": 0.5,
        "face_distance": 0.25,
        "metadata": {"face_metric": "cosine"},
        "embedding": [1.0],
        "embedding_model": "m",
        "embedding_version": "2",
    }
    for record in (Event("front_door", **fields), Amendment("some-event", **fields)):
        assert {name: getattr(record, name) for name in fields} == fields


@pytest.mark.parametrize(
    "values",
    [
        {"distance": 0.5},
        {"distance": math.nan, "metric": "cosine"},
        {"distance": -0.02, "metric": "cosine"},
        {"distance": 1e7, "metric": "cosine"},
        {"distance": True, "metric": "cosine"},
        {"confidence": math.nan},
        {"confidence": 87},
    ],
)
def test_a_face_of_impossible_numbers_is_refused(values):
    with pytest.raises(InvalidRecord, match=r"distance=|confidence="):
        Face("anna", **values)
