"""The `sightlogd` command."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Final

import sightlog

try:
    from . import config as configuration
    from . import control, logs, purge_command, service
    from .budget import Budget
    from .config import Config
    from .control import PurgeRequest
    from .errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, Stop, WriteRefused
    from .files.daylog import DayLogs
    from .files.days import EVENTS, Days, folders
    from .files.durable import UMASK
    from .lock import Lock
    from .rebuild import Rebuilt, rebuild_from_logs
    from .storage import Storage
    from .store import DATABASE, Store
    from .store.opening import RESTORE
    from .store.verify import verify
except ModuleNotFoundError as error:
    # The base install is the client alone, and brings this command all the same.
    print(f'sightlogd: the daemon needs {error.name}: pip install "sightlog[daemon]"', file=sys.stderr)
    raise SystemExit(78) from error

EXIT_INTERRUPTED: Final = 130

_EXAMPLES: Final = """
examples:
  sightlogd run --config /etc/sightlog/config.toml
  sightlogd run --data-dir ./data --endpoint ipc:///tmp/sightlog.sock
  sightlogd check-config --config config.toml
  sightlogd verify --data-dir /var/lib/sightlog && echo sound
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
    made = {}
    for name, text in (
        ("run", "run in the foreground until SIGTERM or SIGINT"),
        ("check-config", "check the configuration, print what is in force, and exit"),
        ("verify", "look for damage in the database, while the daemon runs or not; nothing is changed"),
        ("purge", "remove the oldest days until less than 80 percent of the budget is used"),
        ("rebuild", "make a new database from the day folders; the old one is not touched"),
    ):
        command = made[name] = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", type=Path, metavar="FILE", help="config.toml; without it the defaults hold")
        command.add_argument("--data-dir", metavar="DIR", help="beats SIGHTLOG_DATA_DIR and the file")
        command.add_argument("--endpoint", metavar="URL", help="beats SIGHTLOG_ENDPOINT and the file")
    made["purge"].add_argument("--dry-run", action="store_true", help="say which days would go, and remove nothing")
    made["purge"].add_argument(
        "--before",
        type=_day,
        metavar="DAY",
        help="remove all days before this one (YYYY-MM-DD) that may go, however much is used",
    )
    made["purge"].add_argument(
        "--force",
        action="store_true",
        help="also days that the rules keep (min_retention_days, purge_share_max); never today",
    )
    made["rebuild"].add_argument("--from-logs", action="store_true", required=True, help="from events/*/events.json")
    made["rebuild"].add_argument(
        "--output", type=Path, metavar="FILE", help="default: events.db when there is none, else events.rebuilt.db"
    )
    return parser


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a day as 2026-11-20") from None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)

    def load() -> Config:
        return configuration.load(options.config, os.environ, data_dir=options.data_dir, endpoint=options.endpoint)

    try:
        config = load()
        if options.command == "check-config":
            _print(config)
            return 0
        if options.command == "verify":
            return look_for_damage(config)
        if options.command == "rebuild":
            return rebuild(config, options.output)
        if options.command == "purge":
            return purge(config, PurgeRequest(options.dry_run, options.force, options.before))
        return service.run(config, load)
    except Stop as stop:
        print(f"sightlogd: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:  # while it starts; later it is a graceful stop
        return EXIT_INTERRUPTED


def _print(config: Config) -> None:
    for section in config.__struct_fields__:
        print(f"[{section}]")
        table = getattr(config, section)
        for key in table.__struct_fields__:
            value = getattr(table, key)
            print(f"{key} = {json.dumps(value)}")


class _Terminal:
    """Who asked, when there is no daemon to ask."""

    exit_code = EXIT_IO_ERROR  # until it is said how it ended

    def tell(self, text: str) -> None:
        print(text, flush=True)

    def end(self, exit_code: int) -> None:
        self.exit_code = exit_code


def purge(config: Config, request: PurgeRequest) -> int:
    """By the running daemon, or by itself when there is none; returns the exit code. Raises Stop."""
    terminal = _Terminal()
    try:
        code = control.ask(config.data_dir, request, terminal.tell)
    except PermissionError as error:
        raise Stop(
            EXIT_PERMISSION, f"the daemon on {config.data_dir} takes this from its own user and from root only"
        ) from error
    except OSError as error:
        raise Stop(EXIT_IO_ERROR, f"the daemon did not answer: {error}. Look at its log") from error
    if code is not None:
        return code
    if not (config.data_dir / DATABASE).exists():
        raise Stop(EXIT_CONFIG, f"there is no database in {config.data_dir}. Is --data-dir right?")
    _check_owner(config.data_dir)
    logs.set_up("error")
    os.umask(UMASK)
    lock = Lock(config.data_dir)
    try:
        store = Store(config.data_dir, config.store.synchronous)
        days, storage = Days(config.zone()), Storage(config.data_dir, config.storage)
        budget = Budget(config, store, DayLogs(config.data_dir, days, terminal.tell, storage.grew), storage, days)
        for _ in budget.recount():
            pass
        with contextlib.suppress(OSError, WriteRefused):  # told by then
            for _ in purge_command.purge(request, budget, terminal):
                pass
        store.close()
    finally:
        lock.close()
    return terminal.exit_code


def _check_owner(data_dir: Path) -> None:
    """What another user makes in there, root too, the daemon could not write to afterwards. Raises Stop."""
    owner = data_dir.stat().st_uid
    if owner != os.geteuid():
        raise Stop(
            EXIT_PERMISSION,
            f"{data_dir} belongs to another user (uid {owner}). Run this as that user, e.g. with sudo -u",
        )


def look_for_damage(config: Config) -> int:
    """What was found on standard output; returns the exit code. Raises Stop."""
    database = config.data_dir / DATABASE
    if not database.exists():
        raise Stop(EXIT_CONFIG, f"there is no database in {config.data_dir}. Is --data-dir right?")
    found = 0
    for finding in verify(database):
        print(finding, flush=True)
        found += 1
    if not found:
        print(f"{database}: no damage found in its pages, references and the index of texts")
        return 0
    print(f"{database} is damaged. Copy the data directory before anything else; {RESTORE}")
    return EXIT_IO_ERROR


def rebuild(config: Config, output: Path | None) -> int:
    """The new database, and what was found on standard output; returns the exit code."""
    database = config.data_dir / DATABASE
    target = output or (database if not database.exists() else database.with_suffix(".rebuilt.db"))
    if target.exists():
        raise Stop(
            EXIT_CONFIG, f"{target} is there already. Nothing was changed; give another --output, or move it away"
        )
    if not folders(config.data_dir):
        raise Stop(EXIT_CONFIG, f"there are no day folders in {config.data_dir / EVENTS}. Is --data-dir right?")
    lock = None
    if target.absolute().parent == config.data_dir.absolute():
        _check_owner(config.data_dir)
        lock = Lock(config.data_dir)  # a daemon that starts meanwhile would make a database of its own
    terminal = sys.stderr.isatty()

    def progress(day: str, found: Rebuilt) -> None:
        if terminal:
            print(f"\r{day}: {found.days} days", end="", file=sys.stderr, flush=True)

    try:
        found = rebuild_from_logs(config.data_dir, target, progress)
    except OSError as error:
        raise Stop(EXIT_IO_ERROR, f"cannot make {target} from the day folders: {error}. Nothing was changed") from error
    finally:
        if lock is not None:
            lock.close()
        if terminal:
            print(file=sys.stderr)
    print(
        f"{target}: {found.events} events, {found.observations} observations, {found.persons} persons, "
        f"{found.waiting} amendments that wait, from {found.days} days"
    )
    if found.unstored:
        print(f"{found.unstored} of the events came while the database could not be written")
    if found.unreadable:
        print(f"{found.unreadable} lines could not be read and were left out")
    if target != database:
        old = " ".join(f"{database}{ending}" for ending in ("", "-wal", "-shm"))
        print(f"to use it, with sightlogd stopped, as its user:\n  mv {old} /somewhere/safe/\n  mv {target} {database}")
    print("counters of producers begin anew: sightlog status shows as off what they had published before")
    return EXIT_IO_ERROR if found.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
