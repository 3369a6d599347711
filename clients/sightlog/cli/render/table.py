"""Tables: columns in line that fit the terminal. They shrink and are cut, and never wrap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Final

from sightlog.records import Event
from sightlog.text import printable

from .terminal import Span, Terminal, cells, cut
from .text import NARROW, door_of, local_time, one_line, seen

GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    width: int
    """What it usually takes: more when the first events need more."""
    floor: int
    """What it may shrink to."""
    style: str = ""


_TIME: Final = _Column("time", 19, 19, "dim")
_SHORT_TIME: Final = _Column("time", 11, 11, "dim")
_ID: Final = _Column("event", 36, 36, "id")
_COLUMNS: Final = (
    _Column("camera", 8, 6, "bold"),
    _Column("type", 6, 6),
    _Column("seen", 14, 6),
    _Column("person", 6, 6, "good"),
    _Column("door", 6, 6),
    _Column("description", 24, 6),
)
_WIDEST: Final = 60
"""No column asks for more: one long description takes no room from the others."""


def table(rows: Sequence[Sequence[str]], terminal: Terminal) -> Iterator[str]:
    """Few rows: the first column is text and the others are flush right. The first row is the heading."""
    escaped = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cells, column)) for column in zip(*escaped, strict=True)]
    for number, row in enumerate(escaped):
        padding = [" " * (width - cells(cell)) for width, cell in zip(widths, row, strict=True)]
        line = GAP.join([row[0] + padding[0], *(pad + cell for pad, cell in zip(padding[1:], row[1:], strict=True))])
        yield terminal.render([(line, "dim" if number == 0 else "")])


def event_table(events: Iterable[Event], terminal: Terminal, ahead: int) -> Iterator[str]:
    """A heading and a line an event, times local. At most `ahead` events are read before the first line: they say how
    wide the columns are. The heading of no events is left out, unless they are still to come."""
    coming = iter(events)
    first = list(islice(coming, ahead))
    if ahead and not first:
        return
    is_narrow = terminal.width is not None and terminal.width < NARROW
    columns = _fitted([_row(event, is_narrow) for event in first], is_narrow, terminal.width)
    yield _line([column.name for column in columns], [replace(column, style="dim") for column in columns], terminal)
    for event in chain(first, coming):
        yield _line(_row(event, is_narrow), columns, terminal)


def _row(event: Event, is_narrow: bool) -> list[str]:
    return [
        local_time(event.recorded_at, is_narrow),
        printable(event.camera_id),
        printable(event.event_type),
        GAP.join(seen(event)),
        printable(event.person_name or ""),
        door_of(event),
        printable(one_line(event.llm_description or "")),
        printable(event.event_id),
    ]


def _fitted(rows: Sequence[Sequence[str]], is_narrow: bool, room: int | None) -> list[_Column]:
    columns = [_SHORT_TIME if is_narrow else _TIME, *_COLUMNS, _ID]
    if room is not None and _taken(columns) > room:
        columns.pop()  # half an id is of no use
    for index, column in enumerate(columns):
        widest = max((cells(row[index]) for row in rows), default=0)
        columns[index] = replace(column, width=max(column.width, min(widest, _WIDEST)))
    if room is None:
        return columns
    while len(columns) > 1 and _taken([replace(column, width=column.floor) for column in columns]) > room:
        columns.pop()
    while _taken(columns) > room:
        wide = [index for index, column in enumerate(columns) if column.width > column.floor]
        if not wide:
            break
        widest = max(wide, key=lambda index: columns[index].width)
        columns[widest] = replace(columns[widest], width=columns[widest].width - 1)
    return columns


def _taken(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)


def _line(row: Sequence[str], columns: Sequence[_Column], terminal: Terminal) -> str:
    spans: list[Span] = []
    for text, column in zip(row, columns, strict=False):
        shown = text if terminal.width is None else cut(text, column.width)
        spans += [(shown, column.style), (" " * (column.width - cells(shown)) + GAP, "")]
    while spans and not spans[-1][0].strip():
        spans.pop()
    return terminal.render(spans)
