"""`sightlog status`: whether the daemon runs, and what the store says about everybody who sends to it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sightlog import writer
from sightlog.cli.options import add_command, add_store, database_of, open_reader
from sightlog.cli.render.formats import add_output
from sightlog.cli.render.table import table
from sightlog.cli.render.terminal import Terminal, age, field, json_line, size, terminal
from sightlog.cli.snapshot import Snapshot, accounts, last_snapshot
from sightlog.errors import DatabaseDamaged, DatabaseNotFound, NotNow, SchemaMismatch, SightlogError
from sightlog.protocol.encoding import format_time
from sightlog.protocol.messages import PRODUCERS_MAX
from sightlog.text import printable
from sightlog.writer import RUN, Writer

from .status_metrics import metrics_lines

if TYPE_CHECKING:
    from sightlog.cli.options import Commands
    from sightlog.reader.reader import Reader

RUNNING: Final = 0
NOT_RUNNING: Final = 3
DEAD_LETTERS_SHOWN: Final = 5
_OF_DATABASE: Final = (
    "database", "events", "newest_event", "observations", "producers", "dead_letters", "pending_amendments",
)  # fmt: skip

_TEXT: Final = """
First what matters: whether the daemon runs and can write, how full the storage is, when the last event came. Then, for
every producer, what became of all that it ever published:

  published = stored + dupl. + rejected + spool + lost, and off is what this leaves open: 0 when all is well

dupl. are events that were there already, spool are records still waiting at the producer, lost is what a damaged spool
or a restored database cost. "-": it had told nothing yet at the last snapshot.
Dead letters are records that were not stored; the latest reasons are listed. Figures of the daemon are at most a second
older than what it did last, but for its CPU, memory and bytes written, which are those of its last line of metrics
(metrics.metrics_interval); when it does not run they are those of its last run, and "failed" says why it ended, where
nobody stopped it. All times are of the daemon's clock. -o json has everything.

examples:
  sightlog status
  sightlog status -o json | jq '.producers[] | select(.rejected > 0)'
  sightlog status > /dev/null; [ $? -eq 3 ] && echo "not running"

exit codes: 0 the daemon runs, 3 it does not (as systemctl is-active), 74 the database is damaged, 77 not allowed to
read it
"""


def add_parsers(commands: Commands) -> None:
    parser = add_command(commands, "status", "how the daemon, the store and the producers are", _TEXT, _run)
    add_output(parser, "short", "json")
    add_store(parser)


def daemon_of(data_dir: Path) -> dict[str, Any]:
    """`running`, the daemon's `pid`, `since` when it runs and its `trouble`, why it cannot write now; None where there
    is none. Of a daemon that is gone `failure`: why, where nobody stopped it; `exit_code` is None where it was killed.

    Raises DatabaseNotFound when this user may not look.
    """
    try:
        found = writer.find(data_dir)
        is_running = found is not None and found.verb in (None, RUN)
        gone = None if is_running else found or writer.ended(data_dir)
    except OSError as error:
        raise DatabaseNotFound(
            f"cannot look at {error.filename}: {error.strerror}. Run it as a user of the readers' group"
        ) from error
    daemon = found if found is not None and is_running else Writer()
    return {
        "running": is_running,
        "pid": daemon.pid,
        "since": daemon.since,
        "trouble": daemon.trouble,
        "trouble_since": daemon.trouble_since,
        "failure": _failure(gone) if gone else None,
    }


def _failure(gone: Writer) -> dict[str, Any] | None:
    if gone.failure is not None:
        return gone.failure._asdict()
    if gone.verb != RUN:  # a purge, say
        return None
    trouble = f"; before that it could not write: {gone.trouble}" if gone.trouble else ""
    return {"exit_code": None, "reason": f"killed, or the power was cut{trouble}", "at": None}


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _with_the_newest(metrics: Snapshot, reader: Reader) -> Snapshot:
    """With what was stored within the last second: the table of producers has it too."""
    if "last_id" not in metrics:
        return metrics
    return {**metrics, "events_persisted": metrics["events_persisted"] + reader.stored_after(metrics["last_id"])}


def _read(options: argparse.Namespace, path: Path, found: dict[str, Any]) -> None:
    """What the database says. Raises SightlogError."""
    with open_reader(options) as reader:
        counts = reader.status()
        newest = next(reader.find_events(end=reader.ahead_from(), newest_first=True, limit=1), None)
        producers = reader.producers()
        dead_letters = reader.dead_letters(DEAD_LETTERS_SHOWN)
        if found["metrics"] is not None and found["daemon"]["running"] and _is_of(found["metrics"], found["daemon"]):
            found["metrics"] = _with_the_newest(found["metrics"], reader)
    found["database"] = {
        "path": str(path),
        "bytes": _bytes_of(path),
        "wal_bytes": _bytes_of(path.with_name(f"{path.name}-wal")),
        "schema_version": counts["schema_version"],
    }
    if newest is not None:
        found["newest_event"] = {"event_id": newest.event_id, "recorded_at": format_time(newest.recorded_at)}
    found["events"] = counts["events"]
    found["observations"] = counts["observations"]
    found["producers"] = accounts(found["metrics"], producers)
    found["dead_letters"] = {"counts": counts["dead_letters"], "latest": dead_letters}
    found["pending_amendments"] = counts["pending_amendments"]


def _run(options: argparse.Namespace) -> int:
    """`database` and what is read from it are None while there is none, or none to be read."""
    path = database_of(options)
    found: dict[str, Any] = {
        "daemon": daemon_of(path.parent),
        "site": options.site,
        "metrics": last_snapshot(path.parent),
        **dict.fromkeys(_OF_DATABASE),
    }
    error: SightlogError | None = None
    if path.exists():
        try:
            _read(options, path, found)
        except NotNow:
            pass  # whatever is in the way of a start is in the way of readers too; how the daemon is can be told
        except (DatabaseDamaged, SchemaMismatch) as raised:
            if not (found["metrics"] or {}).get("schema_changes"):  # it says what somebody did, and how to undo it
                error = raised
        except SightlogError as raised:
            error = raised
    if error is None and options.output == "json":
        print(json_line(found))
    elif options.output != "json":
        for line in _lines(found, path, terminal(), datetime.now(UTC)):
            print(line)
    if error is not None:
        raise error
    return RUNNING if found["daemon"]["running"] else NOT_RUNNING


def _ago(text: str, now: datetime) -> str:
    return age(datetime.fromisoformat(text), now)


def _lines(found: Mapping[str, Any], path: Path, to: Terminal, now: datetime) -> Iterator[str]:
    daemon, database = found["daemon"], found["database"]
    metrics = found["metrics"]
    if daemon["running"]:
        process = f" (process {daemon['pid']})" if daemon["pid"] else ""
        mark = "bad" if daemon["trouble"] else "good"
        yield to.render([("● ", mark), ("sightlogd is running", "bold"), (process, "")])
        if daemon["trouble"]:
            yield field("cannot write", f"{daemon['trouble']}; producers keep their records", to, "bad")
    else:
        yield to.render(
            [("○ ", "bad"), ("sightlogd is not running", "bold"), (f" on {printable(str(path.parent))}", "")]
        )
        if failure := daemon["failure"]:
            yield field("failed", _failed(failure, now), to, "bad")
    if database is None:
        state = "cannot be read now" if path.exists() else "is not there; sightlogd makes it at its first start"
        yield field("database", f"{path} {state}", to)
        yield from _strangers(metrics or {}, to)
        return
    if metrics is not None and daemon["running"] and _is_of(metrics, daemon) and (on := metrics.get("volatile")):
        yield field("not durable", f"what is stored is gone when the power is: it is on {on}", to, "bad")
    if metrics is not None and _is_current(metrics, daemon):
        yield from _storage(metrics, to)
    newest = found["newest_event"]
    when = f", the newest {_ago(newest['recorded_at'], now)}" if newest else ""
    yield field("events", f"{found['events']} of site {found['site']}{when}", to)
    if found["observations"]:
        yield field("observations", str(found["observations"]), to)
    if found["producers"]:
        yield ""
        yield from _producers(found["producers"], to, now)
        yield ""
    yield from _details(found, to, now)
    if metrics is not None:
        yield ""
        is_of_now = daemon["running"] and _is_of(metrics, daemon)
        which = "" if is_of_now else "the last run, "
        stale = ", before it could not write" if is_of_now and not _is_current(metrics, daemon) else ""
        yield to.render([(f"figures of {which}{_ago(metrics['at'], now)}{stale}", "dim")])
        yield from metrics_lines(metrics, to)


def _is_of(metrics: Snapshot, daemon: Mapping[str, Any]) -> bool:
    """Whether it is this life of the daemon that took the snapshot: in a container each has the same number."""
    return bool(daemon["pid"] == metrics["pid"] and not _is_before(metrics, daemon["since"]))


def _is_current(metrics: Snapshot, daemon: Mapping[str, Any]) -> bool:
    """Whether nothing happened since that makes it untrue: no start, and no trouble. Without a daemon nothing does."""
    return not daemon["running"] or (_is_of(metrics, daemon) and not _is_before(metrics, daemon["trouble_since"]))


def _is_before(metrics: Snapshot, moment: str | None) -> bool:
    return moment is not None and datetime.fromisoformat(metrics["at"]) < datetime.fromisoformat(moment)


def _failed(failure: Mapping[str, Any], now: datetime) -> str:
    if failure["at"] is None:
        return str(failure["reason"])
    return f"{_ago(failure['at'], now)} with exit code {failure['exit_code']}: {failure['reason']}"


def _storage(metrics: Snapshot, to: Terminal) -> Iterator[str]:
    taken, limit = metrics.get("storage_bytes"), metrics.get("storage_limit_bytes")
    if taken is not None and limit:
        style = "bad" if taken > limit else "warn" if taken >= 0.8 * limit else ""
        yield field("storage", f"{size(taken)} of {size(limit)} ({taken / limit:.0%})", to, style)


def _producers(producers: Sequence[Mapping[str, Any]], to: Terminal, now: datetime) -> Iterator[str]:
    rows = [["producer", "published", "stored", "dupl.", "rejected", "spool", "lost", "off", "last seen"]]
    for producer in producers:
        account = producer["account"]
        published, spooled, lost, off = (
            (str(account[key]) if account else "-") for key in ("published", "spooled", "lost", "difference")
        )
        resolved = (str(producer[key]) for key in ("stored", "duplicates", "rejected"))
        # Without an account this is what is known of losses.
        lost = lost if account else str(producer["missing"])
        rows.append([producer["name"], published, *resolved, spooled, lost, off, _ago(producer["last_seen_at"], now)])
    yield from table(rows, to)


def _strangers(metrics: Snapshot, to: Terminal) -> Iterator[str]:
    """What other programs did to the database."""
    if changes := metrics.get("schema_changes"):
        undo = " ".join(metrics.get("schema_undo") or []) or "no statement undoes it"
        yield field("", f"changed by somebody, the next start refuses it: {printable(', '.join(changes))}", to, "bad")
        yield field("", f"to undo it: {printable(undo)}", to, "bad")
    if objects := metrics.get("foreign_objects"):
        yield field("", f"of other programs: {printable(', '.join(objects))}", to, "warn")


def _details(found: Mapping[str, Any], to: Terminal, now: datetime) -> Iterator[str]:
    database = found["database"]
    yield field("database", database["path"], to)
    wal = size(database["wal_bytes"])
    yield field("", f"{size(database['bytes'])}, WAL {wal}, schema {database['schema_version']}", to)
    if found["daemon"]["running"] and (holders := (found["metrics"] or {}).get("wal_held_by")):
        yield field("", f"the WAL is held up by {printable(', '.join(holders))}", to, "bad")
    if len(found["producers"]) >= PRODUCERS_MAX:
        yield field("producers", f"{len(found['producers']):,} are known, and no new one is taken", to, "bad")
    yield from _strangers(found["metrics"] or {}, to)
    if found["pending_amendments"]:
        yield field("amendments", f"{found['pending_amendments']} wait for their event", to, "warn")
    dead = found["dead_letters"]
    counts = ", ".join(f"{count} {status}" for status, count in dead["counts"].items())
    yield field("dead letters", counts or "none", to, "warn" if counts else "")
    for letter in dead["latest"]:
        who = printable(letter["producer"] or letter["producer_id"])
        text = f"    {_ago(letter['received_at'], now)}  {who}  {letter['status']}: {printable(letter['reason'])}"
        yield to.render([(text, "")])
