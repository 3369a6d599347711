"""What the commands print: lines for people that fit their terminal, and JSON Lines for programs."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sightlog.encoder import format_time
from sightlog.reader import COLUMNS
from sightlog.records import Detection, Event

Span = tuple[str, str]
"""A text without control characters, and the name of its style."""

_STYLES: Final = {"": "", "dim": "2", "bold": "1", "good": "32", "warn": "33", "bad": "31", "id": "36"}


@dataclass(frozen=True, slots=True)
class Terminal:
    """`width` in cells; None: not a terminal, nothing is cut."""

    width: int | None = None
    colour: bool = False

    def render(self, spans: Iterable[Span]) -> str:
        """One line, cut to the width."""
        left = self.width
        pieces = []
        for text, style in spans:
            if left is not None:
                text = cut(text, left)
                left -= cells(text)
            pieces.append(f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour and style and text else text)
        return "".join(pieces)


def terminal() -> Terminal:
    """What standard output is."""
    if not sys.stdout.isatty():
        return Terminal()
    try:
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        width = 0
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Terminal(width or 80, colour)


def complain(text: str) -> None:
    """To standard error, named as everything that this command says there."""
    print(f"sightlog: {printable(text)}", file=sys.stderr)


# -- text ------------------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    r"""`text` with everything that a terminal might obey escaped: controls, direction marks, line ends (`\x1b`)."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def cells(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(char) for char in text)


def _cells_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _fitting(text: str, width: int) -> str:
    """As much of the beginning of `text` as `width` cells hold."""
    taken = 0
    for index, char in enumerate(text):
        taken += _cells_of(char)
        if taken > width:
            return text[:index]
    return text


def cut(text: str, width: int) -> str:
    """At most `width` cells of `text`, ending in `…` when something is left out."""
    if cells(text) <= width:
        return text
    return f"{_fitting(text, width - 1)}…" if width > 0 else ""


def wrap(text: str, width: int | None) -> Iterator[str]:
    """Lines of `text`, its own line ends kept, none of them wider than `width` cells (2 at least); escaped."""
    for line in text.splitlines() or [""]:
        rest = printable(line.expandtabs())
        while width is not None and (len(rest) > width or cells(rest) > width):
            head = _fitting(rest[:width], width)
            if not rest[len(head) :].startswith(" ") and " " in head.strip():
                head = head[: head.rindex(" ")]
            yield head
            rest = rest[len(head) :].removeprefix(" ")
        yield rest


def table(rows: Sequence[Sequence[str]], terminal: Terminal) -> Iterator[str]:
    """Columns in line; the first is text and the others are flush right. The first row is the heading."""
    escaped = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cells, column)) for column in zip(*escaped, strict=True)]
    for number, row in enumerate(escaped):
        padding = [" " * (width - cells(cell)) for width, cell in zip(widths, row, strict=True)]
        line = "  ".join([row[0] + padding[0], *(pad + cell for pad, cell in zip(padding[1:], row[1:], strict=True))])
        yield terminal.render([(line, "dim" if number == 0 else "")])


def age(moment: datetime, now: datetime) -> str:
    """How long ago, in the one unit that says it: `5 min ago`."""
    seconds = (now - moment).total_seconds()
    if seconds < -1:
        return f"{duration(-seconds)} in the future"
    return f"{duration(max(seconds, 0))} ago"


def duration(seconds: float) -> str:
    """In the one unit that says it."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length * 2 or (unit == "min" and seconds >= length):
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(count: int) -> str:
    """Bytes in decimal units, as a disk's are."""
    for unit, length in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def field(name: str, text: str, terminal: Terminal, style: str = "") -> str:
    """A line of a list: its name, and what there is to say."""
    return terminal.render([(f"  {name:<14}", "dim"), (printable(text), style)])


# -- events ----------------------------------------------------------------------------------------------------------


def event_line(event: Event, terminal: Terminal) -> str:
    """One line, local time. The id ends it where the line has room for all of it: half an id is of no use."""
    spans: list[Span] = [
        (f"{event.recorded_at.astimezone():%Y-%m-%d %H:%M:%S}", "dim"),
        (f" {printable(event.camera_id):<12}", "bold"),
        (f" {printable(event.event_type):<7}", "warn" if event.event_type == "ding" else ""),
        *_summary(event),
    ]
    event_id = f"  {printable(event.event_id)}"
    if terminal.width is None or sum(cells(text) for text, _ in spans) + cells(event_id) <= terminal.width:
        spans.append((event_id, "id"))
    return terminal.render(spans)


def _summary(event: Event) -> Iterator[Span]:
    by_label: dict[str, list[float]] = {}
    for detection in event.detections:
        by_label.setdefault(detection.label, []).append(detection.confidence)
    for label, confidences in sorted(by_label.items(), key=lambda item: -max(item[1])):
        count = f"{len(confidences)} × " if len(confidences) > 1 else ""
        yield f"  {count}{printable(label)} {max(confidences):.0%}", ""
    if event.person_name is not None:
        sure = f" {event.face_confidence:.0%}" if event.face_confidence is not None else ""
        yield f"  {printable(event.person_name)}{sure}", "good"
    if event.unlock_granted is False:
        yield "  unlock refused", "bad"
    if event.door_action in ("unlocked", "locked"):
        yield f"  {event.door_action}", "good"
    if event.alert_sent:
        yield "  alert sent", "warn"
    if event.llm_description:
        yield f"  “{printable(' '.join(event.llm_description.split()))}”", "dim"


def event_details(event: Event, data_dir: Path, terminal: Terminal, now: datetime) -> Iterator[str]:
    """Every field, one a line or more, then a line a detection."""
    label_width = max(map(len, COLUMNS)) + 2
    room = None if terminal.width is None else max(terminal.width - label_width, 10)
    for name in COLUMNS:
        value = getattr(event, name)
        for number, line in enumerate(wrap(_shown(name, value, data_dir, now), room)):
            label = f"{name:<{label_width}}" if number == 0 else " " * label_width
            yield terminal.render([(label, "dim"), (line, "" if value is not None else "dim")])
    yield terminal.render([(f"{'detections':<{label_width}}", "dim"), (str(len(event.detections)), "")])
    for detection in event.detections:
        box = f"  {', '.join(f'{corner:g}' for corner in detection.bbox)}" if detection.bbox else ""
        line = f"  {printable(detection.label):<20}  {detection.confidence:.2f}{box}"
        yield terminal.render([(line, "")])


def _shown(name: str, value: object, data_dir: Path, now: datetime) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value.astimezone().isoformat(sep=' ', timespec='milliseconds')} ({age(value, now)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return str(data_dir / str(value)) if name == "thumbnail_path" else str(value)


def event_object(event: Event) -> dict[str, Any]:
    """Every column under its name, times in UTC as they are stored, and the detections."""
    values = {name: getattr(event, name) for name in COLUMNS}
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = format_time(value)
    return {**values, "detections": [_detection_object(detection) for detection in event.detections]}


def _detection_object(detection: Detection) -> dict[str, Any]:
    return {"label": detection.label, "confidence": detection.confidence, "bbox": detection.bbox}


def json_line(value: Mapping[str, Any]) -> str:
    """One line of ASCII without control characters."""
    return json.dumps(value)
