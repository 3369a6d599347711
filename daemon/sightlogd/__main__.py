"""The `sightlogd` command, and `sightlogd run`. The other commands: `cli`."""

from __future__ import annotations

import argparse
import gc
import os
import resource
import sys
from collections.abc import Sequence
from typing import Final

import sightlog

try:
    import structlog

    from . import config as configuration
    from . import logs
    from .cli import backup, check_config, purge, rebuild, restore, verify
    from .cli.options import add_command
    from .config import Config
    from .errors import EXIT_STORAGE_FULL, Stop
    from .files.durable import UMASK
    from .ingest import Ingest
    from .lock import Lock
    from .storage import Storage
    from .store import Store
except ModuleNotFoundError as error:
    # The base install is the client alone, and brings this command all the same.
    print(f'sightlogd: the daemon needs {error.name}: pip install "sightlog[daemon]"', file=sys.stderr)
    raise SystemExit(78) from error

log = structlog.get_logger()

EXIT_INTERRUPTED: Final = 130

_EXAMPLES: Final = """
examples:
  sightlogd run --config /etc/sightlog/config.toml
  sightlogd run --data-dir ./data --endpoint ipc:///tmp/sightlog.sock
  sightlogd check-config --config config.toml
  sightlogd verify --data-dir /var/lib/sightlog && echo sound
  sightlogd backup /media/stick/sightlog
  sightlogd restore /media/stick/sightlog
  sightlogd purge --dry-run
  sightlogd purge --before 2026-01-01
  sightlogd rebuild --from-logs --data-dir /var/lib/sightlog --output /tmp/events.db

exit codes: 0 clean stop, 28 storage full, 74 I/O error, 77 permission, 78 configuration or schema
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sightlogd",
        description="Writes down once, for good, what the sensors of a camera system saw.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sightlogd {sightlog.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_command(commands, "run", "run in the foreground until SIGTERM or SIGINT", run)
    for module in (check_config, verify, backup, restore, purge, rebuild):
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        config = configuration.load(options.config, os.environ, data_dir=options.data_dir, endpoint=options.endpoint)
        code: int = options.run(config, options)
        return code
    except Stop as stop:
        print(f"sightlogd: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:  # while it starts; later it is a graceful stop
        return EXIT_INTERRUPTED


def run(config: Config, _options: argparse.Namespace) -> int:
    """The daemon, from the lock to the last ack; returns the exit code."""
    logs.set_up(config.log.level)
    os.umask(UMASK)
    # libzmq aborts the process when a connection finds no descriptor.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        lock = Lock(config.data_dir)
        store = _open_store(config)
    except Stop as stop:
        log.error(str(stop), exit_code=stop.exit_code)
        return stop.exit_code
    try:
        _report_start(config, store)
        ingest = Ingest(config, store, lock.tell)
        with ingest.signals():
            try:
                _spare_the_collector()
                log.info("ready", endpoint=config.ingest.endpoint, database=str(store.path))
                exit_code = ingest.serve()
            finally:
                ingest.close()
            store.close()
        log.info("stopped")
    except Stop as stop:
        log.error(str(stop), exit_code=stop.exit_code)
        return stop.exit_code
    finally:
        lock.close()
    return exit_code


def _open_store(config: Config) -> Store:
    """On a disk that is completely full, with the room that was put by for that."""
    try:
        return Store(config.data_dir, config.store.synchronous)
    except Stop as stop:
        storage = Storage(config.data_dir, config.storage)
        if stop.exit_code != EXIT_STORAGE_FULL or not storage.has_ballast():
            raise
        storage.drop_ballast()
        return Store(config.data_dir, config.store.synchronous)


def _spare_the_collector() -> None:
    """What is imported and set up by now lives until the end: it need not be looked at again and again.

    A batch makes some thousand tuples that die with it without cycles; looking for some at every 700 is in vain.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _report_start(config: Config, store: Store) -> None:
    if store.created:
        log.info("made a new database", path=str(store.path))
    elif store.migrated:
        log.info("migrated the database", migrations=[migration.name for migration in store.migrated])
    if store.recovered_bytes:
        log.warning("the last stop was not clean; the WAL was made durable again", bytes=store.recovered_bytes)
    if config.store.synchronous != "FULL":
        log.warning("synchronous is NORMAL: a power cut may take back records that were acked")


if __name__ == "__main__":
    sys.exit(main())
