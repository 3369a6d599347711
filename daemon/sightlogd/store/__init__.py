"""The store: the only package that opens SQLite for writing."""

from .opening import DATABASE, WAL_BYTES_KEPT
from .store import Store

__all__ = ["DATABASE", "WAL_BYTES_KEPT", "Store"]
