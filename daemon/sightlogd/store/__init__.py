"""The store: the only package that opens SQLite for writing."""

from .opening import DATABASE
from .store import Store

__all__ = ["DATABASE", "Store"]
