"""`sightlogd verify`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sightlogd.config import Config
from sightlogd.errors import EXIT_IO_ERROR
from sightlogd.store import DATABASE
from sightlogd.store.opening import RESTORE
from sightlogd.store.verify import verify

from .options import add_command, check_there

if TYPE_CHECKING:
    from .options import Commands


def add_parser(commands: Commands) -> None:
    add_command(
        commands, "verify", "look for damage in the database, while the daemon runs or not; nothing is changed", _run
    )


def _run(config: Config, _options: argparse.Namespace) -> int:
    check_there(config.data_dir)
    database = config.data_dir / DATABASE
    found = 0
    for finding in verify(database):
        print(finding, flush=True)
        found += 1
    if not found:
        print(f"{database}: no damage found in its pages, references and the index of texts")
        return 0
    print(f"{database} is damaged. Copy the data directory before anything else; {RESTORE}")
    return EXIT_IO_ERROR
