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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sightlog import Detection
from sightlog.adapters import Face, from_face_recognition

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


class Seen(NamedTuple):
    """A face in a frame, and numbers of one dimension that tell it from others."""

    detection: Detection
    features: Any


class Recogniser(Protocol):
    """`name` is that of its inference times. `identified` has one of each that was seen, in their order; `known` are
    features by name."""

    name: str

    def look(self, frame: MatLike) -> list[Seen]: ...
    def identified(self, seen: Sequence[Seen], known: Mapping[str, Any]) -> list[Face]: ...


class HaarRecogniser:
    """A face is an equalised grey 64x64 picture, as a vector; the cosine distance of two is 1 - their correlation."""

    name = "haar"
    model = "grey-64x64"
    distance_max = 0.25

    def __init__(self) -> None:
        import cv2

        # cv2/data/ is a package that OpenCV's type stubs do not know.
        cascades: str = cv2.data.haarcascades  # type: ignore[attr-defined,unused-ignore]
        self._cascade = cv2.CascadeClassifier(cascades + "haarcascade_frontalface_default.xml")

    def look(self, frame: MatLike) -> list[Seen]:
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
            found.append(Seen(Detection("face", confidence, bounded_box(box, 1.0, frame)), features))
        return found

    def identified(self, seen: Sequence[Seen], known: Mapping[str, Any]) -> list[Face]:
        return [self._identified(one, known) for one in seen]

    def _identified(self, seen: Seen, known: Mapping[str, Any]) -> Face:
        whose = {"bbox": seen.detection.bbox, "embedding": seen.features, "embedding_model": self.model}
        if not known:
            return Face(None, **whose)
        distance, name = min((1 - float(features @ seen.features), name) for name, features in known.items())
        return Face(name if distance <= self.distance_max else None, distance, "cosine", **whose)


def _features(grey: MatLike) -> Any:
    """4096 floats with mean 0 and length 1."""
    import cv2
    import numpy as np

    small = cv2.resize(grey, (FACE_PIXELS, FACE_PIXELS), interpolation=cv2.INTER_AREA)
    values = cv2.equalizeHist(small).astype(np.float32).ravel()
    values -= values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


class DlibRecogniser:
    """The package face_recognition: 128 numbers a face."""

    name = "dlib"

    def __init__(self) -> None:
        import face_recognition  # type: ignore[import-not-found,unused-ignore]

        self._library = face_recognition

    def look(self, frame: MatLike) -> list[Seen]:
        """It gives no confidence of having found a face: 1.0."""
        import cv2

        rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        places = self._library.face_locations(rgb)
        return [
            Seen(Detection("face", 1.0, (float(left), float(top), float(right), float(bottom))), features)
            for (top, right, bottom, left), features in zip(
                places, self._library.face_encodings(rgb, places), strict=True
            )
        ]

    def identified(self, seen: Sequence[Seen], known: Mapping[str, Any]) -> list[Face]:
        boxes = [one.detection.bbox or (0.0, 0.0, 0.0, 0.0) for one in seen]
        encodings = [one.features for one in seen]
        people = list(known.values())
        return from_face_recognition(
            [(top, right, bottom, left) for left, top, right, bottom in boxes],
            [self._library.face_distance(people, encoding) for encoding in encodings],
            list(known),
            encodings=encodings,
        )


def face_of_event(faces: Sequence[Face]) -> Face:
    """Of several the one that the event is about: the nearest known person, or else the nearest stranger."""
    return min(faces, key=lambda face: (face.name is None, math.inf if face.distance is None else face.distance))


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
        faces = recogniser.look(picture)
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
            seen = recogniser.look(frame)
            took = {recogniser.name: (time.perf_counter() - began) * 1000}
            pub.telemetry(frames_processed=1, inference_ms=took)
            if seen:
                face = face_of_event(recogniser.identified(seen, known))
                pub.amend(event_id, detections=[one.detection for one in seen], **face.fields())

        inbox.serve(stop, look)


def main(arguments: Sequence[str] | None = None) -> int:
    return process.run(_parser(), arguments, _recognise)


if __name__ == "__main__":
    sys.exit(main())
