"""Records as programs read them: JSON objects and CSV rows with every field, times in UTC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sightlog.protocol.fields import EXPORTED_OF_EVENT, EXPORTED_OF_OBSERVATION
from sightlog.records import Detection, Event, Observation, utc_text
from sightlog.text import cell_safe

from .terminal import json_line


def event_object(event: Event) -> dict[str, Any]:
    """Every column under its name, and the detections."""
    values = {name: _plain(name, getattr(event, name)) for name in EXPORTED_OF_EVENT}
    return {**values, "detections": [_detection_object(detection) for detection in event.detections]}


def observation_object(observation: Observation) -> dict[str, Any]:
    """Every column under its name."""
    return {name: _plain(name, getattr(observation, name)) for name in EXPORTED_OF_OBSERVATION}


def _detection_object(detection: Detection) -> dict[str, Any]:
    return {"label": detection.label, "confidence": detection.confidence, "bbox": detection.bbox}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return utc_text(value)
    return list(value) if name == "embedding" and value is not None else value


class _Line:
    """A file that csv writes to: `write` hands the line back, and `writerow` does so too."""

    def write(self, line: str) -> str:
        return line


def csv_lines(objects: Iterable[Mapping[str, Any]], *, raw: bool = False) -> Iterator[str]:
    """RFC 4180, but for the line feed that ends each: a heading with the first object's names, then a row an object;
    a list or an object in a cell is JSON. Nothing when there are no objects. `raw`: texts as they are stored; else as
    `text.cell_safe` makes them."""
    import csv

    # Lines end in CR LF: whoever prints adds the second half.
    writer = csv.writer(_Line(), lineterminator="\r")
    is_first = True
    for one in objects:
        if is_first:
            yield writer.writerow(one)
            is_first = False
        yield writer.writerow(_cell(value, raw) for value in one.values())


def _cell(value: Any, raw: bool) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        value = json_line(value)
    return cell_safe(value) if isinstance(value, str) and not raw else value
