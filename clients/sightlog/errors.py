"""What can go wrong for a program that uses sightlog: one base, three kinds.

`UsageError`: you. Mend the call; trying again does not help.
`DaemonError`: the daemon. Somebody has to look at it; what was published is kept in the spool.
`NotNow`: try again later; nothing is broken and nothing is lost.

The text of every error ends with what to do next.
"""

from __future__ import annotations

from typing import Final

NOT_TAKEN: Final = "Not taken: nothing of this call is in the spool"
"""Ends the text of every error of a publishing call that left nothing behind."""


class SightlogError(Exception):
    """Every error that sightlog raises on purpose."""


class UsageError(SightlogError):
    """The caller has to change something."""


class DaemonError(SightlogError):
    """The daemon, or the store behind it, needs attention."""


class NotNow(SightlogError):
    """Temporary: it may work later without any change. Also called TemporaryError."""


TemporaryError = NotNow


class InvalidRecord(UsageError, ValueError):
    """A record breaks a limit or has a wrong type. Nothing was spooled or sent."""


class RecordRejected(UsageError):
    """The daemon refused a record and keeps it as a dead letter. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the daemon refused the record: {reason}")
        self.reason = reason


class SpoolInUse(UsageError):
    """Another process has this producer's spool, from the start or since its files were removed."""


class SpoolFormatUnknown(UsageError):
    """The spool was written in a format that this version does not know. It is left untouched."""


class ProducerFenced(UsageError):
    """Another process with a copy of this spool publishes under the same producer id, and it is the newer one."""


class PublisherClosed(UsageError):
    """The publisher was closed, or the process forked after it was made."""


class DatabaseNotFound(UsageError):
    """There is no readable sightlog database at the given path."""


class SchemaMismatch(UsageError):
    """The database was written by a version of sightlog whose schema this reader does not know."""


class DatabaseDamaged(DaemonError):
    """The file is not a database, or SQLite reports it as damaged."""


class DatabaseWriteError(DaemonError):
    """The daemon answers, but it cannot write now. The record stays in the spool and is sent again.

    `reason` is the daemon's own, for example `storage_full: database or disk is full`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the daemon cannot write: {reason}. The record is kept in the spool and sent again; "
            "see `sightlog status` and the daemon's log"
        )
        self.reason = reason


class AccessDenied(DaemonError):
    """The daemon does not let this producer's key in, wants one, or is not the one that the key file is for.

    `reason` says which, and what to do about it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}. What is published is kept in the spool, and sent when the daemon lets this producer in"
        )
        self.reason = reason


class ProtocolError(DaemonError):
    """The daemon and this client do not speak the same protocol version, or one of them broke it."""


class SpoolDamaged(DaemonError):
    """The spool directory cannot be used: not writable, not a directory, or its identity file is unreadable."""


class SpoolFull(NotNow):
    """The spool holds as much as it may (or its disk is full). The record was not accepted."""


class AckTimeout(NotNow, TimeoutError):
    """No ack within the time given. The record is in the spool and goes on being sent."""
