"""The store: the only package that opens SQLite for writing."""

from .opening import DATABASE, WAL_BYTES_KEPT
from .rows import Written
from .store import FilesGone, Store

__all__ = ["DATABASE", "WAL_BYTES_KEPT", "FilesGone", "Store", "Written"]
