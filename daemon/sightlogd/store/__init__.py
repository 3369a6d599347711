"""The store: the only package that opens SQLite for writing."""

from .store import Store

__all__ = ["Store"]
