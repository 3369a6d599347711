"""Protections of the product, switched off for the controls: the kill machine has to see what is lost then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from sightlog import Publisher
from sightlog.protocol import messages
from sightlog.reader.database import Database
from sightlogd.daylogs import reconcile
from sightlogd.service.loop import Ingest
from sightlogd.store import lookups


def _ack_before_commit() -> None:
    commit = Ingest._commit

    def wrapped(ingest: Ingest, reason: Any) -> None:
        for chunk in ingest._batch.chunks:
            ingest._send(chunk.session.route, messages.ack(chunk.last, ()))
        commit(ingest, reason)

    Ingest._commit = wrapped


def _no_position() -> None:
    """What a producer has had stored is not looked up after a restart."""
    lookups.stored_of = lambda *_: None


class _Later:
    """A receipt of what is spooled a moment after publish() returned."""

    def __init__(self) -> None:
        self.real: Any = None

    @property
    def settled(self) -> bool:
        return self.real is not None and self.real.settled

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def _spool_later() -> None:
    publish = Publisher.publish
    waiting: list[tuple[Publisher, Any, _Later]] = []

    def write() -> None:
        while True:
            while waiting:
                publisher, record, receipt = waiting.pop(0)
                receipt.real = publish(publisher, record)
            time.sleep(0.003)

    def wrapped(publisher: Publisher, record: Any) -> _Later:
        if not waiting and threading.active_count() < 3:
            threading.Thread(target=write, daemon=True).start()
        receipt = _Later()
        waiting.append((publisher, record, receipt))
        return receipt

    Publisher.publish = wrapped


def _no_catching_up() -> None:
    """What a crash kept out of the day logs is not looked for."""

    def nothing(store: Any, logs: Any) -> Iterator[int]:
        logs.behind = False
        reconcile.mark(store, logs)
        yield 0

    reconcile.catch_up = nothing


def _no_snapshot() -> None:
    """An event and what belongs to it are read in transactions of their own."""
    first = Database._first
    Database._first = lambda database, *statements: first(database, statements[-1])


_BY_NAME = {
    "ack before commit": _ack_before_commit,
    "no position": _no_position,
    "spool later": _spool_later,
    "no catching up": _no_catching_up,
    "no snapshot": _no_snapshot,
}


def apply(name: str) -> None:
    """In this process, before it begins."""
    _BY_NAME[name]()
