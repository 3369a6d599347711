"""The data directory, before a verb locks or makes anything there: is it a store's, and may this verb write there?

What is not sightlog's is not touched. A database is known by its mark (`store.signature`). Where there is one, all of
our names are ours, but no link is written through. Where there is none, a name of ours may be there only with what we
leave under it. Other names are somebody else's, and harmless.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from sightlog.layout import BACKUP
from sightlog.writer import FACTS
from sightlogd.daylogs.days import EVENTS, INCOMING, TRASH, folders, is_day
from sightlogd.daylogs.lines import decode_line
from sightlogd.daylogs.writer import JSON_NAME, TEXT_NAME
from sightlogd.directory import open_file
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, Stop
from sightlogd.retention.usage import RESERVE_FILE
from sightlogd.store import DATABASE
from sightlogd.store.lock import LOCK
from sightlogd.store.migrate import RESTORE
from sightlogd.store.opening import RESTORED, RESTORING, damaged
from sightlogd.store.signature import Owner, signature_of
from sightlogd.store.tools import upgrade_copy

from . import control, leftovers

METRICS: Final = "metrics"
_LINES_LOOKED_AT: Final = 100
"""Of a day's log, for one that is ours."""
_UNTOUCHED: Final = "Nothing was changed"
_ELSEWHERE: Final = "Give another data directory, or move it away"


class _Name(NamedTuple):
    """Of a thing in the data directory."""

    is_of_its_type: Callable[[int], bool]
    type: str
    stranger: Callable[[Path], str | None] = leftovers.anything
    """What is in there that we do not leave behind where there is no database."""


def _whatever(_mode: int) -> bool:
    """What stands in our way there costs metrics, or a purge, and is not touched."""
    return True


_NAMES: Final = {
    DATABASE: _Name(stat.S_ISREG, "a file"),
    f"{DATABASE}-wal": _Name(stat.S_ISREG, "a file", leftovers.of_wal),
    f"{DATABASE}-shm": _Name(stat.S_ISREG, "a file", leftovers.of_shm),
    "events.new": _Name(stat.S_ISREG, "a file", leftovers.of_database),
    "events.new-wal": _Name(stat.S_ISREG, "a file", leftovers.of_wal),
    "events.new-shm": _Name(stat.S_ISREG, "a file", leftovers.of_shm),
    "events.new-journal": _Name(stat.S_ISREG, "a file", leftovers.of_journal),
    upgrade_copy.KEPT: _Name(stat.S_ISREG, "a file", leftovers.of_database),
    upgrade_copy.UNFINISHED: _Name(stat.S_ISREG, "a file", leftovers.of_database),
    LOCK: _Name(stat.S_ISREG, "a file", leftovers.of_lock),
    f"{LOCK}.new": _Name(stat.S_ISREG, "a file", leftovers.of_lock),
    FACTS: _Name(stat.S_ISREG, "a file", leftovers.of_facts),
    f"{FACTS}.new": _Name(stat.S_ISREG, "a file", leftovers.of_facts),
    RESERVE_FILE: _Name(stat.S_ISREG, "a file", leftovers.of_reserve),
    control.NAME: _Name(lambda mode: not stat.S_ISREG(mode), "a socket"),
    INCOMING: _Name(stat.S_ISDIR, "a directory"),
    TRASH: _Name(_whatever, "a directory"),
    EVENTS: _Name(stat.S_ISDIR, "a directory"),
    METRICS: _Name(_whatever, "a directory", leftovers.of_metrics),
    RESTORING: _Name(stat.S_ISDIR, "a directory", leftovers.of_restore),
    RESTORED: _Name(stat.S_ISDIR, "a directory", leftovers.of_restore),
}


_SPARE: Final = (RESERVE_FILE, EVENTS, INCOMING, TRASH)
"""What is in the way there is told and not touched, and records are stored without it: pictures or day logs wait."""
_BELONG_TO_A_DATABASE: Final = {
    INCOMING: leftovers.of_incoming,
    TRASH: leftovers.of_trash,
    EVENTS: leftovers.of_days,
}


def check_start(data_dir: Path) -> None:
    """The daemon: its own store, or a place for a new one. Raises Stop."""
    with _explained(data_dir):
        if _is_there(data_dir) and not _check_writable(data_dir):
            _check_not_gone(data_dir)
            check_no_wal(data_dir)
            for name, foreign in _BELONG_TO_A_DATABASE.items():
                if (found := foreign(data_dir / name)) is not None:
                    raise _stranger(data_dir / name, found)
            if leftovers.listens(data_dir / control.NAME):
                raise _stranger(data_dir / control.NAME, "a program listens there")


def check_writable(data_dir: Path, *, may_be_damaged: bool = False) -> bool:
    """Any other verb that writes there; returns whether there is a database. Raises Stop."""
    with _explained(data_dir):
        _check_there(data_dir)
        return _check_writable(data_dir, may_be_damaged=may_be_damaged)


def check_readable(data_dir: Path) -> None:
    """A store, or a backup, whose database may be damaged. Raises Stop."""
    with _explained(data_dir):
        _check_there(data_dir)
        _check_type(data_dir / DATABASE, _NAMES[DATABASE])
        if not _check_database(data_dir / DATABASE, may_be_damaged=True):
            raise no_database(data_dir)


def check_no_backup(directory: Path) -> None:
    """Raises Stop."""
    for name in (BACKUP, f"{BACKUP}.new"):
        if os.path.lexists(directory / name):
            raise Stop(
                EXIT_CONFIG,
                f"{directory} is a backup, complete or not: it has a {name}. {_UNTOUCHED}: a backup is not for "
                f"writing. sightlogd restore {directory} makes a store of it in another data directory; sightlog "
                f"events --data-dir {directory} and its like read it as it is",
            )


def check_output(path: Path) -> None:
    """A database may be made at `path`, wherever that is. Raises Stop."""
    with _explained(path.parent):
        check_no_backup(path.parent)
        new = path.with_suffix(".new")  # its name until it is complete
        if os.path.lexists(new):
            _check_type(new, _NAMES["events.new"])
            if (found := leftovers.of_database(new)) is not None:
                raise Stop(EXIT_CONFIG, f"{new} is in the way: {found}. {_UNTOUCHED}. Move it away")


def check_no_wal(data_dir: Path) -> None:
    """SQLite would take one that is there for the new database's. Raises Stop."""
    wal = data_dir / f"{DATABASE}-wal"
    if wal.exists() and wal.stat().st_size:
        raise Stop(
            EXIT_CONFIG,
            f"{wal} is there, but {data_dir / DATABASE} is not: the database was moved or deleted without its WAL. "
            f"{_UNTOUCHED}. Bring it back, or move the WAL away too; {RESTORE}",
        )


def no_database(data_dir: Path) -> Stop:
    return Stop(EXIT_CONFIG, f"there is no database in {data_dir}. Is --data-dir right?")


def has_own_lines(data_dir: Path) -> bool:
    """Whether a day folder has a log of ours. Raises OSError."""
    return any(_has_own_line(data_dir / EVENTS / day / JSON_NAME) for day in folders(data_dir))


# -- is it there? -----------------------------------------------------------------------------------------------------


def _is_there(data_dir: Path) -> bool:
    """Raises Stop where nobody made a place for it, OSError."""
    try:
        if stat.S_ISDIR(data_dir.stat().st_mode):
            return True
    except (FileNotFoundError, NotADirectoryError):
        pass
    if data_dir.is_symlink():
        raise Stop(
            EXIT_CONFIG,
            f"{data_dir} is a link to {os.readlink(data_dir)}, which is not there. Is the disk mounted? {_UNTOUCHED}",
        )
    if os.path.lexists(data_dir):
        raise Stop(EXIT_CONFIG, f"{data_dir} is not a directory. {_UNTOUCHED}. Is --data-dir right?")
    if not data_dir.parent.is_dir():
        raise Stop(
            EXIT_CONFIG,
            f"{data_dir.parent} is not there, and the data directory {data_dir} would be in it. Is the disk mounted? "
            f"Only the last folder is made. Mount the disk, make {data_dir.parent}, or give another --data-dir",
        )
    return False


def _check_there(data_dir: Path) -> None:
    if not _is_there(data_dir):
        raise Stop(
            EXIT_CONFIG,
            f"there is no database in {data_dir}, and no such directory. Only sightlogd run makes it. Is --data-dir "
            "right, and the disk mounted?",
        )


# -- is it ours? ------------------------------------------------------------------------------------------------------


def _check_writable(data_dir: Path, *, may_be_damaged: bool = False) -> bool:
    check_no_backup(data_dir)
    for name, own in _NAMES.items():
        if name not in _SPARE:
            _check_type(data_dir / name, own)
    has_database = _check_database(data_dir / DATABASE, may_be_damaged=may_be_damaged)
    if has_database:
        return True
    for path in _written_in_days(data_dir):
        _check_no_link(path)
    for name in _SPARE:
        _check_type(data_dir / name, _NAMES[name])
    for name, own in _NAMES.items():
        path = data_dir / name
        if os.path.lexists(path) and (found := own.stranger(path)) is not None:
            raise _stranger(path, found)
    return False


def _check_type(path: Path, own: _Name) -> None:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    _check_no_link(path)
    if not own.is_of_its_type(mode):
        raise Stop(EXIT_CONFIG, f"{path} is not {own.type}, as sightlog's is. {_UNTOUCHED}. {_ELSEWHERE}")


def _check_no_link(path: Path) -> None:
    if path.is_symlink():
        raise Stop(
            EXIT_CONFIG,
            f"{path} is a link to {os.readlink(path)}, and sightlog writes through no link there. {_UNTOUCHED}. Put "
            "what it leads to in its place. For another disk make the data directory itself a link, or mount it there",
        )


def _written_in_days(data_dir: Path) -> Iterator[Path]:
    for entry in _entries(data_dir / EVENTS):
        if is_day(entry.name):
            yield Path(entry.path)
            yield Path(entry.path, JSON_NAME)
            yield Path(entry.path, TEXT_NAME)


def _check_database(path: Path, *, may_be_damaged: bool) -> bool:
    """Whether there is one. Raises Stop, OSError."""
    owner, found = signature_of(path)
    if owner in (Owner.US, Owner.NOBODY):
        return owner is Owner.US
    if owner is Owner.ANOTHER:
        raise Stop(EXIT_CONFIG, f"{path} {found}. {_UNTOUCHED}. {_ELSEWHERE}")
    if not has_own_lines(path.parent):
        raise Stop(
            EXIT_CONFIG,
            f"{path} is damaged, or of another program: it {found}, and no day folders of sightlog's are beside it. "
            f"{_UNTOUCHED}. {_ELSEWHERE}",
        )
    if not may_be_damaged:
        raise damaged(path, f"it {found}")
    return True


def _check_not_gone(data_dir: Path) -> None:
    """A new database would hide that the old one was lost. Raises Stop."""
    for name in (RESTORING, RESTORED):
        if (unfinished := data_dir / name).exists():
            raise Stop(
                EXIT_CONFIG,
                f"{data_dir / DATABASE} is not there, and {unfinished} is: a restore was interrupted. {_UNTOUCHED}. "
                "Run sightlogd restore again, or move that directory away to begin with an empty store",
            )
    if has_own_lines(data_dir):
        raise Stop(
            EXIT_CONFIG,
            f"the database is gone from {data_dir}, and the folders of {len(folders(data_dir))} days are there. "
            f"{_UNTOUCHED}. Bring it back; {RESTORE}; to begin anew, move {data_dir / EVENTS} away too",
        )


def _stranger(path: Path, found: str) -> Stop:
    return Stop(
        EXIT_CONFIG,
        f"{path} would be in the way of a new store: {found}. {_UNTOUCHED}: there is no {DATABASE} beside it that it "
        f"belongs to. Is --data-dir right, and the disk mounted? {_ELSEWHERE}",
    )


def _has_own_line(path: Path) -> bool:
    try:
        fd = open_file(path)
    except OSError:
        return False
    with open(fd, "rb") as file, contextlib.suppress(OSError):
        for _ in range(_LINES_LOOKED_AT):
            with contextlib.suppress(msgspec.MsgspecError):
                decode_line(file.readline(leftovers.LINE_BYTES))
                return True
    return False


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    """Raises OSError but for a missing one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        yield from sorted(entries, key=lambda entry: entry.name)


@contextlib.contextmanager
def _explained(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise Stop(
            EXIT_PERMISSION,
            f"cannot read {error.filename or data_dir}: {error.strerror}. Run this as the daemon's user, or as one of "
            "the readers' group",
        ) from error
    except OSError as error:
        raise Stop(
            EXIT_IO_ERROR, f"cannot read {error.filename or data_dir}: {error.strerror}. Look at the disk"
        ) from error
