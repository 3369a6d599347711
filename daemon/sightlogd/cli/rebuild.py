"""`sightlogd rebuild`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sightlogd.config import Config
from sightlogd.daylogs.days import EVENTS, folders
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, Stop
from sightlogd.recovery.rebuild import Rebuilt, rebuild_from_logs
from sightlogd.service import datadir
from sightlogd.store import DATABASE
from sightlogd.store.lock import Lock

from .options import add_command, as_owner, check_user

if TYPE_CHECKING:
    from .options import Commands


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "rebuild", "make a new database from the day folders; the old one is not touched", _run
    )
    parser.add_argument("--from-logs", action="store_true", required=True, help="from events/*/events.json")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: events.db when there is none, else events.rebuilt.db"
    )


def _run(config: Config, options: argparse.Namespace) -> int:
    database = config.data_dir / DATABASE
    target: Path = options.output or (database if not database.exists() else database.with_suffix(".rebuilt.db"))
    is_in_place = target.resolve().parent == config.data_dir.resolve()
    if is_in_place:
        check_user(config.data_dir)
        datadir.check_writable(config.data_dir, may_be_damaged=True)
        if target == database:
            datadir.check_no_wal(config.data_dir)
    datadir.check_output(target)
    if os.path.lexists(target):
        raise Stop(
            EXIT_CONFIG, f"{target} is there already. Nothing was changed; give another --output, or move it away"
        )
    if not folders(config.data_dir):
        raise Stop(EXIT_CONFIG, f"there are no day folders in {config.data_dir / EVENTS}. Is --data-dir right?")
    if not datadir.has_own_lines(config.data_dir):
        raise Stop(
            EXIT_CONFIG,
            f"the day folders in {config.data_dir / EVENTS} have no line of sightlog's. Nothing was changed. Is "
            "--data-dir right?",
        )
    terminal = sys.stderr.isatty()

    def progress(day: str, found: Rebuilt) -> None:
        if terminal:
            print(f"\r{day}: {found.days} days", end="", file=sys.stderr, flush=True)

    with contextlib.ExitStack() as held:
        if is_in_place:
            held.enter_context(as_owner(config.data_dir))
            # A daemon that starts meanwhile would make a database of its own.
            held.enter_context(contextlib.closing(Lock(config.data_dir, "rebuild")))
        try:
            found = rebuild_from_logs(config.data_dir, target, progress, config.zone())
        except OSError as error:
            raise Stop(
                EXIT_IO_ERROR, f"cannot make {target} from the day folders: {error}. Nothing was changed"
            ) from error
        finally:
            if terminal:
                print(file=sys.stderr)
    print(
        f"{target}: {found.events} events, {found.observations} observations, {found.persons} persons, "
        f"{found.waiting} amendments that wait, from {found.days} days"
    )
    if found.unstored:
        print(f"{found.unstored} of the events came while the database could not be written")
    if found.strays:
        print(f"{found.strays} amendments are of events that are gone, with days that were removed as they came")
    if found.unreadable:
        more = ", …" if found.unreadable > len(found.examples) else ""
        print(f"{found.unreadable} lines could not be read and were left out: {', '.join(found.examples)}{more}")
    if target != database:
        old = " ".join(f"{database}{ending}" for ending in ("", "-wal", "-shm"))
        print(f"to use it, with sightlogd stopped, as its user:\n  mv {old} /somewhere/safe/\n  mv {target} {database}")
    print("counters of producers begin anew: sightlog status shows as off what they had published before")
    return EXIT_IO_ERROR if found.unreadable else 0
