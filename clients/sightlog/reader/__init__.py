"""The reader: read-only connections to the database of a store that is there, while the daemon writes to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reader import Reader as Reader
else:
    # On first use: who wants only a neighbour need not load sqlite3.
    def __getattr__(name: str) -> object:
        if name != "Reader":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .reader import Reader

        globals()[name] = Reader
        return Reader
