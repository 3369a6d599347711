"""The output formats of events: what `-o` may be, and the lines of each."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from sightlog.records import Event
from sightlog.text import printable

from .objects import csv_lines, event_object
from .terminal import Terminal, json_line
from .text import event_line, event_says

AHEAD: Final = 500
"""Events that are read before the first is printed, where columns have to be in line: a page of the reader."""

_HELP: Final = {
    "short": "for people, local times",
    "json": "JSON Lines, every field, UTC",
    "table": "columns that fit the terminal, local times",
    "csv": "RFC 4180 with a heading, every field, UTC",
    "cat": "only what was seen, without time",
}


def add_output(parser: argparse.ArgumentParser, *forms: str) -> None:
    """The first of `forms` is the default."""
    said = "; ".join(f"{form}: {_HELP[form]}{' (default)' if form == forms[0] else ''}" for form in forms)
    parser.add_argument("-o", "--output", choices=forms, default=forms[0], metavar="FORMAT", help=said)
    if "csv" in forms:
        parser.add_argument(
            "--raw", action="store_true", help="csv: texts as they are stored, formulas and controls too"
        )


def event_lines(
    events: Iterable[Event], form: str, terminal: Terminal, ahead: int = AHEAD, *, raw: bool = False
) -> Iterator[str]:
    """Lines without their line feed, as they can be printed. For a table at most `ahead` events are read first."""
    match form:
        case "table":
            from .table import event_table

            return event_table(events, terminal, ahead)
        case "cat":
            return map(event_says, events)
        case "short":
            return (event_line(event, terminal) for event in events)
        case _:
            return object_lines(map(event_object, events), form, terminal, raw=raw)


def object_lines(
    objects: Iterable[Mapping[str, Any]], form: str, terminal: Terminal, *, raw: bool = False
) -> Iterator[str]:
    """JSON Lines or CSV. `raw`: cells as they are stored, but not on a terminal, which could obey them."""
    if form == "json":
        return map(json_line, objects)
    lines = csv_lines(objects, raw=raw)
    return lines if terminal.width is None else (printable(line.removesuffix("\r")) for line in lines)
