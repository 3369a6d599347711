"""`sightlogd restore`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightlogd.backups.restore import Restore
from sightlogd.config import Config
from sightlogd.durable import UMASK
from sightlogd.retention import gigabytes

from .options import add_command
from .progress import Progress

if TYPE_CHECKING:
    from .options import Commands

_TEXT: Final = """
Puts a backup into the data directory, which has to have no store, with sightlogd stopped. Every file is compared with
what was backed up, and the database is put in place last. As root, everything is given to the owner of the data
directory. When it is interrupted, run it again: until then the daemon does not start.

examples:
  sudo sightlogd restore --config /etc/sightlog/config.toml /media/stick/sightlog
  sightlogd restore --data-dir ./elsewhere /media/stick/sightlog

exit codes: 0 restored, 28 no room, 74 I/O error or a damaged backup, 77 permission, 78 there is a store, the daemon
runs, or SRC is not a complete backup
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "restore", "put a backup in place where there is no store", _run, _TEXT)
    parser.add_argument("src", type=Path, metavar="SRC", help="the directory that sightlogd backup was given")


def _run(config: Config, options: argparse.Namespace) -> int:
    os.umask(UMASK)
    progress = Progress()
    try:
        end = Restore(options.src, config.data_dir, progress.show).run()
    finally:
        progress.clear()
    if end is None:
        print(f"{config.data_dir}: finished the restore that was interrupted; {options.src} was not looked at")
    else:
        print(
            f"{config.data_dir}: restored {end.events} events and {end.observations} observations of {end.days} days, "
            f"{gigabytes(end.bytes)}, as of {end.taken_at}"
        )
    print(
        "next: sightlogd verify, then start sightlogd (systemctl start sightlogd). Producers send again what was not "
        "acked; what was acked after the backup is lost, and counted as missing where its producer still runs"
    )
    return 0
