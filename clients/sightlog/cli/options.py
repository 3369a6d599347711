"""The options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightlog.cli.render.terminal import FALLBACK_WIDTH, complain, terminal
from sightlog.errors import UsageError
from sightlog.reader.reader import Reader
from sightlog.records import DEFAULT_SITE
from sightlog.writer import DATABASE

from .times import parse_moment

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_DATA_DIR: Final = "/var/lib/sightlog"
FOUND: Final = 0
NONE: Final = 1
"""The exit code when nothing matched, as grep's."""
ALL: Final = 10**9
"""Of anything: more than a store of some gigabytes holds."""
CODES: Final = """2 wrong usage, 74 the database is damaged, 75 try again, 77 not allowed to read it,
78 it is of another version of sightlog, or not one of sightlog's"""
"""The exit codes of every command that reads, but for 0 and 1."""


def helper(prog: str) -> argparse.HelpFormatter:
    """argparse makes one for each option that it is told of, and would load shutil for the width, with bz2 and lzma."""
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else 0
    return argparse.RawDescriptionHelpFormatter(prog, width=(width or terminal().width or FALLBACK_WIDTH) - 2)


def add_command(
    commands: Commands, name: str, summary: str, text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """`text` follows the options in --help: what the command does, examples, exit codes."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=text,
        formatter_class=helper,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def add_store(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--database", type=Path, metavar="FILE", help=f"default: {DATABASE} in the data directory")
    place.add_argument(
        "--data-dir", type=Path, metavar="DIR", help=f"default: SIGHTLOG_DATA_DIR, or {DEFAULT_DATA_DIR}"
    )
    parser.add_argument("--site", default=DEFAULT_SITE, metavar="SITE", help=f"default: {DEFAULT_SITE}")


def add_times(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-S", "--since", type=parse_moment, metavar="TIME", help="from this time on")
    parser.add_argument("-U", "--until", type=parse_moment, metavar="TIME", help="before this time")


def times_of(options: argparse.Namespace) -> tuple[datetime | None, datetime | None]:
    """--since and --until. Raises UsageError."""
    since, until = options.since, options.until
    if since is not None and until is not None and since >= until:
        raise UsageError(
            f"--since {since:%Y-%m-%d %H:%M:%S} is not before --until {until:%Y-%m-%d %H:%M:%S}. A weekday is the "
            "latest one that is past; the end of today is tomorrow"
        )
    return since, until


def add_lines(parser: argparse.ArgumentParser, text: str, default: int | None) -> None:
    parser.add_argument("-n", "--lines", type=_lines, default=default, metavar="N", help=text)


def _lines(text: str) -> int:
    if text == "all":
        return ALL
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"-n {text}: expected a whole number or 'all'")
    return int(text)


def none_found() -> int:
    """The exit code for that, as grep's; a person is told, a script is not."""
    if sys.stdout.isatty():
        complain("nothing found")
    return NONE


def database_of(options: argparse.Namespace) -> Path:
    if options.database is not None:
        database: Path = options.database
        return database
    data_dir = options.data_dir or Path(os.environ.get("SIGHTLOG_DATA_DIR") or DEFAULT_DATA_DIR)
    return data_dir / DATABASE


def open_reader(options: argparse.Namespace) -> Reader:
    """Raises what Reader does."""
    return Reader(database_of(options), options.site)
