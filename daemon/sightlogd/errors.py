"""Why the daemon stops, or does not write for now."""

from __future__ import annotations

from typing import Final

EXIT_STORAGE_FULL: Final = 28
EXIT_IO_ERROR: Final = 74
EXIT_TRY_AGAIN: Final = 75
EXIT_PERMISSION: Final = 77
EXIT_CONFIG: Final = 78


STORAGE_FULL: Final = "storage_full"
"""Code of a WriteRefused: the disk has no room."""
STORAGE_LIMIT: Final = "storage_limit"
"""The budget has none."""


class Stop(Exception):
    """The daemon cannot go on. The message says what was found and what to do; `exit_code` is for systemd."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class WriteRefused(Exception):
    """A transaction was rolled back and may succeed later. `code` is a word for programs, the text for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
