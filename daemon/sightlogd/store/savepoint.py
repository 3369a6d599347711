"""Undoing one record of a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw


@contextmanager
def alone(connection: apsw.Connection, wanted: bool) -> Iterator[None]:
    """What is done within is undone by itself when it breaks a constraint, where that is `wanted`.

    Savepoints make SQLite keep a copy of every page that is changed.
    """
    if not wanted:
        yield
        return
    connection.execute("SAVEPOINT one_record")
    try:
        yield
    except apsw.ConstraintError:
        connection.execute("ROLLBACK TO one_record")
        raise
    finally:
        connection.execute("RELEASE one_record")
