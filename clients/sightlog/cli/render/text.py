"""Events, observations and hits as people read them: a line each, or every field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from sightlog.protocol.fields import EXPORTED_OF_EVENT, EXPORTED_OF_OBSERVATION
from sightlog.records import Event, Observation
from sightlog.text import printable

from .terminal import Span, Terminal, age, cells, local, wrap

NARROW: Final = 60
"""Columns of a terminal; in fewer, times are without year and seconds."""


def local_time(moment: datetime, is_narrow: bool) -> str:
    # Not strftime, which leaves out the zeros of the year 1.
    text = local(moment).isoformat(" ", "seconds")[:19]
    return text[5:16] if is_narrow else text


def one_line(text: str) -> str:
    return " ".join(text.split())


def seen(event: Event) -> Iterator[str]:
    """Labels with how many and how sure, the surest first: `2 × person 95%`."""
    by_label: dict[str, list[float]] = {}
    for detection in event.detections:
        by_label.setdefault(detection.label, []).append(detection.confidence)
    for label, confidences in sorted(by_label.items(), key=lambda item: -max(item[1])):
        count = f"{len(confidences)} × " if len(confidences) > 1 else ""
        yield f"{count}{printable(label)} {max(confidences):.0%}"


def door_of(event: Event) -> str:
    """What became of the door; nothing when it was left alone."""
    if event.unlock_granted is False:
        return "refused"
    return event.door_action if event.door_action in ("unlocked", "locked") else ""


def event_line(event: Event, terminal: Terminal) -> str:
    """One line, local time. The id ends it where the line has room for all of it: half an id is of no use."""
    spans = [*event_head(event, terminal), *_summary(event)]
    if event.llm_description:
        spans.append((f"  “{printable(one_line(event.llm_description))}”", "dim"))
    event_id = f"  {printable(event.event_id)}"
    if terminal.width is None or _taken(spans) + cells(event_id) <= terminal.width:
        spans.append((event_id, "id"))
    return terminal.render(spans)


def event_head(event: Event, terminal: Terminal) -> list[Span]:
    """When, where and what."""
    return [
        (local_time(event.recorded_at, _is_narrow(terminal)), "dim"),
        (f" {printable(event.camera_id):<12}", "bold"),
        (f" {printable(event.event_type):<7}", "warn" if event.event_type == "ding" else ""),
    ]


def observation_head(observation: Observation, event: Event | None, terminal: Terminal) -> list[Span]:
    """When, at which camera if it is about an `event`, and who says so."""
    return [
        (local_time(observation.recorded_at, _is_narrow(terminal)), "dim"),
        (f" {printable(event.camera_id if event else '-'):<12}", "bold"),
        (f" observation of {printable(observation.source)}", ""),
    ]


def with_id(spans: Sequence[Span], record_id: str, terminal: Terminal) -> Iterator[str]:
    """A line that ends in the id; where there is no room for it, the id has the next line."""
    text = f"  {printable(record_id)}"
    if terminal.width is None or _taken(spans) + cells(text) <= terminal.width:
        yield terminal.render([*spans, (text, "id")])
    else:
        yield terminal.render(spans)
        yield terminal.render([(text, "id")])


def _is_narrow(terminal: Terminal) -> bool:
    return terminal.width is not None and terminal.width < NARROW


def _taken(spans: Sequence[Span]) -> int:
    return sum(cells(text) for text, _ in spans)


def _summary(event: Event) -> Iterator[Span]:
    for label in seen(event):
        yield f"  {label}", ""
    yield from who_and_door(event)
    if event.alert_sent:
        yield "  alert sent", "warn"


def who_and_door(event: Event) -> Iterator[Span]:
    """Who it was, and what the lock did."""
    if event.person_name is not None:
        sure = f" {event.face_confidence:.0%}" if event.face_confidence is not None else ""
        yield f"  {printable(event.person_name)}{sure}", "good"
    if event.unlock_granted is False:
        yield "  unlock refused", "bad"
    if event.door_action in ("unlocked", "locked"):
        yield f"  {event.door_action}", "good"


def event_says(event: Event) -> str:
    """What a person would say: the description, or else the headline. One line, without a time."""
    if event.llm_description and not event.llm_description.isspace():
        return printable(one_line(event.llm_description))
    what = ", ".join(text.strip() for text, _ in _summary(event))
    return f"{printable(event.camera_id)} {printable(event.event_type)}{': ' if what else ''}{what}"


# -- every field -----------------------------------------------------------------------------------------------------

_LABEL_WIDTH: Final = max(map(len, (*EXPORTED_OF_EVENT, *EXPORTED_OF_OBSERVATION, "observations"))) + 2


def event_details(
    event: Event, observations: Sequence[Observation], data_dir: Path, terminal: Terminal, now: datetime
) -> Iterator[str]:
    """Every field, one a line or more, then a line a detection, then the observations about it."""
    for name in EXPORTED_OF_EVENT:
        value = getattr(event, name)
        where = data_dir / value if name == "thumbnail_path" and value is not None else value
        yield from _detail(name, where, terminal, now)
    yield terminal.render([(f"{'detections':<{_LABEL_WIDTH}}", "dim"), (str(len(event.detections)), "")])
    for detection in event.detections:
        box = f"  {', '.join(f'{corner:g}' for corner in detection.bbox)}" if detection.bbox else ""
        line = f"  {printable(detection.label):<20}  {detection.confidence:.2f}{box}"
        yield terminal.render([(line, "")])
    yield terminal.render([(f"{'observations':<{_LABEL_WIDTH}}", "dim"), (str(len(observations)), "")])
    for observation in observations:
        at = local_time(observation.recorded_at, _is_narrow(terminal))
        yield from with_id([(f"  {at}", "dim"), (f"  {printable(observation.source)}", "")],
                           observation.observation_id, terminal)  # fmt: skip
        room = None if terminal.width is None else max(terminal.width - 4, 2)
        for line in wrap(observation.content, room):
            yield terminal.render([(f"    {line}", "")])


def observation_details(observation: Observation, terminal: Terminal, now: datetime) -> Iterator[str]:
    """Every field, one a line or more."""
    for name in EXPORTED_OF_OBSERVATION:
        yield from _detail(name, getattr(observation, name), terminal, now)


def _detail(name: str, value: object, terminal: Terminal, now: datetime) -> Iterator[str]:
    room = None if terminal.width is None else max(terminal.width - _LABEL_WIDTH, 10)
    for number, line in enumerate(wrap(_shown(name, value, now), room)):
        label = f"{name:<{_LABEL_WIDTH}}" if number == 0 else " " * _LABEL_WIDTH
        yield terminal.render([(label, "dim"), (line, "" if value is not None else "dim")])


def _shown(name: str, value: object, now: datetime) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{local(value).isoformat(sep=' ', timespec='milliseconds')} ({age(value, now)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if name == "embedding":
        return f"{len(value)} numbers (-o json prints them)" if isinstance(value, Sequence) else "?"
    return str(value)
