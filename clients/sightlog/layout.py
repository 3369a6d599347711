"""By what a store and a backup are known: names in their directories, and a mark in the database."""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x534C4F47
"""SLOG, in the database's header (PRAGMA application_id) since it was made: other programs name tables as we do."""
BACKUP: Final = "backup.json"
"""Where this is, or a file NAME.new, there is a backup, complete or not: it is read and never written to."""
