"""`sightlog publish`: one event from a shell script."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sightlog.cli.options import add_command
from sightlog.cli.render.terminal import complain
from sightlog.cli.times import FORMS, parse_moment
from sightlog.errors import (
    AccessDenied,
    AckTimeout,
    DatabaseWriteError,
    RecordRejected,
    SpoolInUse,
    UsageError,
)
from sightlog.records import Detection, Event

if TYPE_CHECKING:
    from sightlog import Publisher
    from sightlog.cli.options import Commands

STORED: Final = 0
REJECTED: Final = 1
TRY_AGAIN: Final = 75
NOT_ALLOWED: Final = 77
INTERRUPTED: Final = 130
TIMEOUT: Final = 10.0
SPOOL_RETRY_SECONDS: Final = 0.02

_TEXT: Final = f"""
Publishes one event and waits until the daemon has it for good. Prints its id and what became of it.

The event is kept in the producer's spool on disk first. When no ack comes in time it stays there, and the next publish
with the same --producer sends it: do not publish it again (with the same --event-id that would do no harm).

--json reads an object with the fields of an event, as `sightlog show -o json` prints it; what the daemon sets (id,
thumbnail_path, created_at) and the observations are left out of it. Options given beside it beat its fields.

times: {FORMS}

examples:
  sightlog publish --camera front_door --type ding
  sightlog publish --camera yard --detection person:0.95:10,20,100,200 --detection dog:0.4 --thumbnail yard.jpg
  sightlog publish --camera front_door --event-id "ring-$id" --at 2026-11-20T10:00:00Z
  sightlog show -o json $id | sightlog publish --json - --endpoint ipc:///run/backup/ingest.sock

exit codes: 0 stored (or a duplicate: it was there already), 1 rejected, 2 usage, 74 the spool is damaged or the daemon
speaks another protocol, 75 no ack in time (it is spooled), or the spool is full or in use (it is not), 77 not allowed
to use the spool, or the daemon does not allow the key (it is spooled), 130 Ctrl-C (it is spooled)
"""


def add_parsers(commands: Commands) -> None:
    parser = add_command(commands, "publish", "report one event and wait until it is stored", _TEXT, _run)
    parser.add_argument("--camera", dest="camera_id", metavar="ID", help="which camera; needed unless --json has it")
    parser.add_argument("--type", dest="event_type", metavar="TYPE", help="motion (default), ding, …")
    parser.add_argument("--site", metavar="SITE", help="default: default")
    parser.add_argument("--event-id", metavar="ID", help="default: a new one")
    parser.add_argument("--at", dest="recorded_at", type=parse_moment, metavar="TIME", help="default: now")
    parser.add_argument(
        "--detection",
        dest="detections",
        action="append",
        type=parse_detection,
        metavar="LABEL:CONF[:x1,y1,x2,y2]",
        help="what was seen, how sure from 0 to 1, and where in pixels; may be repeated",
    )
    parser.add_argument("--person", dest="person_name", metavar="NAME", help="who was recognised")
    parser.add_argument("--description", dest="llm_description", metavar="TEXT")
    parser.add_argument("--thumbnail", type=Path, metavar="FILE", help="a JPEG, PNG, WebP or BMP")
    parser.add_argument("--json", metavar="FILE", help="read the event from a file; - is standard input")
    parser.add_argument("--producer", default="cli", metavar="NAME", help="in whose name (default: cli)")
    parser.add_argument("--spool-dir", type=Path, metavar="DIR", help="default: SIGHTLOG_SPOOL_DIR, or below ~/.local")
    parser.add_argument("--endpoint", metavar="URL", help="default: SIGHTLOG_ENDPOINT, or the installed daemon's")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="for tcp://; default: SIGHTLOG_KEY_FILE")
    parser.add_argument(
        "--timeout", type=_seconds, default=TIMEOUT, metavar="S", help=f"seconds to wait (default: {TIMEOUT:g})"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 86_400:
        raise UsageError(f"--timeout {text}: expected seconds from 0 to 86400")
    return seconds


_detection = re.compile(r"(?P<label>.+):(?P<confidence>[^:,]+)(?::(?P<box>[^:]+,[^:]+))?", re.DOTALL).fullmatch


def parse_detection(text: str) -> Detection:
    """`LABEL:CONF[:x1,y1,x2,y2]`; the label may have colons. Raises UsageError."""
    try:
        parts = _detection(text)
        if parts is None:
            raise ValueError
        box = tuple(float(corner) for corner in parts["box"].split(",")) if parts["box"] else None
        if box is None or len(box) == 4:
            return Detection(parts["label"], float(parts["confidence"]), box)
    except ValueError:
        pass
    raise UsageError(f"--detection {text}: expected LABEL:CONF or LABEL:CONF:x1,y1,x2,y2, such as person:0.95")


_LEFT_OUT: Final = ("id", "thumbnail_path", "created_at", "observations")
"""What the daemon sets, and records of their own."""
_FIELDS: Final = frozenset(field.name for field in fields(Event)) - {"_", "thumbnail", *_LEFT_OUT}


def event_from_json(text: str) -> dict[str, Any]:
    """The fields of an Event. Raises UsageError."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--json: not JSON: {error}") from error
    if not isinstance(given, dict):
        raise UsageError("--json: expected one object, as `sightlog show -o json` prints it")
    event = {name: value for name, value in given.items() if name not in _LEFT_OUT and value is not None}
    if unknown := event.keys() - _FIELDS:
        raise UsageError(f"--json: unknown field {min(unknown)!r}; expected some of {', '.join(sorted(_FIELDS))}")
    if "recorded_at" in event:
        if not isinstance(event["recorded_at"], str):
            raise UsageError(f"--json: recorded_at: expected a time in quotes, such as {FORMS}")
        event["recorded_at"] = parse_moment(event["recorded_at"])
    if "detections" in event:
        try:
            event["detections"] = [Detection(**detection) for detection in event["detections"]]
        except TypeError as error:
            raise UsageError('--json: detections: expected [{"label": …, "confidence": …, "bbox": …}, …]') from error
    return event


_PICTURES: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM")
"""How the files begin that the daemon can make a thumbnail of."""


def _event(options: argparse.Namespace) -> Event:
    try:
        values = {}
        if options.json is not None:
            values = event_from_json(sys.stdin.read() if options.json == "-" else Path(options.json).read_text("utf-8"))
        for name in _FIELDS:
            if getattr(options, name, None) is not None:
                values[name] = getattr(options, name)
        if options.thumbnail is not None:
            values["thumbnail"] = options.thumbnail.read_bytes()
            if not values["thumbnail"].startswith(_PICTURES):
                raise UsageError(f"--thumbnail {options.thumbnail}: not a JPEG, PNG, WebP or BMP. Convert it first")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the event: {error}") from error
    if "camera_id" not in values:
        raise UsageError("which camera? Give --camera ID, or camera_id in --json")
    return Event(**values)


def _open(options: argparse.Namespace, deadline: float) -> Publisher:
    """Two hooks of a script may run at once: the second waits for the first to let go of the spool."""
    from sightlog import Publisher

    while True:
        try:
            return Publisher(options.endpoint, options.producer, options.spool_dir, key_file=options.key_file)
        except SpoolInUse:
            if time.monotonic() >= deadline:
                raise
            time.sleep(SPOOL_RETRY_SECONDS)


def _run(options: argparse.Namespace) -> int:
    event = _event(options)
    deadline = time.monotonic() + options.timeout
    try:
        publisher = _open(options, deadline)
    except SpoolInUse as error:
        complain(f"{error}. The event was not published")
        return TRY_AGAIN
    try:
        stored = publisher.insert_event(event, max(deadline - time.monotonic(), 0))
    except RecordRejected as error:
        print(event.event_id, "rejected")
        complain(str(error))
        return REJECTED
    except KeyboardInterrupt:
        print(event.event_id, "spooled")
        complain(f"interrupted. The event is kept in the spool of {options.producer}; do not publish it again")
        return INTERRUPTED
    except AccessDenied as error:
        print(event.event_id, "spooled")
        complain(f"{error}: by the next `sightlog publish --producer {options.producer}`; do not publish it again")
        return NOT_ALLOWED
    except (AckTimeout, DatabaseWriteError) as error:
        print(event.event_id, "spooled")
        why = f"no ack within {options.timeout:g} s from {publisher.endpoint}; {_likely(publisher.endpoint)}"
        if isinstance(error, DatabaseWriteError):
            why = f"the daemon cannot write: {error.reason}."
        complain(
            f"{why} The event is kept in the spool: the next `sightlog publish --producer {options.producer}` "
            "sends it; do not publish it again"
        )
        return TRY_AGAIN
    finally:
        publisher.close(timeout=0)
    print(event.event_id, "stored" if stored else "duplicate")
    if not stored:
        complain(f"event {event.event_id} was there already; nothing was changed")
    return STORED


def _likely(endpoint: str) -> str:
    """Why no daemon answers."""
    transport, _, path = endpoint.partition("://")
    folder = os.path.dirname(path)
    closed = [
        place
        for place, needed in ((folder, os.X_OK), (path, os.W_OK))
        if transport == "ipc" and os.path.exists(place) and not os.access(place, needed)
    ]
    if closed:
        return (
            f"this user may not connect ({closed[0]}). Put it into the group of the producers "
            "(sudo usermod -aG sightlog-producers USER), and log in again."
        )
    return "is sightlogd running there?"
