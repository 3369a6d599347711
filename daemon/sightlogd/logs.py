"""structlog: JSON lines under systemd or into a file, readable lines on a terminal."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import structlog

from sightlog.text import json_safe, printable

log = structlog.get_logger()

WARNING_SECONDS: Final = 10.0


def set_up(level: str) -> None:
    """Everything goes to standard error: systemd keeps it, a terminal shows it."""
    terminal = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer(colors=True) if terminal else _as_json
    if is_the_journal(sys.stderr.fileno()):
        renderer = _with_priority(renderer)
    structlog.configure(
        processors=[
            _printable,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not terminal),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


_render_json: Final = structlog.processors.JSONRenderer(ensure_ascii=False)


def _as_json(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
    """A traceback and what lists hold too: `journalctl -o json` and `cat` show it as it is."""
    return json_safe(str(_render_json(logger, name, event)))


def _printable(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Reasons quote what strangers sent, and a terminal obeys what it is shown."""
    for key, value in event.items():
        event[key] = _shown(value)
    return event


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_shown(key): _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, (list, tuple)) else value


def is_the_journal(fd: int) -> bool:
    """systemd.exec(5), JOURNAL_STREAM: a child that was given another standard error must not believe it."""
    there = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def _with_priority(renderer: Any) -> Callable[..., str]:
    """The journal takes a line's priority from its beginning (sd-daemon(3)): journalctl -p warning."""
    priorities = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

    def render(logger: Any, name: str, event: Any) -> str:
        priority = priorities.get(event.get("level", ""), 6)
        return f"<{priority}>{renderer(logger, name, event)}"

    return render


class RateLimit:
    """Lets one message through in `seconds`, and counts what it held back."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0
        self._held = 0

    def take(self, now: float | None = None) -> int | None:
        """None: hold this one back. Else how many were held back since the last."""
        now = time.monotonic() if now is None else now
        if now < self._next:
            self._held += 1
            return None
        held, self._held = self._held, 0
        self._next = now + self._seconds
        return held


class Warnings:
    """Warnings, at most one of a kind in WARNING_SECONDS; it tells how many were held back."""

    def __init__(self) -> None:
        self._limits: defaultdict[str, RateLimit] = defaultdict(lambda: RateLimit(WARNING_SECONDS))

    def __call__(self, kind: str, text: str) -> None:
        held = self._limits[kind].take()
        if held is not None:
            log.warning(text, held_back=held)

    def error(self, kind: str, text: str) -> None:
        """What somebody has to mend."""
        held = self._limits[kind].take()
        if held is not None:
            log.error(text, held_back=held)
