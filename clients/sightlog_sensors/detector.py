"""The detector: finds people in the frames that the camera hands on, and amends the events with their boxes."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightlog import Detection
from sightlog.adapters import from_ultralytics

from . import process
from .handoff import Inbox
from .picture import bounded_box, decode_image, shrunk
from .process import SensorError, Stop
from .stats import open_publisher

if TYPE_CHECKING:
    from cv2.typing import MatLike

log = logging.getLogger("sightlog.detector")

HOG_PIXELS_MAX: Final = 800
"""Larger frames are scaled down: people of about 100 pixels are enough, and time grows with the area."""

Detect = Callable[["MatLike"], list[Detection]]


def hog_confidence(margin: float) -> float:
    """The SVM margin squashed into 0..1: 0 (on the border) is 0.5, 1 is 0.88, 2 is 0.98. Not a probability."""
    return 1 / (1 + math.exp(-2 * margin))


def hog_detector() -> Detect:
    """OpenCV's HOG people detector: upright whole people only, and it needs no model file."""
    import cv2
    import numpy as np

    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))

    def detect(frame: MatLike) -> list[Detection]:
        small, divisor = shrunk(frame, HOG_PIXELS_MAX)
        if small.shape[0] < 128 or small.shape[1] < 64:  # its window
            return []
        boxes, margins = hog.detectMultiScale(small, winStride=(8, 8), padding=(8, 8), scale=1.05)
        return [
            Detection("person", hog_confidence(float(margin)), bounded_box(box, divisor, frame))
            for box, margin in zip(boxes, margins, strict=True)
        ]

    return detect


def yolo_detector(weights: Path) -> Detect:
    """An Ultralytics model from a local file; labels are the model's own."""
    if not weights.is_file():  # Ultralytics would download a model of that name
        raise SensorError(f"there is no weights file {weights}")
    try:
        from ultralytics import YOLO  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise SensorError("--weights needs Ultralytics: pip install ultralytics") from error
    model = YOLO(str(weights))

    def detect(frame: MatLike) -> list[Detection]:
        return from_ultralytics(model(frame, verbose=False))

    return detect


def _parser() -> argparse.ArgumentParser:
    parser = process.make_parser("detector", "Names what is in the frames that the camera hands on.")
    parser.add_argument("--handoff", type=Path, required=True, metavar="DIR", help="the camera's --handoff")
    parser.add_argument("--consumer", default="detector", metavar="NAME", help="one of its --consumers (detector)")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="a local Ultralytics model instead of OpenCV's HOG"
    )
    parser.add_argument(
        "--confidence", type=float, default=0.6, metavar="0..1", help="report detections from here on (0.6)"
    )
    return parser


def _detect(options: argparse.Namespace, stop: Stop) -> None:
    detect = yolo_detector(options.weights) if options.weights else hog_detector()
    model = "yolo" if options.weights else "hog"
    with open_publisher(options) as pub, Inbox(options.handoff, options.consumer) as inbox:

        def look(event_id: str, image: bytes) -> None:
            frame = decode_image(image)
            if frame is None:
                log.warning("the frame of event %s is not a picture", event_id)
                return
            began = time.perf_counter()
            detections = detect(frame)
            pub.telemetry(frames_processed=1, inference_ms={model: (time.perf_counter() - began) * 1000})
            found = [detection for detection in detections if detection.confidence >= options.confidence]
            if found:
                pub.amend(event_id, detections=found)

        inbox.serve(stop, look)


def main(arguments: Sequence[str] | None = None) -> int:
    return process.run(_parser(), arguments, _detect)


if __name__ == "__main__":
    sys.exit(main())
