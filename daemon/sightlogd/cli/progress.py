"""How far something is, where a person looks at a terminal; and what is said for good."""

from __future__ import annotations

import os
import sys
import time
from typing import Final

from sightlog.text import printable

SECONDS: Final = 0.1
"""Between two looks."""


class Progress:
    """One line on standard error that is written over."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._next = 0.0
        self._is_dirty = False

    def show(self, text: str) -> None:
        now = time.monotonic()
        if self._is_shown and now >= self._next:
            self._next = now + SECONDS
            self._is_dirty = True
            room = (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1  # a serial line says 0
            print(f"\r{printable(text)[:room].ljust(room)}", end="", file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        self.clear()
        print(printable(text), flush=True)

    def clear(self) -> None:
        if self._is_dirty:
            room = (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
            print(f"\r{' ' * room}\r", end="", file=sys.stderr, flush=True)
            self._is_dirty = False
