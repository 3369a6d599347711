"""The steps of an upgrade that know the data, for systemd/install.sh: `python -m sightlogd.cli.upgrade STEP …`.

check   while the old version runs: could this one start here, and is there room for a copy of the database?
keep    with the daemon stopped: a copy of the database, if this version's first start will migrate it
forget  this version has started: the copy goes
undo    it did not start: the database as it was. Exit code 3: it has stored records, and stays
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sightlog.text import printable
from sightlogd import config as configuration
from sightlogd.config import Config
from sightlogd.durable import UMASK
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_STORAGE_FULL, Stop
from sightlogd.service import datadir
from sightlogd.store import DATABASE
from sightlogd.store.lock import Lock
from sightlogd.store.tools import upgrade_copy

STORED_SINCE: Final = 3  # not 1: a Python that cannot load this ends with that
# What the service imports, and what its decoder does in a process of its own.
_PROGRAMS: Final = ("sightlogd.__main__", "sightlogd.service.run", "sightlogd.thumbnails.reencode")


def check(config: Config) -> int:
    for program in _PROGRAMS:
        try:
            importlib.import_module(program)
        except Exception as error:
            raise Stop(EXIT_CONFIG, f"this version cannot be loaded: {program}: {error!r}") from error
    database = config.data_dir / DATABASE
    schema, newest = upgrade_copy.schema_of(database), upgrade_copy.newest_schema()
    if schema > newest:
        raise Stop(
            EXIT_CONFIG,
            f"{database} has schema {schema}, written by a newer sightlog; this one knows up to {newest}. Install the "
            "newer version again, or restore a backup of this one",
        )
    if _migrates(config):
        needed, disk = upgrade_copy.bytes_needed(config.data_dir), os.statvfs(config.data_dir)
        free = disk.f_bavail * disk.f_frsize
        if needed > free:
            raise Stop(
                EXIT_STORAGE_FULL,
                f"this version changes the database (schema {schema} to {newest}), and a copy of {_mb(needed)} is kept "
                f"until it has started; the disk of {config.data_dir} has {_mb(free)} free. Make room there, e.g. with "
                "sightlogd purge",
            )
        print(f"the database is changed from schema {schema} to {newest}; a copy is kept until that has worked")
    return 0


def keep(config: Config) -> int:
    if _migrates(config):
        with _locked(config):
            upgrade_copy.keep(config.data_dir)
    return 0


def forget(config: Config) -> int:
    upgrade_copy.forget(config.data_dir)
    return 0


def undo(config: Config) -> int:
    if not (config.data_dir / upgrade_copy.KEPT).exists():
        return 0
    with _locked(config):
        before = upgrade_copy.schema_of(config.data_dir / upgrade_copy.KEPT)
        if upgrade_copy.schema_of(config.data_dir / DATABASE) == before:
            upgrade_copy.forget(config.data_dir)  # the migration failed, and took back what it did
            return 0
        if upgrade_copy.was_stored_since(config.data_dir):
            return STORED_SINCE
        upgrade_copy.put_back(config.data_dir)
    print(f"the database is again as it was, with schema {before}: nothing was acked since")
    return 0


@contextmanager
def _locked(config: Config) -> Iterator[None]:
    """No daemon has the data directory. Raises Stop."""
    lock = Lock(config.data_dir, "upgrade")
    try:
        yield
    finally:
        lock.close()


def _migrates(config: Config) -> bool:
    return 0 < upgrade_copy.schema_of(config.data_dir / DATABASE) < upgrade_copy.newest_schema()


def _mb(count: int) -> str:
    return f"{count / 10**6:.1f} MB"


def main(arguments: Sequence[str] | None = None) -> int:
    steps = {step.__name__: step for step in (check, keep, forget, undo)}
    parser = argparse.ArgumentParser(prog="python -m sightlogd.cli.upgrade", description=__doc__)
    parser.add_argument("step", choices=steps)
    parser.add_argument("--config", type=Path, required=True)
    options = parser.parse_args(arguments)
    os.umask(UMASK)
    try:
        config = configuration.load(options.config, {})
        if options.step == check.__name__ or not config.data_dir.exists():  # not before the first start
            datadir.check_start(config.data_dir)
        else:
            datadir.check_writable(config.data_dir, may_be_damaged=True)
        return steps[options.step](config)
    except Stop as stop:
        print(f"sightlogd: {printable(str(stop))}", file=sys.stderr)
        return stop.exit_code
    except OSError as error:
        print(f"sightlogd: {error.strerror}: {error.filename}", file=sys.stderr)
        return EXIT_IO_ERROR


if __name__ == "__main__":
    sys.exit(main())
