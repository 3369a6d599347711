"""Lives of a daemon on a disk that fails: `sightlogd run` itself in a process of its own, with producers inside it.

    python tests/torture/lives.py

Reads requests, a line of JSON each, and forks for each of them: what a life leaves is left as when a process dies.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import faults
import made_up
from street import NAMES, Decoder, Producer, Street

from sightlog.errors import SpoolDamaged, SpoolFull
from sightlog.protocol.messages import START, Position
from sightlog.spool.spool import Spool
from sightlogd import config as configuration
from sightlogd.backups.backup import Backup
from sightlogd.backups.restore import Restore
from sightlogd.errors import Stop
from sightlogd.logs import set_up
from sightlogd.recovery import rebuild
from sightlogd.retention import budget
from sightlogd.service import background, loop, run
from sightlogd.store import resolved, store
from sightlogd.store.rows import Written
from sightlogd.thumbnails import pipeline

STEPS_MAX: Final = 600
IDLE_STEPS: Final = 12
"""Turns of the loop after the last ack: the work between batches is done in them."""
TURNS_A_ROUND: Final = 5
"""Instead of a minute."""
BUSY_MAX: Final = 3
"""A lasting fault is over when a producer was told so often that nothing can be written."""
KEPT: Final[list[Any]] = [None]


# -- controls: a protection switched off -----------------------------------------------------------------------------


def _acks_although_writing_failed() -> None:
    write = store.Store.write

    def careless(self: store.Store, chunks: Any, *rest: Any) -> Written:
        try:
            return write(self, chunks, *rest)
        except (loop.WriteRefused, Stop):
            return Written([[] for _ in chunks], [], [], [], [])

    store.Store.write = careless  # type: ignore[method-assign]


def _remembers_the_position() -> None:
    """In the process, and not in the transaction of the records."""
    resolved.count = lambda *_: None


def _goes_on_after_a_failed_fsync() -> None:
    classified = store.Store._classified

    def careless(self: store.Store, error: Any) -> Any:
        outcome = classified(self, error)
        return loop.WriteRefused("io", str(error)) if isinstance(outcome, Stop) else outcome

    store.Store._classified = careless  # type: ignore[method-assign]


def _forgets_pictures_that_failed() -> None:
    def careless(self: pipeline.Thumbnails, _reason: str, _now: float, event_id: str = "") -> None:
        if event_id:
            self._forget(event_id)

    pipeline.Thumbnails._fail = careless  # type: ignore[method-assign]


def _leaves_torn_lines() -> None:
    from sightlogd.daylogs import reconcile, writer

    writer.DayLogs._missed = lambda *_: None  # type: ignore[method-assign]
    reconcile.catch_up = lambda *_: iter(())


CONTROLS: Final = {
    "acks although writing failed": _acks_although_writing_failed,
    "remembers the position": _remembers_the_position,
    "goes on after a failed fsync": _goes_on_after_a_failed_fsync,
    "forgets pictures that failed": _forgets_pictures_that_failed,
    "does not notice what the logs miss": _leaves_torn_lines,
}


# -- what is done in a life ------------------------------------------------------------------------------------------


def _hurry() -> None:
    """Everything that is tried again after some seconds is tried again at once."""
    loop.RETRY_SECONDS = loop.RETRY_SECONDS_MAX = pipeline.RETRY_SECONDS = budget.RETRY_SECONDS = 0.0
    loop.Ingest._wait_ms = lambda *_: 0  # type: ignore[method-assign,assignment]
    loop.Sockets = Street  # type: ignore[misc,assignment]
    pipeline.Child = Decoder  # type: ignore[misc,assignment]


def _forbid(nth: int) -> None:
    """The look at the database's name that follows the `nth` COMMIT."""
    files_now = store.Store._files_now
    left = nth + 1  # the first one is at the start

    def forbidden(self: store.Store) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise PermissionError(errno.EACCES, "Permission denied")
        return files_now(self)

    store.Store._files_now = forbidden  # type: ignore[method-assign]


def live(request: dict[str, Any], fault: faults.Fault) -> dict[str, Any]:
    """`sightlogd run`, until all is acked and nothing is left to do between batches; then SIGTERM."""
    home = Path(request["home"])
    data_dir = home / "data"
    _hurry()
    if request.get("checkpoint"):
        store.WAL_PAGES_CHECKPOINT = request["checkpoint"]
    if request.get("forbidden"):
        _forbid(request["forbidden"])
    if request.get("die"):  # before it found the day logs to be complete
        background.reconcile.catch_up = lambda *_: iter(())  # type: ignore[assignment]
        background.reconcile.mark = lambda *_: None
    producers = tuple(Producer(home, name, request["events"], with_bad=bool(request.get("bad"))) for name in NAMES)
    Street.producers = producers
    result: dict[str, Any] = {"acked_after_failed_fsync": False, "ready": False}

    def acked() -> None:
        result["acked_after_failed_fsync"] |= fault.synced_in_vain

    Street.on_ack = staticmethod(acked)
    step = loop.Ingest.step
    turns = {"all": 0, "idle": 0}
    purged: dict[str, Any] = {"day": request.get("purge")}

    def one(self: loop.Ingest) -> bool:
        result["ready"] = True
        if request.get("killed"):
            KEPT[0] = self._store  # so that nobody closes it, and what a COMMIT that failed wrote stays in the WAL
        turns["all"] += 1
        self._maintain_at = 0.0  # whatever the last turn took: every run is to do the same
        if any(producer.busy >= BUSY_MAX for producer in producers) or turns["all"] == STEPS_MAX // 2:
            fault.cure()
        work = self._maintenance
        if turns["all"] % TURNS_A_ROUND == 0:
            work._round_at = self._next_chores = 0.0
        if purged["day"] and work.budget.counted:
            day = next((day for day in work.budget.old_days(force=True) if day.name == purged["day"]), None)
            purged["day"] = None
            if day is not None:
                work.budget.do(work.budget.purge([day]))
        waits = work.thumbnails._incoming or work.budget.busy or work._catching_up or work.logs.behind or purged["day"]
        turns["idle"] += all(producer.done for producer in producers) and not waits
        if turns["idle"] >= IDLE_STEPS or turns["all"] >= STEPS_MAX:
            if request.get("die"):
                os._exit(9)
            self._stopped_by = signal.SIGTERM
        return step(self)

    loop.Ingest.step = one  # type: ignore[method-assign]
    endpoint = f"ipc://{request['sockets']}/{os.getpid()}"
    config = configuration.load(None, {}, data_dir=str(data_dir), endpoint=endpoint)
    config = configuration.msgspec.structs.replace(
        config,
        storage=configuration.Storage(keep_free_gb=0.0, min_retention_days=7, purge_share_max=1.0),
        log=configuration.Log(slow_commit_ms=60_000),
    )
    result["code"] = run.run(config, lambda: config)
    result["acked"] = all(producer.done for producer in producers)
    result["busy"] = sum(producer.busy for producer in producers)
    result["turns"] = turns["all"]
    return result


def back_up(request: dict[str, Any], _fault: faults.Fault) -> dict[str, Any]:
    home = Path(request["home"])
    said: list[str] = []
    try:
        report = Backup(home / "data", home / "backup", lambda _: None, said.append).run()
    except Stop as stop:
        return {"code": stop.exit_code, "said": str(stop)}
    return {"code": 0 if not report.damage and not report.unreadable else 74, "said": str(report)}


def restore(request: dict[str, Any], _fault: faults.Fault) -> dict[str, Any]:
    home = Path(request["home"])
    target = home / request.get("to", "restored")
    if not target.is_dir():
        target.mkdir()
    put_back = Restore(home / "backup", target, lambda _: None)
    try:
        put_back.run()
    except Stop as stop:
        return {"code": stop.exit_code, "said": str(stop)}
    return {"code": 74 if put_back.damaged else 0, "said": str(put_back.damaged)}


def make_anew(request: dict[str, Any], _fault: faults.Fault) -> dict[str, Any]:
    home = Path(request["home"])
    try:
        rebuild.rebuild_from_logs(home / "data", home / "new.db", lambda *_: None)
    except Stop as stop:
        return {"code": stop.exit_code, "said": str(stop)}
    except OSError as error:
        return {"code": 74, "said": str(error)}
    return {"code": 0}


def spool(request: dict[str, Any], fault: faults.Fault) -> dict[str, Any]:
    """A life of a spool: records go in, some are acked, all are read back. What is in it is told in the ledger."""
    home = Path(request["home"])
    ledger = home / "spool.ledger"
    told = [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []
    accepted = [text for kind, text in told if kind == "P"]
    inside = accepted[sum(kind == "A" for kind, _ in told) :]
    refused = 0

    def tell(kind: str, text: str) -> None:
        with ledger.open("a") as file:
            file.write(f"{kind} {text}\n")

    def insist(work: Callable[[], Any], *expected: type[Exception]) -> Any:
        nonlocal refused
        while True:
            try:
                return work()
            except expected:
                refused += 1
                if refused == BUSY_MAX:
                    fault.cure()

    # In small segments, so that many are begun and given back.
    spool = insist(lambda: Spool(home / "spool", "camera", 20_000), SpoolDamaged)
    read = insist(lambda: _read(spool, START), OSError)
    # A segment is given back as a whole: the daemon says which of its records it has.
    result = {"code": 0, "as_told": len(read) >= len(inside) and read == accepted[len(accepted) - len(read) :]}
    resolved = START
    for number in range(request["events"]):
        text = f"{spool.epoch}-{number}"
        data = text.encode() + b"x" * 900
        position = insist(lambda data=data, acked=resolved: spool.append([(data, b"image")], acked), SpoolFull)
        tell("P", text)
        inside.append(text)
        if number % 4 == 3:
            insist(spool.sync, OSError)
        if number % 8 == 7:
            resolved = position
            with contextlib.suppress(OSError):  # as the publisher does: with the next ack, or where there is no room
                spool.drop_through(resolved)
            for acked in inside:
                tell("A", acked)
            inside = []
    if acked := request["events"] // 8 * 8:
        read = insist(lambda: _read(spool, Position(spool.epoch, acked)), OSError)
        result["as_told"] &= read == inside
    result |= {"lost": spool.lost, "refused": refused}
    if not request.get("die"):
        spool.close()
    return result


def _read(spool: Spool, after: Position) -> list[str]:
    found = []
    while (chunk := spool.read_after(after, 3, 100_000)) is not None:
        found += [record.rstrip(b"x").decode() for record in chunk.records]
        after = Position(chunk.first.epoch, chunk.first.seq + len(chunk.records) - 1)
    return found


WORK: Final = {"live": live, "backup": back_up, "restore": restore, "rebuild": make_anew, "spool": spool}


def _do(request: dict[str, Any]) -> dict[str, Any]:
    home = Path(request["home"])
    log = os.open(home / "daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    set_up("info")
    if request.get("later"):
        made_up.become_later()
    if control := request.get("control"):
        CONTROLS[control]()
    fault = faults.Fault(**request.get("fault", {}), roots=[str(home / root) for root in request["roots"]])
    faults.install(fault)
    result: dict[str, Any] = {}
    try:
        result = WORK[request["work"]](request, fault)
    except Exception:  # noqa: BLE001 - whatever comes out of there would have ended the daemon with a traceback
        result = {"code": 1, "crash": traceback.format_exc()}
    keys = ("operations", "failed", "synced_in_vain")
    return {**result, **{key: value for key, value in asdict(fault).items() if key in keys}}


def main() -> None:
    # A socket's path has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="sightlog-") as sockets:
        for line in sys.stdin:
            print(json.dumps(_fork({**json.loads(line), "sockets": sockets})), flush=True)


def _fork(request: dict[str, Any]) -> dict[str, Any]:
    answer, question = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        text = json.dumps(_do(request)).encode()
        while text:
            text = text[os.write(question, text) :]
        os._exit(0)
    os.close(question)
    parts = []
    while part := os.read(answer, 1 << 16):
        parts.append(part)
    os.close(answer)
    _, status = os.waitpid(pid, 0)
    return json.loads(b"".join(parts)) if parts else {"code": os.waitstatus_to_exitcode(status), "died": True}


if __name__ == "__main__":
    main()
