"""`sightlogd purge`: by the running daemon, or by itself when there is none."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Final

from sightlogd import logs
from sightlogd.config import Config
from sightlogd.daylogs.days import unfinished
from sightlogd.daylogs.writer import DayLogs
from sightlogd.durable import UMASK
from sightlogd.errors import EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_TRY_AGAIN, Stop, WriteRefused
from sightlogd.retention.budget import Budget
from sightlogd.retention.purge import finish, kept_files
from sightlogd.retention.usage import Storage
from sightlogd.service import control, datadir, purge_request
from sightlogd.service.control import PurgeRequest
from sightlogd.store import Store
from sightlogd.store.lock import Lock, is_held
from sightlogd.store.tools.offline import StillStore

from .options import add_command, as_owner, check_user

if TYPE_CHECKING:
    from .options import Commands


_TEXT: Final = """
A day goes with its rows, pictures and logs; files of others in its folder stay. First go days that a sensor's
wrong clock put more than a day ahead of the clock here, then the oldest; never today, and without --force none
that is younger than min_retention_days or was written to that recently. The running daemon does it, or this
command when there is none.

examples:
  sightlogd purge --dry-run
  sightlogd purge --before 2026-01-01
  sightlogd purge --day 2099-01-01 --force

exit codes: 0 done, 1 something should go and may not, 28 no room for it, 74 I/O error, 75 another process is in the
way, 77 permission, 78 configuration or schema
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "purge", "remove the oldest days until less than 80 percent of the budget is used", _run, _TEXT
    )
    parser.add_argument("--dry-run", action="store_true", help="say which days would go, and remove nothing")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--before",
        type=_day,
        metavar="DAY",
        help="remove all days before this one (YYYY-MM-DD) that may go, however much is used",
    )
    which.add_argument(
        "--day",
        type=_day,
        metavar="DAY",
        help="remove this day alone (YYYY-MM-DD): one that a sensor's wrong clock made, for example",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also days that the rules keep (min_retention_days, purge_share_max); never today",
    )


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a day as 2026-11-20") from None


class _Terminal:
    """Who asked, when there is no daemon to ask."""

    exit_code = EXIT_IO_ERROR  # until it is said how it ended

    def tell(self, text: str) -> None:
        print(text, flush=True)

    def end(self, exit_code: int) -> None:
        self.exit_code = exit_code


class _Listener(_Terminal):
    """Who waits whether what is said holds."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def tell(self, text: str) -> None:
        self.said.append(text)


def _run(config: Config, options: argparse.Namespace) -> int:
    request = PurgeRequest(options.dry_run, options.force, options.before, options.day)
    terminal = _Terminal()
    check_user(config.data_dir)
    if not datadir.check_writable(config.data_dir):
        raise datadir.no_database(config.data_dir)
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
    logs.set_up("error")
    if request.dry_run:
        with as_owner(config.data_dir):
            return _show(config, request)
    os.umask(UMASK)
    with as_owner(config.data_dir), contextlib.closing(Lock(config.data_dir, "purge")) as lock:
        _purge(config, request, terminal, lock)
    return terminal.exit_code


def _purge(config: Config, request: PurgeRequest, terminal: _Terminal, lock: Lock) -> None:
    """Raises Stop."""
    store = Store(config.data_dir, config.store.synchronous, zone=config.zone(), check_lock=lock.check)
    storage = Storage(config.data_dir, config.storage)
    budget = Budget(config, store, DayLogs(config.data_dir, store, terminal.tell, storage.grew), storage)
    for _ in _finish_interrupted(config, store, terminal):
        pass
    for _ in budget.recount():
        pass
    with contextlib.suppress(OSError, WriteRefused):  # told by then
        for _ in purge_request.purge(request, budget, terminal):
            pass
    store.close()


def _show(config: Config, request: PurgeRequest) -> int:
    """What would go, without a trace: no lock, no file. Returns the exit code. Raises Stop."""
    if is_held(config.data_dir):
        raise Stop(
            EXIT_TRY_AGAIN,
            f"a daemon has {config.data_dir} and does not listen on its {control.NAME}: nobody can tell what would go. "
            "Stop it, or start it again",
        )
    storage = Storage(config.data_dir, config.storage)
    asked = _Listener()
    with contextlib.closing(StillStore(config.data_dir, config.zone())) as store:
        budget = Budget(config, store, DayLogs(config.data_dir, store, asked.tell, storage.grew), storage)
        for leaving in unfinished(config.data_dir):
            asked.tell(f"{leaving.day} is half gone already: that was interrupted, and goes on first")
        try:
            for _ in budget.recount():
                pass
            for _ in purge_request.purge(request, budget, asked):
                pass
        except (OSError, WriteRefused) as error:
            raise Stop(EXIT_IO_ERROR, f"cannot tell what would go: {error}. Look at the disk") from error
        store.check()
    print("\n".join(asked.said))
    return asked.exit_code


def _finish_interrupted(config: Config, store: Store, terminal: _Terminal) -> Iterator[None]:
    """Days on their way out when a daemon, or this command, was killed; in slices. Raises Stop."""
    for leaving in unfinished(config.data_dir):
        try:
            kept = yield from finish(leaving, store)
            terminal.tell(
                f"removed what was left of {leaving.day}: its removal had been interrupted"
                + (f"; {kept_files(kept, leaving.day)}" if kept else "")
            )
        except (OSError, WriteRefused) as error:  # another day may make the room that it takes
            terminal.tell(f"cannot go on with the removal of {leaving.day}: {error}")
