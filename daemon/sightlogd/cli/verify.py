"""`sightlogd verify`."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sightlogd.backups.check import check, is_backup
from sightlogd.config import Config
from sightlogd.errors import EXIT_IO_ERROR, EXIT_PERMISSION, Stop
from sightlogd.findings import FINDINGS_MAX, Finding, Kind
from sightlogd.recovery.audit import Audit
from sightlogd.service import datadir
from sightlogd.store import DATABASE
from sightlogd.store.tools.verify import foreign_objects, verify
from sightlogd.store.tools.view import View

from .options import add_command
from .progress import Progress

if TYPE_CHECKING:
    from .options import Commands

_TEXT: Final = f"""
Looks at the pages of the database, its references, its index of texts; whether its thumbnails are there, and begin
and end as a JPEG does; and whether events.json of the days and the database say the same, both ways. What is between
the ends of a picture, and events.log, are not looked at. Beside the daemon what is just being done is left out. At
most {FINDINGS_MAX} findings of a kind are shown, and what to do about each kind.

Where DIR is that of a backup, all of its files are read and compared with what was backed up instead, and the database
is looked at: do that now and then, a disk loses bits without a word.

examples:
  sightlogd verify && echo sound
  sightlogd verify --data-dir /media/stick/sightlog    a backup

exit codes: 0 sound, 28 no room for the comparison, 74 damage, 75 a backup to DIR is under way, 77 permission,
78 not a store of this version, or no complete backup
"""


def add_parser(commands: Commands) -> None:
    summary = "look for damage in database and day folders, while the daemon runs or not; nothing is changed"
    add_command(commands, "verify", summary, _run, _TEXT)


def _run(config: Config, _options: argparse.Namespace) -> int:
    of_backup = is_backup(config.data_dir)
    if not of_backup:
        datadir.check_readable(config.data_dir)
    progress = Progress()
    counts: Counter[Kind] = Counter()
    try:
        for finding in check(config.data_dir, progress.show) if of_backup else _findings(config, progress):
            counts[finding.kind] += 1
            if counts[finding.kind] <= FINDINGS_MAX:
                progress.tell(finding.text)
    except PermissionError as error:
        raise Stop(
            EXIT_PERMISSION,
            f"cannot read {error.filename}: {error.strerror}. Run this as the daemon's user, or as one of the readers'",
        ) from error
    except OSError as error:
        raise Stop(
            EXIT_IO_ERROR, f"cannot read {error.filename or config.data_dir}: {error.strerror}. Look at the disk"
        ) from error
    finally:
        progress.clear()
    for kind, count in counts.items():
        more = f"{count - FINDINGS_MAX} more like these; " if count > FINDINGS_MAX else ""
        print(f"{more}{kind.value}")
    if any(kind.is_damage for kind in counts):
        return EXIT_IO_ERROR
    if of_backup:
        print(f"{config.data_dir}: all files are what was backed up, and the database is sound")
    else:
        print(
            f"{config.data_dir / DATABASE}: no damage found in the database, the beginnings and ends of its "
            "thumbnails, and events.json of the days"
        )
    return 0


def _findings(config: Config, progress: Progress) -> Iterator[Finding]:
    for text in foreign_objects(config.data_dir / DATABASE):
        yield Finding(Kind.OBJECT, f"{DATABASE}: {text}")
    is_damaged = False
    for text in verify(config.data_dir / DATABASE, progress.show):
        is_damaged = True
        yield Finding(Kind.DATABASE, text)
    if not is_damaged:  # else what it says of files and lines is worth nothing
        with contextlib.closing(View(config.data_dir / DATABASE)) as view:
            yield from Audit(config.data_dir, view, progress.show).run()
