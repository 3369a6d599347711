"""The camera: watches a video source, publishes an event for every burst of motion, and hands its frame on."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sightlog import Event, SpoolFull
from sightlog.adapters import thumbnail_from_frame

from . import process
from .handoff import Outbox
from .motion import MotionGate, MotionMeter
from .picture import encode_jpeg
from .process import Stop
from .source import open_frames
from .stats import open_publisher

log = logging.getLogger("sightlog.camera")


def _parser() -> argparse.ArgumentParser:
    parser = process.make_parser("camera", "Publishes a motion event, with thumbnail, for every burst of motion.")
    parser.add_argument(
        "--source", required=True, help="a video file, /dev/videoN or N, rtsp://user:password@host/path, or picamera2"
    )
    parser.add_argument("--camera-id", default="front_door", metavar="ID", help="events carry it (front_door)")
    parser.add_argument(
        "--recording-id", metavar="ID", help="events of this run carry it (default: camera id and start time)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.05, metavar="0..1", help="motion confidence that counts (0.05)"
    )
    parser.add_argument(
        "--cooldown", type=float, default=5.0, metavar="SECONDS", help="motion that goes on is a new event after (5)"
    )
    parser.add_argument(
        "--realtime",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="play a file at its own speed, or as fast as possible",
    )
    parser.add_argument("--loop", action="store_true", help="play a file again and again")
    parser.add_argument("--handoff", type=Path, metavar="DIR", help="write each event's full frame to DIR/CONSUMER/")
    parser.add_argument("--consumers", default="detector,face", metavar="NAMES", help="who gets it (detector,face)")
    return parser


def _watch(options: argparse.Namespace, stop: Stop) -> None:
    recording_id = options.recording_id or f"{options.camera_id}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    consumers = [name for name in options.consumers.split(",") if name] if options.handoff else []
    outbox = Outbox(options.handoff or Path(), consumers)
    meter, gate = MotionMeter(), MotionGate(options.threshold, options.cooldown)
    events = 0
    with open_publisher(options) as pub:
        for at, frame in open_frames(options.source, stop, realtime=options.realtime, loop=options.loop):
            confidence = meter.confidence(frame)
            passes = gate.passes(confidence, at)
            pub.telemetry(frames_processed=1, motion_detected=int(gate.moved), events_suppressed=int(gate.suppressed))
            if not passes:
                continue
            event = Event(
                camera_id=options.camera_id,
                event_type="motion",
                recording_id=recording_id,
                motion_confidence=confidence,
                thumbnail=thumbnail_from_frame(frame, color_order="bgr"),
            )
            try:
                pub.publish(event)
            except SpoolFull as error:
                # The next event may find room; a camera that ended here would see nothing at all.
                log.error("event lost: %s", error)
                continue
            events += 1
            pub.telemetry(events_created=1)
            if consumers:
                outbox.put(event.event_id, encode_jpeg(frame))
    log.info("%d events, recording %s", events, recording_id)
    for consumer, skipped in outbox.skipped.items():
        if skipped:
            log.warning("%d frames were not handed to %s", skipped, consumer)


def main(arguments: Sequence[str] | None = None) -> int:
    return process.run(_parser(), arguments, _watch)


if __name__ == "__main__":
    sys.exit(main())
