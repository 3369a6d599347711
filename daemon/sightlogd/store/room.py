"""Whether SQLite found no room. Of all that is full it knows ENOSPC alone; a quota, and a file that may not grow, it
calls I/O errors."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

import apsw

from sightlogd.room import ran_out

_LYING: Final = (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC)
"""What was written before is in doubt then, whatever the reason is."""


def no_room(error: apsw.Error, connection: apsw.Connection, path: Path) -> str | None:
    """What ran out; None when it is another error. Right behind it: the connection keeps the last number alone."""
    if isinstance(error, apsw.FullError):
        return ran_out(errno.ENOSPC, path)
    if isinstance(error, (apsw.IOError, apsw.CantOpenError)) and getattr(error, "extendedresult", 0) not in _LYING:
        return ran_out(connection.system_errno, path)
    return None
