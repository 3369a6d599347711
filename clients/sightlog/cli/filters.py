"""Which events: the options of filters that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from sightlog.errors import UsageError
from sightlog.protocol.fields import FILTERS
from sightlog.reader.filters import NAMES


def add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters", "Events that pass all of them:")
    exclusive: dict[str, Any] = {}
    for one in FILTERS:
        if one.group and one.group not in exclusive:
            exclusive[one.group] = group.add_mutually_exclusive_group()
        into = exclusive[one.group] if one.group else group
        into.add_argument(one.option, dest=one.name, help=one.doc, **one.arguments)
    group.add_argument("--label", metavar="LABEL", help="where this was detected: person, dog, …")
    group.add_argument(
        "--min-confidence", type=_confidence, metavar="X", help="with --label: at least so sure, from 0 to 1"
    )


def filters_of(options: argparse.Namespace) -> dict[str, Any]:
    """What was given, as arguments of `Reader.find_events`. Raises UsageError."""
    if options.min_confidence is not None and options.label is None:
        raise UsageError("--min-confidence: of what? Give --label too, such as --label person")
    given = {name: getattr(options, name) for name in NAMES if getattr(options, name) is not None}
    for one in FILTERS:
        choices = one.arguments.get("choices")
        if one.name in given and isinstance(choices, Mapping):
            given[one.name] = choices[given[one.name]]
    return given


def _confidence(text: str) -> float:
    try:
        confidence = float(text)
    except ValueError:
        confidence = -1.0
    if not 0 <= confidence <= 1:
        raise UsageError(f"--min-confidence {text}: expected a number from 0 to 1")
    return confidence
