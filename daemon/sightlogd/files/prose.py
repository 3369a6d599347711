"""Entries of events.log: what people read. No I/O.

    [2025-11-08 14:32:15] EVENT: Person detected at front door (confidence: 92%)
      - Objects: person (92%), package (87%)
      - Description: Person in blue shirt carrying brown package approaching front door
      - Image: events/2025-11-08/<event_id>.jpg

Local time; a blank line ends each entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sightlog.records import DEFAULT_SITE

from .lines import AmendmentLine, EventLine, Line, PersonLine

# Descriptions may have line breaks and terminal codes: an entry is made of lines, and is shown by `cat`.
_breaks = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+").sub


def entry(line: Line, time: str, *, debug: bool = False) -> str:
    """`time`: the event's own, or when the rest was learnt: YYYY-MM-DD HH:MM:SS."""
    note = "" if line.stored else " (not in the database yet)"
    if isinstance(line, PersonLine):
        shown = f" ({line.display_name})" if line.display_name else ""
        return f"[{time}] PERSON{note}: {line.name}{shown} is known at {line.site}\n\n"
    if isinstance(line, EventLine):
        head = f"[{time}] EVENT{note}: {_headline(line)}"
    else:
        head = f"[{time}] UPDATE{note}: {_subject(line)}"
    parts = [head, *_details(line)]
    if debug and line.metadata:
        parts.append("  - DEBUG: " + ", ".join(f"{_spaced(key)}: {value}" for key, value in line.metadata.items()))
    return "\n".join(parts) + "\n\n"


def _headline(event: EventLine) -> str:
    place = _place(event.camera_id, event.site)
    best = max(event.detections, key=lambda box: box.confidence, default=None)
    if event.event_type == "motion" and best is not None:
        return f"{_capital(best.label)} detected at {place} (confidence: {best.confidence:.0%})"
    what = "Motion detected" if event.event_type == "motion" else _capital(_spaced(event.event_type))
    sure = event.motion_confidence if event.event_type == "motion" else None
    return f"{what} at {place}" + (f" (confidence: {sure:.0%})" if sure is not None else "")


def _subject(amendment: AmendmentLine) -> str:
    if amendment.camera_id is None:
        return f"event {amendment.event_id}"
    what = _capital(_spaced(amendment.event_type or "event"))
    return f"{what} at {_place(amendment.camera_id, amendment.site)}, {amendment.event_id}"


def _details(line: EventLine | AmendmentLine) -> Iterator[str]:
    if line.detections:
        yield "  - Objects: " + ", ".join([f"{box.label} ({box.confidence:.0%})" for box in line.detections])
    if line.person_name is not None:
        sure = f" (confidence: {line.face_confidence:.0%})" if line.face_confidence is not None else ""
        yield f"  - Person: {line.person_name}{sure}"
    if line.door_action is not None and line.door_action != "none":
        yield f"  - Door: {line.door_action}"
    if line.unlock_granted is False:
        yield "  - Door: unlock refused"
    if line.llm_description:
        yield f"  - Description: {_breaks(' ', line.llm_description).strip()}"
    if line.thumbnail_path is not None:
        yield f"  - Image: {line.thumbnail_path}"
    if line.alert_sent:
        yield "  - Alert: sent"


def _place(camera_id: str, site: str) -> str:
    return _spaced(camera_id) + (f" of {site}" if site != DEFAULT_SITE else "")


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
