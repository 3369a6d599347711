"""Which events: the filters that several commands share, as the reader's arguments and as a condition."""

from __future__ import annotations

import argparse
from typing import Any, Final, NamedTuple

from sightlog.errors import UsageError
from sightlog.protocol.limits import DOOR_ACTIONS
from sightlog.records import Event


class Filters(NamedTuple):
    """All that is given has to hold. The names are those of `Reader.find_events`, and mean the same."""

    camera_id: str | None = None
    event_type: str | None = None
    person: str | None = None
    stranger: bool = False
    label: str | None = None
    min_confidence: float | None = None
    unlock_granted: bool | None = None
    door_action: str | None = None
    alert_sent: bool | None = None

    def query(self) -> dict[str, Any]:
        """For `Reader.find_events`."""
        return self._asdict()

    def admit(self, event: Event) -> bool:
        """Whether `find_events` with them would give it: for events that come by `follow`."""
        return (
            self.camera_id in (None, event.camera_id)
            and self.event_type in (None, event.event_type)
            and self.person in (None, event.person_name)
            and not (self.stranger and event.person_name is not None)
            and (self.label is None or self._is_seen(event))
            and self.unlock_granted in (None, event.unlock_granted)
            and self.door_action in (None, event.door_action)
            and self.alert_sent in (None, event.alert_sent)
        )

    def _is_seen(self, event: Event) -> bool:
        return any(
            detection.label == self.label and detection.confidence >= (self.min_confidence or 0)
            for detection in event.detections
        )


_NAMES: Final = frozenset(Filters._fields)
_UNLOCK: Final = {"granted": True, "refused": False}


def add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters", "Events that pass all of them:")
    group.add_argument("--camera", dest="camera_id", metavar="ID", help="of this camera")
    group.add_argument("--type", dest="event_type", metavar="TYPE", help="of this type: motion, ding, …")
    who = group.add_mutually_exclusive_group()
    who.add_argument("--person", metavar="NAME", help="where this person was recognised")
    who.add_argument("--stranger", action="store_true", help="where nobody was recognised")
    group.add_argument("--label", metavar="LABEL", help="where this was detected: person, dog, …")
    group.add_argument(
        "--min-confidence", type=_confidence, metavar="X", help="with --label: at least so sure, from 0 to 1"
    )
    group.add_argument(
        "--unlock", choices=tuple(_UNLOCK), metavar="ANSWER", help="where unlocking was granted or refused"
    )
    group.add_argument(
        "--door", dest="door_action", choices=DOOR_ACTIONS, metavar="ACTION", help="unlocked, locked or none"
    )
    group.add_argument(
        "--unsent", dest="alert_sent", action="store_const", const=False, help="about which no alert was sent yet"
    )


def filters_of(options: argparse.Namespace) -> Filters:
    """Raises UsageError."""
    if options.min_confidence is not None and options.label is None:
        raise UsageError("--min-confidence: of what? Give --label too, such as --label person")
    given = {name: value for name, value in vars(options).items() if name in _NAMES}
    return Filters(**given, unlock_granted=_UNLOCK.get(options.unlock))


def _confidence(text: str) -> float:
    try:
        confidence = float(text)
    except ValueError:
        confidence = -1.0
    if not 0 <= confidence <= 1:
        raise UsageError(f"--min-confidence {text}: expected a number from 0 to 1")
    return confidence
