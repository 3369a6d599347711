"""What the commands print on: lines that fit a terminal and cannot harm it, and JSON Lines for programs."""

from __future__ import annotations

import json
import os
import select
import stat
import sys
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sightlog.text import printable

NOBODY_READS: Final = 141
"""As a shell reports a program that SIGPIPE ended."""

FALLBACK_WIDTH: Final = 80
"""Of a terminal that does not say how wide it is."""

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
    return Terminal(width or FALLBACK_WIDTH, colour)


def print_lines(lines: Iterable[str], *, flush: bool = False) -> bool:
    """False when there were none. `flush`: each is wanted at once."""
    found = False
    for line in lines:
        found = True
        print(line, flush=flush)
    return found


def end_when_nobody_reads() -> None:
    """At once, as `tail` does, and not with the next line: that may be hours away. For pipes; a file has no reader."""
    try:
        fd = sys.stdout.fileno()
    except OSError:  # within another program
        return
    poller = select.poll()
    poller.register(fd, 0)  # POLLERR comes unasked

    def watch() -> None:
        poller.poll()
        os._exit(NOBODY_READS)

    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        threading.Thread(target=watch, daemon=True).start()


def complain(text: str) -> None:
    """To standard error, named as everything that this command says there."""
    print(f"sightlog: {printable(text)}", file=sys.stderr)


# -- text ------------------------------------------------------------------------------------------------------------


def cells(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(char) for char in text)


def _cells_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):  # it marks or joins the one before
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


def json_line(value: Any) -> str:
    """One line of ASCII without control characters."""
    return json.dumps(value)


def local(moment: datetime) -> datetime:
    """In local time; in UTC, as it is stored, where the calendar ends before local time does."""
    try:
        return moment.astimezone()
    except (OverflowError, ValueError):
        return moment.astimezone(UTC)
