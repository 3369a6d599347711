"""`sightlogd backup`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightlog.text import printable
from sightlogd.backups.backup import Backup
from sightlogd.backups.copier import Report
from sightlogd.config import Config
from sightlogd.durable import UMASK
from sightlogd.errors import EXIT_IO_ERROR, EXIT_PERMISSION
from sightlogd.service import datadir
from sightlogd.store import DATABASE
from sightlogd.units import gigabytes

from .options import add_command
from .progress import Progress

if TYPE_CHECKING:
    from .options import Commands

SHOWN_MAX: Final = 20

_TEXT: Final = """
Copies the database, the day folders and the pictures that wait, as of one moment, while the daemon runs or not: the
copy is checked and durable when this ends. Into the same DEST again, only what is new is copied. Until the new backup
is complete the one before stays as it is, also when this is killed. Days that the store has removed stay in DEST; when
such a day comes again, with a late record, what DEST had of it stays in DEST/kept. A file whose size and time are those
of its copy is not read again: sightlogd verify --data-dir DEST reads the copies.

What root makes in DEST belongs to the owner of the data directory, who makes the next one.

Not in it: config.toml, keys, the producers' spools, metrics; links, pipes and folders within day folders.

examples:
  sightlogd backup /media/stick/sightlog
  sudo -u sightlog sightlogd backup --config /etc/sightlog/config.toml /mnt/backup/door

exit codes: 0 complete, 28 no room in DEST, 74 I/O error or a damaged database, 75 try again,
77 not all may be read or written, 78 DEST is not fit for it
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "backup", "copy everything to another place, while the daemon runs", _run, _TEXT)
    parser.add_argument("dest", type=Path, metavar="DEST", help="a new or empty directory, or that of a backup before")


def _run(config: Config, options: argparse.Namespace) -> int:
    datadir.check_readable(config.data_dir)
    os.umask(UMASK)
    progress = Progress()
    try:
        report = Backup(config.data_dir, options.dest, progress.show, progress.tell).run()
    finally:
        progress.clear()
    return _tell(report, config, options.dest)


def _tell(report: Report, config: Config, dest: Path) -> int:
    for text in report.unreadable[:SHOWN_MAX]:
        print(f"not in the backup: {text}")
    for path, reason in report.foreign[:SHOWN_MAX]:
        print(f"not in the backup: {printable(path)}: {reason}, and so not of sightlog")
    if report.damage is not None:
        _tell_of_damage(report, config, dest)
        return EXIT_IO_ERROR
    print(
        f"{dest}: {report.events} events and {report.observations} observations of {report.days} days, "
        f"{gigabytes(report.bytes)}; {report.copied} files with {gigabytes(report.copied_bytes)} were copied now"
    )
    if report.schema.foreign:
        print(f"other programs keep these in the database, and they were copied: {', '.join(report.schema.foreign)}")
    if report.schema.changed:
        print(
            f"a store restored from this does not start, for somebody changed the database: "
            f"{', '.join(report.schema.changed)}. {report.schema.remedy(config.data_dir / DATABASE)} Then back up again"
        )
    if report.kept:
        print(
            f"{len(report.kept)} days that the store has removed stay in {dest}/events ({report.kept[0]} to "
            f"{report.kept[-1]}); a restore leaves them out"
        )
    if report.other:
        print(
            f"{len(report.other)} files in {dest} said what these do not say now, and are kept: a day that was removed "
            "came again, or something was changed by hand"
        )
    for name in report.other[:SHOWN_MAX]:
        print(f"  {dest / name}")
    if len(report.unreadable) > report.denied:
        print(f"{len(report.unreadable)} files could not be read. Look at the disk that the store is on: dmesg")
        return EXIT_IO_ERROR
    if report.unreadable:
        print(f"{len(report.unreadable)} files may not be read. Run this as the daemon's user to have them too")
        return EXIT_PERMISSION
    return 0


def _tell_of_damage(report: Report, config: Config, dest: Path) -> None:
    database = config.data_dir / DATABASE
    former = f"The backup that was in {dest} before is as it was" if report.has_former else f"{dest} has no backup yet"
    print(f"{database} is damaged: {report.damage}. {former}")
    print(f"the day folders are copied: {report.copied} new files, {gigabytes(report.copied_bytes)}")
    if report.aside is None:
        print(
            "the database is not copied: the daemon runs. Stop it, and run this again: then its files are, as they are"
        )
        return
    print(f"the database is copied as it is to {report.aside}")
    print(f"next, with sightlogd stopped: mv {database}* somewhere, then")
    print("  sightlogd rebuild --from-logs    makes a new database of the day folders, newer than any backup")
    if report.has_former:
        print(f"  or sightlogd restore {dest}    puts the backup in place; move the day folders away too")
