"""`sightlogd run`: the daemon from the lock to the last ack, and what it tells the service manager on the way."""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

import structlog

from sightlogd import logs
from sightlogd.config import Config
from sightlogd.durable import UMASK
from sightlogd.errors import EXIT_IO_ERROR, EXIT_STORAGE_FULL, Stop
from sightlogd.logs import Warnings
from sightlogd.retention.usage import Storage
from sightlogd.store import DATABASE, Store
from sightlogd.store.lock import Lock
from sightlogd.store.tools.view import naming_odd_rows

from . import datadir, sd_notify
from .loop import Ingest
from .sd_notify import Notifier
from .watchdog import EXTEND_SECONDS, Watchdog

log = structlog.get_logger()

EXIT_BUG: Final = 1
"""Python's own, with a traceback."""
WAIT_SECONDS: Final = 0.2
"""Between two looks whether a start can go on."""


class Standing:
    """How the daemon is: for `sightlog status` in its facts, for the service manager as its status line."""

    def __init__(self, lock: Lock, notifier: Notifier) -> None:
        self._lock = lock
        self._notifier = notifier
        self._trouble: str | None = None
        self._figures = ""
        self._waited_for: str | None = None
        self._warn = Warnings()

    @property
    def text(self) -> str:
        return f"cannot write: {self._trouble}" if self._trouble else self._figures

    def trouble(self, reason: str | None) -> None:
        """Why nothing can be written; None: it can."""
        self._trouble = reason
        self._lock.tell(reason)
        self._notifier.status(self.text)

    def waits(self, reason: str) -> None:
        """A start goes on when the locks of another program are gone: called again and again until then."""
        if reason != self._waited_for:
            self._waited_for = reason
            self.trouble(reason)
        self._warn("start", f"the start waits: {reason}. End that program")
        self._notifier.extend(EXTEND_SECONDS)
        time.sleep(WAIT_SECONDS)

    def figures(self, text: str) -> None:
        """What it does when all is well."""
        self._figures = text
        self._notifier.status(self.text)


def run(config: Config, load: Callable[[], Config]) -> int:
    """Returns the exit code. `load` reads the configuration again; it raises Stop."""
    logs.set_up(config.log.level)
    os.umask(UMASK)
    if not sys.stderr.isatty():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    faulthandler.enable()  # the watchdog's SIGABRT: the journal says where it was stuck
    # libzmq aborts the process when a connection finds no descriptor.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    notifier = Notifier(os.environ)
    watchdog = Watchdog(notifier)
    try:
        with naming_odd_rows(config.data_dir / DATABASE):
            exit_code = _run(config, load, notifier, watchdog)
    except Stop as stop:
        exit_code = _exit_code(stop, config)
        log.error(str(stop), exit_code=exit_code)
        notifier.status(str(stop))
    finally:
        watchdog.close()
    return exit_code


def _run(config: Config, load: Callable[[], Config], notifier: Notifier, watchdog: Watchdog) -> int:
    handed = sd_notify.handed_over(os.environ)
    datadir.check_start(config.data_dir)
    lock = Lock(config.data_dir)
    try:
        notifier.status("opening the database")
        standing = Standing(lock, notifier)
        store = _open_store(config, lock, standing)
        standing.trouble(None)
        _report_start(config, store)
        ingest = Ingest(config, store, standing.trouble, standing.figures, watchdog, handed)
        with ingest.signals(lambda: _reload(ingest, load, notifier, standing)):
            try:
                _spare_the_collector()
                log.info("ready", endpoint=ingest.endpoint, database=str(store.path))
                standing.figures(f"ready on {ingest.endpoint}")
                watchdog.serving(ingest.stop_is_wanted)
                notifier.ready(standing.text)
                ended = ingest.serve()
            finally:
                watchdog.stopping()
                ingest.close()
            store.close()
        if ended is not None:
            lock.fail(ended.exit_code, str(ended))
        log.info("stopped")
        notifier.status("stopped")
    except Stop as stop:
        lock.fail(_exit_code(stop, config), str(stop))
        raise
    except Exception as error:
        lock.fail(EXIT_BUG, f"an error in sightlogd itself, {error!r}: see its log, and report it")
        raise
    finally:
        lock.close()
    return ended.exit_code if ended else 0


def _exit_code(stop: Stop, config: Config) -> int:
    """28 is for good: the owner wanted a full storage to stop it. Else a full disk is trouble that passes: 74."""
    if stop.exit_code == EXIT_STORAGE_FULL and config.storage.over_limit_action == "refuse":
        return EXIT_IO_ERROR
    return stop.exit_code


def _reload(ingest: Ingest, load: Callable[[], Config], notifier: Notifier, standing: Standing) -> None:
    notifier.reloading()
    try:
        config = load()
    except Stop as stop:
        log.error("the configuration was not taken over; the former one holds", reason=str(stop))
    else:
        late = ingest.change(config)
        logs.set_up(config.log.level)
        log.info("took over the configuration: [storage] and [log]")
        if late:
            log.warning("these changes take effect at the next start", keys=late)
    notifier.ready(standing.text)


def _open_store(config: Config, lock: Lock, standing: Standing) -> Store:
    """On a disk that is completely full, with the room that was put by for that. Raises Stop."""

    def opened() -> Store:
        zone, waits = config.zone(), standing.waits
        room = Storage(config.data_dir, config.storage).drop_reserve
        return Store(config.data_dir, config.store.synchronous, None, zone, waits, lock.check, make_room=room)

    try:
        return opened()
    except Stop as stop:
        storage = Storage(config.data_dir, config.storage)
        if stop.exit_code != EXIT_STORAGE_FULL or not storage.has_reserve():
            raise
        storage.drop_reserve()
        return opened()


def _spare_the_collector() -> None:
    """What is imported and set up by now lives until the end: it need not be looked at again and again.

    A batch makes some thousand tuples that die with it without cycles; looking for some at every 700 is in vain.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _report_start(config: Config, store: Store) -> None:
    if store.created:
        log.warning("made a new store. Is it the right place, and the disk mounted?", path=str(store.path))
    elif store.migrated:
        log.info("migrated the database", migrations=[migration.name for migration in store.migrated])
    if store.recovered_bytes:
        log.warning("the last stop was not clean; the WAL was made durable again", bytes=store.recovered_bytes)
    if store.lacks_wal:
        log.warning(
            "the database has no WAL beside it, as after a restore, a rebuild or a copy. If somebody removed it, the "
            "records acked last are gone from the database; sightlogd verify names what the day logs have of them",
            path=str(store.path),
        )
    if store.schema.foreign:
        log.warning("other programs keep things in the database; they are left alone", objects=store.schema.foreign)
    if config.store.synchronous != "FULL":
        log.warning("synchronous is NORMAL: a power cut may take back records that were acked")
