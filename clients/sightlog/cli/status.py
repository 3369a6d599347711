"""`sightlog status`: whether the daemon runs, and what the store says about everybody who sends to it."""

from __future__ import annotations

import argparse
import fcntl
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sightlog.encoder import format_time
from sightlog.errors import DatabaseNotFound

from .options import add_command, add_output, add_store, database_of, open_reader
from .output import Terminal, age, json_line, printable, size, table, terminal

if TYPE_CHECKING:
    from .options import Commands

RUNNING: Final = 0
NOT_RUNNING: Final = 3
DEAD_LETTERS_SHOWN: Final = 5

_TEXT: Final = """
Says whether the daemon runs, what the database holds and takes, and for every producer: records stored, duplicates,
rejected ones, those missing (the producer lost them, or a database was restored), and when it last got one stored.
Dead letters are records that were not stored; the latest reasons are listed. All times are of the daemon's clock.

examples:
  sightlog status
  sightlog status -o json | jq '.producers[] | select(.rejected > 0)'
  sightlog status > /dev/null; [ $? -eq 3 ] && echo "not running"

exit codes: 0 the daemon runs, 3 it does not (as systemctl is-active), 74 the database is damaged, 77 not allowed to
read it
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "status", "how the daemon, the store and the producers are", _TEXT, _run)
    add_output(parser)
    add_store(parser)


def daemon_of(data_dir: Path) -> dict[str, Any]:
    """`running`, the daemon's `pid` and its `trouble`, why it cannot write now; both None when there is none.

    Raises DatabaseNotFound when the lock may not be read.
    """
    try:
        fd = os.open(data_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return {"running": False, "pid": None, "trouble": None}
    except OSError as error:
        raise DatabaseNotFound(
            f"cannot look at {data_dir / 'lock'}: {error.strerror}. Run it as a user of the readers' group"
        ) from error
    try:
        # A daemon that starts at this very moment tries again for two seconds.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid, _, trouble = os.read(fd, 4096).decode(errors="replace").partition("\n")
        return {"running": True, "pid": int(pid) if pid.isdigit() else None, "trouble": trouble or None}
    finally:
        os.close(fd)
    return {"running": False, "pid": None, "trouble": None}


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def collect(options: argparse.Namespace) -> dict[str, Any]:
    """What `-o json` prints. `database` and what is read from it are None while there is no database."""
    path = database_of(options)
    found: dict[str, Any] = {
        "daemon": daemon_of(path.parent),
        "site": options.site,
        **dict.fromkeys(("database", "events", "newest_event", "producers", "dead_letters", "pending_amendments")),
    }
    if not path.exists():
        return found
    with open_reader(options) as reader:
        counts = reader.status()
        newest = next(reader.find_events(newest_first=True, limit=1), None)
        producers = reader.producers()
        letters = reader.dead_letters(DEAD_LETTERS_SHOWN)
    found["database"] = {
        "path": str(path),
        "bytes": _bytes_of(path),
        "wal_bytes": _bytes_of(path.with_name(f"{path.name}-wal")),
        "schema_version": counts["schema_version"],
    }
    if newest is not None:
        found["newest_event"] = {"event_id": newest.event_id, "recorded_at": format_time(newest.recorded_at)}
    found["events"] = counts["events"]
    found["producers"] = producers
    found["dead_letters"] = {"counts": counts["dead_letters"], "latest": letters}
    found["pending_amendments"] = counts["pending_amendments"]
    return found


def _run(options: argparse.Namespace) -> int:
    found = collect(options)
    if options.output == "json":
        print(json_line(found))
    else:
        for line in _lines(found, database_of(options), terminal(), datetime.now(UTC)):
            print(line)
    return RUNNING if found["daemon"]["running"] else NOT_RUNNING


def _ago(text: str, now: datetime) -> str:
    return age(datetime.fromisoformat(text), now)


def _field(name: str, text: str, to: Terminal, style: str = "") -> str:
    return to.render([(f"  {name:<14}", "dim"), (printable(text), style)])


def _lines(found: Mapping[str, Any], path: Path, to: Terminal, now: datetime) -> Iterator[str]:
    daemon, database = found["daemon"], found["database"]
    if daemon["running"]:
        process = f" (process {daemon['pid']})" if daemon["pid"] else ""
        mark = "bad" if daemon["trouble"] else "good"
        yield to.render([("● ", mark), ("sightlogd is running", "bold"), (process, "")])
        if daemon["trouble"]:
            yield _field("cannot write", f"{daemon['trouble']}; producers keep their records", to, "bad")
    else:
        yield to.render(
            [("○ ", "bad"), ("sightlogd is not running", "bold"), (f" on {printable(str(path.parent))}", "")]
        )
    if database is None:
        yield _field("database", f"none at {path}; sightlogd makes it at its first start", to)
        return
    yield _field("database", database["path"], to)
    wal = size(database["wal_bytes"])
    yield _field("", f"{size(database['bytes'])}, WAL {wal}, schema {database['schema_version']}", to)
    newest = found["newest_event"]
    when = f", the newest {_ago(newest['recorded_at'], now)}" if newest else ""
    yield _field("events", f"{found['events']} of site {found['site']}{when}", to)
    if found["pending_amendments"]:
        yield _field("amendments", f"{found['pending_amendments']} wait for their event", to, "warn")
    letters = found["dead_letters"]
    counts = ", ".join(f"{count} {status}" for status, count in letters["counts"].items())
    yield _field("dead letters", counts or "none", to, "warn" if counts else "")
    for letter in letters["latest"]:
        who = printable(letter["producer"] or letter["producer_id"])
        text = f"    {_ago(letter['received_at'], now)}  {who}  {letter['status']}: {printable(letter['reason'])}"
        yield to.render([(text, "")])
    if found["producers"]:
        columns = ("stored", "duplicates", "rejected", "missing")
        rows = [["producer", *columns, "last seen"]]
        for producer in found["producers"]:
            counters = (str(producer[column]) for column in columns)
            rows.append([producer["name"], *counters, _ago(producer["last_seen_at"], now)])
        yield ""
        yield from table(rows, to)
