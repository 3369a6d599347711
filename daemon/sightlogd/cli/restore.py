"""`sightlogd restore`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightlogd.backups.restore import Restore
from sightlogd.config import Config
from sightlogd.durable import UMASK
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, Stop
from sightlogd.service import datadir
from sightlogd.store import DATABASE
from sightlogd.units import gigabytes

from .options import add_command, as_owner, check_user
from .progress import Progress

if TYPE_CHECKING:
    from .options import Commands

SHOWN_MAX: Final = 20

_TEXT: Final = """
Puts a backup into the data directory, which has to have no store, with sightlogd stopped. Every file is compared with
what was backed up, and the database is put in place last. Pictures and logs that are damaged are left out and named;
without a sound database nothing is put in place. It is run as root, or as the user whose the data directory is: the
files are that user's then. When it is interrupted, run it again: until then the daemon does not start.

examples:
  sudo sightlogd restore --config /etc/sightlog/config.toml /media/stick/sightlog
  sightlogd restore --data-dir ./elsewhere /media/stick/sightlog

exit codes: 0 restored, 28 no room, 74 I/O error or a damaged backup (it says whether the rest was restored), 75 the
daemon runs, 77 permission, 78 there is a store, or SRC is not a complete backup
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "restore", "put a backup in place where there is no store", _run, _TEXT)
    parser.add_argument("src", type=Path, metavar="SRC", help="the directory that sightlogd backup was given")


def _run(config: Config, options: argparse.Namespace) -> int:
    if not config.data_dir.exists() and config.data_dir.parent.is_dir() and not config.data_dir.is_symlink():
        raise Stop(
            EXIT_CONFIG,
            f"{config.data_dir} is not there. Make it first, as installing does (mkdir -m 2750 {config.data_dir}), "
            "and chown it to the daemon's user",
        )
    check_user(config.data_dir)
    datadir.check_writable(config.data_dir)
    os.umask(UMASK)
    progress = Progress()
    try:
        with as_owner(config.data_dir) as rights:
            restore = Restore(options.src, config.data_dir, progress.show, rights.of_root)
            end = restore.run()
    finally:
        progress.clear()
    if end is None:
        print(f"{config.data_dir}: finished the restore that was interrupted; {options.src} was not looked at")
    else:
        print(
            f"{config.data_dir}: restored {end.events} events and {end.observations} observations of {end.days} days, "
            f"{gigabytes(end.bytes)}, as of {end.taken_at}"
        )
    if restore.schema.foreign:
        print(f"other programs keep these in the database: {', '.join(restore.schema.foreign)}")
    if restore.schema.changed:
        print(
            f"somebody had changed the database: {', '.join(restore.schema.changed)}. sightlogd does not start on it. "
            f"{restore.schema.remedy(config.data_dir / DATABASE)}"
        )
    for text in restore.damaged[:SHOWN_MAX]:
        print(f"not restored: {text}")
    if restore.damaged:
        print(
            f"{len(restore.damaged)} files are not what was backed up, and are not in the store. Another backup may "
            "have them: put them in place from there before the daemon starts, which writes lines that logs lack and "
            "forgets pictures that are not there"
        )
    print(
        "next: sightlogd verify, then start sightlogd (systemctl start sightlogd). Producers send again what was not "
        "acked; what was acked after the backup is lost, and counted as missing where its producer still runs"
    )
    return EXIT_IO_ERROR if restore.damaged else 0
