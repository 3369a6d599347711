"""`sightlog export`: everything, oldest first, for other programs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sightlog.cli.filters import add_filters, filters_of
from sightlog.cli.options import (
    CODES,
    FOUND,
    NONE,
    add_command,
    add_store,
    add_times,
    database_of,
    open_reader,
    times_of,
)
from sightlog.cli.render.formats import add_output, object_lines
from sightlog.cli.render.objects import event_object, observation_object
from sightlog.cli.render.terminal import cut, print_lines, terminal
from sightlog.cli.times import FORMS
from sightlog.errors import UsageError
from sightlog.fsutil import sync_directory

if TYPE_CHECKING:
    from sightlog.cli.options import Commands

PROGRESS_SECONDS: Final = 0.2

_TEXT: Final = f"""
Writes all events that pass the filters, oldest first, with every field and times in UTC, as they are read: the whole
history takes little memory. With --observations it is the observations instead, which --since and --until choose.

--to makes the file complete or not at all: it is written under another name beside it, FILE.PID.part, which a kill
leaves behind, and renamed at the end. What is committed meanwhile is in it when its time lies beyond what was read.

csv has detections as JSON in one column, and is safe to open in a spreadsheet: a text that it would take for a formula
(=, +, -, @ first in a cell) has ' before it, controls are escaped. --raw leaves texts as they are stored, as json does.

times: {FORMS}

examples:
  sightlog export --to events.json
  sightlog export -o csv --since 2026-11-01 --until 2026-12-01 --to november.csv
  sightlog export --person Anna | gzip > anna.json.gz
  sightlog export --observations -o csv --to observations.csv --force

exit codes: 0 something was exported, 1 nothing matched and no file was made,
{CODES}
"""


def add_parsers(commands: Commands) -> None:
    parser = add_command(commands, "export", "all events or observations, for other programs", _TEXT, _run)
    add_output(parser, "json", "csv")
    parser.add_argument("--to", type=Path, metavar="FILE", help="into a new file; - is standard output, the default")
    parser.add_argument("--force", action="store_true", help="with --to: replace FILE if it is there")
    parser.add_argument("--observations", action="store_true", help="observations instead of events")
    add_times(parser)
    add_store(parser)
    add_filters(parser)


def _run(options: argparse.Namespace) -> int:
    since, until = times_of(options)
    filters = filters_of(options)
    if options.observations and filters:
        raise UsageError("--observations: they are chosen by --since and --until only. Leave the events' filters out")
    if options.to == Path("-"):
        options.to = None
    if options.to is not None:
        _check(options.to, database_of(options), options.force)
    elif options.force:
        raise UsageError("--force: to replace which file? Give --to FILE too")
    with open_reader(options) as reader:
        is_all = (since, until, filters, options.observations) == (None, None, {}, False)
        total = reader.count_events() if is_all else None
        objects = (
            map(observation_object, reader.find_observations(start=since, end=until))
            if options.observations
            else map(event_object, reader.find_events(start=since, end=until, **filters))
        )
        lines = object_lines(_told(objects, total, options.to), options.output, terminal(), raw=options.raw)
        if options.to is None:
            return FOUND if print_lines(lines) else NONE
        return FOUND if _write(lines, options.to.resolve(), replace=options.force) else NONE


# -- the file --------------------------------------------------------------------------------------------------------


def _check(target: Path, database: Path, force: bool) -> None:
    """Raises UsageError when nothing may be written there."""
    if not target.exists():
        return
    if not target.is_file():
        raise UsageError(f"--to {target}: not a file. Give a file's name, or leave --to out and redirect the output")
    if database.exists() and target.samefile(database):
        raise UsageError(f"--to {target}: that is the database itself. Give another name")
    if not force:
        raise UsageError(f"{target} is there already. Give another name, or --force to replace it")


def _write(lines: Iterable[str], target: Path, *, replace: bool) -> bool:
    """False when there were none; then there is no file. Raises OSError, and UsageError when it cannot be made, or is
    there by now and `replace` is not said."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        file = part.open("w", encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise UsageError(f"cannot make {target}: {error.strerror}. Give another --to") from error
    try:
        with file:
            for line in lines:
                file.write(f"{line}\n")
            is_empty = file.tell() == 0
            file.flush()
            # Else a power cut after the rename could leave the name with nothing behind it.
            os.fsync(file.fileno())
        if is_empty:
            return False
        if replace:
            part.replace(target)
        else:
            _give_name(part, target)
        sync_directory(target.parent)  # a power cut may take the new name back until then
        return True
    except FileExistsError as error:
        raise UsageError(
            f"{target} was made by somebody else meanwhile. Give another name, or --force to replace it"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _give_name(part: Path, target: Path) -> None:
    """The file gets the name `target` if nobody has it, else FileExistsError."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:
        # FAT and some network file systems know no second name of a file. There an empty file takes the name first,
        # which a kill between the two leaves behind.
        target.touch(exist_ok=False)
        part.replace(target)


# -- progress --------------------------------------------------------------------------------------------------------


def _told(objects: Iterable[Mapping[str, Any]], total: int | None, target: Path | None) -> Iterator[Mapping[str, Any]]:
    """The same objects. Where standard error is a terminal that the output does not go to, it counts them."""
    if not sys.stderr.isatty() or (target is None and sys.stdout.isatty()):
        yield from objects
        return
    began = shown = time.monotonic()
    count = 0
    try:
        for one in objects:
            yield one
            count += 1
            now = time.monotonic()
            if now - shown >= PROGRESS_SECONDS:
                _show(count, total, now - began)
                shown = now
    finally:
        _show(count, total, time.monotonic() - began)
        print(file=sys.stderr)


def _show(count: int, total: int | None, seconds: float) -> None:
    share = f" of {total:,} ({min(count / total, 1):.0%})" if total else ""
    rate = f", {count / seconds:,.0f} a second" if seconds else ""
    # Blanks cover what is left of a longer line; the last cell stays free, or the terminal begins a new line.
    room = (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1  # a serial line says 0
    print(f"\r{cut(f'{count:,}{share}{rate}', room).ljust(room)}", end="", file=sys.stderr, flush=True)
