"""Entries of events.log: what people read. No I/O.

    [2025-11-08 14:32:15] EVENT: Person detected at front door (confidence: 92%)
      - Objects: person (92%), package (87%)
      - Description: Person in blue shirt carrying brown package approaching front door
      - Image: events/2025-11-08/<event_id>.jpg

Local time; a blank line ends each entry.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from sightlog.records import DEFAULT_SITE
from sightlog.text import lines_safe

from .lines import AmendmentLine, EventLine, PersonLine, RecordLine

# Descriptions may have line breaks and terminal codes: an entry is made of lines, and is shown by `cat`.
_breaks = re.compile(r"[\s\x00-\x1f\x7f]+").sub

_PERCENT: Final = tuple(f"{number}%" for number in range(101))


def entry(line: RecordLine, time: str, *, debug: bool = False) -> str:
    """`time`: the event's own, or when the rest was learnt: YYYY-MM-DD HH:MM:SS."""
    note = "" if line.stored else " (not in the database yet)"
    if isinstance(line, (EventLine, AmendmentLine)):
        text = _of_event(line, time, note, debug)
        return f"{text if text.isascii() else lines_safe(text)}\n"
    if isinstance(line, PersonLine):
        shown = f" ({line.display_name})" if line.display_name else ""
        text = f"[{time}] PERSON{note}: {line.name}{shown} is known at {line.site}\n"
    else:
        text = f"[{time}] OBSERVATION{note} by {line.source}: {_breaks(' ', line.content).strip()}\n"
        if line.event_id is not None:
            text += f"  - Event: {line.event_id}\n"
    return lines_safe(text) + "\n"


def _of_event(line: EventLine | AmendmentLine, time: str, note: str, debug: bool) -> str:
    objects, best, most = "", "", -1.0
    # One loop for the objects and the surest of them: a full batch has thousands.
    for box in line.detections:
        label, confidence = box.label, box.confidence
        objects += f", {label} ({_PERCENT[int(confidence * 100 + 0.5)]})"
        if confidence > most:
            best, most = label, confidence
    if not isinstance(line, EventLine):
        text = f"[{time}] UPDATE{note}: {_subject(line)}\n"
    elif best and line.event_type == "motion":
        text = f"[{time}] EVENT{note}: {_detected(best, line.camera_id, line.site)} (confidence: {_percent(most)})\n"
    else:
        text = f"[{time}] EVENT{note}: {_headline(line)}\n"
    if objects:
        text += f"  - Objects: {objects[2:]}\n"
    if line.person_name is not None:
        sure = f" (confidence: {_percent(line.face_confidence)})" if line.face_confidence is not None else ""
        text += f"  - Person: {line.person_name}{sure}\n"
    if line.door_action is not None and line.door_action != "none":
        text += f"  - Door: {line.door_action}\n"
    elif line.unlock_granted is False:
        text += "  - Door: unlock refused\n"
    if line.llm_description:
        text += f"  - Description: {_breaks(' ', line.llm_description).strip()}\n"
    if line.thumbnail_path is not None:
        text += f"  - Image: {line.thumbnail_path}\n"
    if line.alert_sent:
        text += "  - Alert: sent\n"
    if debug and line.metadata:
        text += "  - DEBUG: " + ", ".join(f"{_spaced(key)}: {value}" for key, value in line.metadata.items()) + "\n"
    return text


def _headline(event: EventLine) -> str:
    place = _place(event.camera_id, event.site)
    if event.event_type != "motion":
        return f"{_named(event.event_type)} at {place}"
    if event.motion_confidence is not None:
        return f"Motion detected at {place} (confidence: {_percent(event.motion_confidence)})"
    return f"Motion detected at {place}"


def _subject(amendment: AmendmentLine) -> str:
    if amendment.camera_id is None:
        return f"event {amendment.event_id}"
    what = _named(amendment.event_type or "event")
    return f"{what} at {_place(amendment.camera_id, amendment.site)}, {amendment.event_id}"


def _percent(fraction: float) -> str:
    return _PERCENT[int(fraction * 100 + 0.5)]


@lru_cache(maxsize=1024)
def _detected(label: str, camera_id: str, site: str) -> str:
    return f"{_capital(label)} detected at {_place(camera_id, site)}"


@lru_cache(maxsize=1024)
def _place(camera_id: str, site: str) -> str:
    return _spaced(camera_id) + (f" of {site}" if site != DEFAULT_SITE else "")


@lru_cache(maxsize=1024)
def _named(event_type: str) -> str:
    return _capital(_spaced(event_type))


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
