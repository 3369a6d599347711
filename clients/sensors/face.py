"""The face recogniser: finds faces in the frames that the camera hands on, and says who it is.

OpenCV's Haar cascade finds frontal faces; a face is then compared, as a grey 64x64 picture, with one picture of each
known person. That is enough for the demo and for nothing else: it does not tell similar people apart, and a photograph
opens it. When the package `face_recognition` is installed it is used instead; insightface is another good replacement.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sightlog import Detection

from . import process
from .handoff import Inbox
from .picture import bounded_box, decode_image
from .process import SensorError, Stop
from .stats import open_publisher

if TYPE_CHECKING:
    from cv2.typing import MatLike

log = logging.getLogger("sightlog.face")

FACE_PIXELS: Final = 64
FACE_PIXELS_MIN: Final = 48
"""Smaller faces are not looked for: at a door they are across the street, or none."""
FACE_CONFIDENCE_MIN: Final = 0.8
"""Below it the cascade mostly sees faces in clothes and leaves."""
PICTURES: Final = (".jpg", ".jpeg", ".png")


class Face(NamedTuple):
    """A face in a frame. `features` belongs to the recogniser that found it."""

    detection: Detection
    features: Any


class Recogniser(Protocol):
    """`name` is that of its inference times; `distance_max` is the largest distance of two faces of one person."""

    name: str
    distance_max: float

    def faces(self, frame: MatLike) -> list[Face]: ...
    def distance(self, one: Any, other: Any) -> float: ...


class HaarRecogniser:
    """Distance: 1 - the correlation of two equalised grey 64x64 pictures, 0 (the same) to 2."""

    name = "haar"
    distance_max = 0.25

    def __init__(self) -> None:
        import cv2

        # cv2/data/ is a package that OpenCV's type stubs do not know.
        cascades: str = cv2.data.haarcascades  # type: ignore[attr-defined,unused-ignore]
        self._cascade = cv2.CascadeClassifier(cascades + "haarcascade_frontalface_default.xml")

    def faces(self, frame: MatLike) -> list[Face]:
        """Confidence is the cascade's last stage weight, squashed into 0..1: 0 is 0.5, 4 is 0.88. Not a probability."""
        import cv2

        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        boxes, _, weights = self._cascade.detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=6, minSize=(FACE_PIXELS_MIN, FACE_PIXELS_MIN), outputRejectLevels=True
        )
        found = []
        for box, weight in zip(boxes, weights, strict=True):
            x, y, width, height = box
            confidence = 1 / (1 + math.exp(-float(weight) / 2))
            if confidence < FACE_CONFIDENCE_MIN:
                continue
            features = _features(grey[y : y + height, x : x + width])
            found.append(Face(Detection("face", confidence, bounded_box(box, 1.0, frame)), features))
        return found

    def distance(self, one: Any, other: Any) -> float:
        return max(0.0, 1 - float(one @ other))


def _features(grey: MatLike) -> Any:
    """4096 floats with mean 0 and length 1."""
    import cv2
    import numpy as np

    small = cv2.resize(grey, (FACE_PIXELS, FACE_PIXELS), interpolation=cv2.INTER_AREA)
    values = cv2.equalizeHist(small).astype(np.float32).ravel()
    values -= values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


class DlibRecogniser:
    """The package face_recognition. Distance: between its 128 numbers; 0.6 is its own limit."""

    name = "dlib"
    distance_max = 0.6

    def __init__(self) -> None:
        import face_recognition  # type: ignore[import-not-found,unused-ignore]

        self._library = face_recognition

    def faces(self, frame: MatLike) -> list[Face]:
        """It gives no confidence of having found a face: 1.0."""
        import cv2

        rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        places = self._library.face_locations(rgb)
        return [
            Face(Detection("face", 1.0, (float(left), float(top), float(right), float(bottom))), features)
            for (top, right, bottom, left), features in zip(
                places, self._library.face_encodings(rgb, places), strict=True
            )
        ]

    def distance(self, one: Any, other: Any) -> float:
        return float(self._library.face_distance([one], other)[0])


class Match(NamedTuple):
    """Who it is, how far the face is from the known one, and how sure that makes: 1 at distance 0, 0.5 at the limit."""

    name: str
    distance: float
    confidence: float


def best_match(faces: Sequence[Face], known: dict[str, Any], recogniser: Recogniser) -> Match | None:
    """The known person that one of the faces is nearest to, None when all of them are strangers."""
    pairs = [(recogniser.distance(features, face.features), name) for face in faces for name, features in known.items()]
    distance, name = min(pairs, default=(math.inf, ""))
    if distance > recogniser.distance_max:
        return None
    return Match(name, distance, 1 - distance / recogniser.distance_max / 2)


def load_known(directory: Path, recogniser: Recogniser) -> dict[str, Any]:
    """Features by name, from one picture of each person. Raises SensorError."""
    if not directory.is_dir():
        raise SensorError(f"there is no directory {directory} with pictures of known people")
    known: dict[str, Any] = {}
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() not in PICTURES:
            continue
        picture = decode_image(path.read_bytes())
        if picture is None:
            raise SensorError(f"{path} is not a picture that OpenCV can read")
        faces = recogniser.faces(picture)
        if len(faces) != 1:
            raise SensorError(f"{path} shows {len(faces)} faces; give a picture with {path.stem}'s face alone, frontal")
        known[path.stem] = faces[0].features
    return known


def _parser() -> argparse.ArgumentParser:
    parser = process.make_parser("face", "Says whose face is in the frames that the camera hands on.")
    parser.add_argument("--handoff", type=Path, required=True, metavar="DIR", help="the camera's --handoff")
    parser.add_argument("--consumer", default="face", metavar="NAME", help="one of its --consumers (face)")
    parser.add_argument(
        "--known", type=Path, required=True, metavar="DIR", help="one picture a person; its file name is the name"
    )
    return parser


def _recognise(options: argparse.Namespace, stop: Stop) -> None:
    recogniser: Recogniser
    recogniser = DlibRecogniser() if importlib.util.find_spec("face_recognition") else HaarRecogniser()
    known = load_known(options.known, recogniser)
    with open_publisher(options) as pub, Inbox(options.handoff, options.consumer) as inbox:
        for name in known:
            pub.add_person(name)  # rejected when an earlier start did it, which is as good

        def look(event_id: str, image: bytes) -> None:
            frame = decode_image(image)
            if frame is None:
                log.warning("the frame of event %s is not a picture", event_id)
                return
            began = time.perf_counter()
            faces = recogniser.faces(frame)
            took = {recogniser.name: (time.perf_counter() - began) * 1000}
            pub.telemetry(frames_processed=1, inference_ms=took)
            if not faces:
                return
            detections = [face.detection for face in faces]
            match = best_match(faces, known, recogniser)
            if match is None:
                pub.amend(event_id, detections=detections)
                return
            pub.amend(
                event_id,
                detections=detections,
                person_name=match.name,
                face_distance=match.distance,
                face_confidence=match.confidence,
            )

        inbox.serve(stop, look)


def main(arguments: Sequence[str] | None = None) -> int:
    return process.run(_parser(), arguments, _recognise)


if __name__ == "__main__":
    sys.exit(main())
