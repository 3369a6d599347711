"""What `sightlogd verify` finds: of which kind it is, whether it is damage, and what is to be done about it."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

FINDINGS_MAX: Final = 20
"""Of each kind that are shown: a damaged page makes thousands."""


class Kind(Enum):
    """Each with what is to be done."""

    DATABASE = (
        "the database is damaged. Stop the daemon and run sightlogd backup DEST, which keeps it as it is, and the day "
        "folders. Then move events.db* away: sightlogd rebuild --from-logs makes a new one from the day folders, or "
        "sightlogd restore SRC puts a backup in place"
    )
    NO_ROW = (
        "the database lacks what the day logs have: it is older than they are. sightlogd backup DEST first; then, with "
        "the daemon stopped and events.db* moved away, sightlogd rebuild --from-logs makes one that has all of it"
    )
    NO_LINE = (
        "the day logs lack what the database has, or say something else: do not rebuild from them. sightlogd backup "
        "DEST keeps what the database has, and the logs as they are"
    )
    NO_FOLDER = (
        "somebody removed day folders by hand: bring them back, from a backup or from where they were moved to. If "
        "they are to go, sightlogd purge removes their rows too"
    )
    UNREADABLE = (
        "lines were damaged, by the card or by hand. The database has what they said: sightlogd backup keeps that; do "
        "not rebuild from these logs as long as the database is sound"
    )
    NO_PICTURE = (
        "thumbnails are gone or damaged: bring them back from a backup before the daemon is started again, which takes "
        "those that are gone out of its rows then"
    )
    BACKUP = (
        "the backup is damaged, by its disk or by hand. Remove these files from it and run sightlogd backup again "
        "while the store has them: they are copied anew. A restore leaves damaged pictures and logs out and names "
        "them; without its events.db nothing is restored"
    )
    CHANGED = (
        "somebody had changed the database when the backup was made: a store restored from it does not start before "
        "that is undone"
    )
    OBJECT = "no damage: other programs keep these in the database. They stay in it, and are backed up with it"
    STRAY_PICTURE = "no damage: the daemon removes such pictures when it starts the next time"
    FOREIGN = "no damage: somebody put these into the day folders, and they stay there, also when their day goes"

    @property
    def is_damage(self) -> bool:
        return self not in (Kind.OBJECT, Kind.STRAY_PICTURE, Kind.FOREIGN)


class Finding(NamedTuple):
    kind: Kind
    text: str
