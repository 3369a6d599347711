"""The options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightlog.reader import Reader
from sightlog.records import DEFAULT_SITE

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_DATA_DIR: Final = "/var/lib/sightlog"
DATABASE: Final = "events.db"


def add_command(
    commands: Commands, name: str, summary: str, text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """`text` follows the options in --help: what the command does, examples, exit codes."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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


def add_camera(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--camera", metavar="ID", help="only this camera's")


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        choices=("short", "json"),
        default="short",
        help="short: for people, local times (default); json: JSON Lines, every field, times in UTC",
    )


def database_of(options: argparse.Namespace) -> Path:
    if options.database is not None:
        database: Path = options.database
        return database
    data_dir = options.data_dir or Path(os.environ.get("SIGHTLOG_DATA_DIR") or DEFAULT_DATA_DIR)
    return data_dir / DATABASE


def open_reader(options: argparse.Namespace) -> Reader:
    """Raises what Reader does."""
    return Reader(database_of(options), options.site)
