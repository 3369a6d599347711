"""Kills daemons, producers and commands, at chosen points and at random moments, and checks after each life.

A campaign is a data directory from its first start, or from a migration, to the end: N kills, then all that was
published is delivered, and database, day logs, pictures, reader and backup are compared.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import daylogs
import kill_end
import kill_points
from kill_books import Books, Broken, Cursor, require
from kill_plans import Plan, prepare
from zygote import Process, Zygote, any_ended

from sightlogd.durable import allocated
from sightlogd.errors import EXIT_TRY_AGAIN

MODULES = ("kill_roles",)
"""For the zygote."""
NAMES = ("camera", "detector", "face")
DAYS = 4
"""That events of a campaign with purges are spread over; the last is today."""
CONFIG = """
[ingest]
linger_ms = 2
batch_records_max = 60
[store]
timezone = "UTC"
[storage]
keep_free_gb = 0.0
min_retention_days = 0
purge_share_max = 1.0
storage_check_interval = 20
max_storage_gb = {budget}
[metrics]
metrics_interval = 1
[log]
level = "warning"
slow_commit_ms = 60000
"""


@dataclass
class Tally:
    """Over all campaigns."""

    kills: int = 0
    points: Counter[str] = field(default_factory=Counter)
    """Kills by their own hand, by name of the point."""
    moments: Counter[str] = field(default_factory=Counter)
    """Kills from outside, by who was killed."""
    events: int = 0


class Campaign:
    """One data directory. `sabotage` names a protection that is switched off."""

    def __init__(
        self, zygote: Zygote, home: Path, choose: random.Random, plan: Plan, tally: Tally, sabotage: str | None = None
    ) -> None:
        self._zygote = zygote
        self.home = home
        self._seed = choose.random()
        self._choose = choose
        self.plan = plan
        self.tally = tally
        self._sabotage = sabotage
        self.data_dir = home / "data"
        self._log = home / "log"
        self._config = home / "config.toml"
        self._sockets = tempfile.TemporaryDirectory(prefix="sightlog-")
        self._endpoint = f"ipc://{self._sockets.name}/s"
        self.books = Books(home, NAMES, encoded_too=plan.encodes)
        self._cursor = Cursor(home / "reader.ledger")
        self._daemon: Process | None = None
        self._point, self._is_tight = "", False
        self._producers: dict[str, tuple[Process, str]] = {}
        """With the name of the point at which each is to die."""
        self._commands: list[tuple[Process, str, str]] = []
        """Backups and purges under way: process, point, what it does."""
        self._reader: Process | None = None
        self._began = datetime.now(UTC)
        self._day = self._day_at(0)
        prepare(self.data_dir, plan)
        self._configure("0.05")

    def _configure(self, budget: str) -> None:
        self._config.write_text(CONFIG.format(budget=budget))

    def _day_at(self, share: float) -> str:
        back = DAYS - 1 - int(share * DAYS) if self.plan.purges else 0
        return (self._began - timedelta(days=max(0, back))).date().isoformat()

    # -- processes ---------------------------------------------------------------------------------------------------

    def command(self, *arguments: str, fuse: Any = None) -> Process:
        options = [*arguments, "--config", str(self._config), "--data-dir", str(self.data_dir)]
        call = [options, fuse and (fuse.within, fuse.nth, fuse.how), str(self.books.purges), self._sabotage]
        return self._zygote.start("kill_roles:command", call, self._log)

    def _start_daemon(self, point: str = "", fuse: Any = None, *, tight: bool = False) -> None:
        """`tight`: it has to remove days to keep its budget, or may write nothing."""
        self._point, self._is_tight = point, tight
        used = sum(map(allocated, self.data_dir.rglob("*"))) if tight else 0
        self._configure(f"{used / 10**9 / self._choose.uniform(0.82, 1.02):.6f}" if tight else "0.05")
        self._daemon = self.command("run", "--endpoint", self._endpoint, fuse=fuse)

    def _start_producer(self, name: str, *, armed: bool, count: int | None = None) -> None:
        point, fuse = "", None
        if armed and self._choose.random() < 0.3:
            point, fuse = kill_points.draw(self._choose, kill_points.PRODUCER, kill_points.PRODUCER_CALLS)
        settings = {
            "day": self._day,
            "count": count,
            "pause": self._choose.choice([0.001, 0.003, 0.01]),
            "encoded_too": self.plan.encodes,
            "sabotage": self._sabotage,
        }
        session = self.books.begin_session(name, self._day)
        call = [name, self._endpoint, str(self.home), session, settings, fuse and (fuse.within, fuse.nth, fuse.how)]
        self._producers[name] = self._zygote.start("kill_roles:producer", call, self._log), point

    def _bring_up_producers(self, *, armed: bool) -> None:
        for name in NAMES:
            self._bury_producer(name)
            if name not in self._producers:
                self._start_producer(name, armed=armed)

    def _bury_producer(self, name: str) -> None:
        """If it has ended: only its fuse may be why."""
        if name in self._producers and (code := self._producers[name][0].poll()) is not None:
            _, point = self._producers.pop(name)
            self._died(code, point, name)

    def _died(self, code: int, point: str, who: str) -> None:
        if code == EXIT_TRY_AGAIN and self.plan.purges:
            return  # a purge whose daemon was killed goes on by itself, and has the lock
        require(code == -signal.SIGKILL and point, f"{who} ended with {code}: {self.logged()}")
        self.tally.points[point] += 1
        self.tally.kills += 1

    def _kill(self, process: Process, point: str, who: str) -> None:
        """From outside, unless its fuse was faster."""
        if (code := process.poll()) is not None:
            self._died(code, point, who)
            return
        process.kill()
        code = process.wait()
        require(code == -signal.SIGKILL, f"{who} ended with {code}: {self.logged()}")
        self.tally.moments[who] += 1
        self.tally.kills += 1

    def logged(self) -> str:
        return self._log.read_text()[-2_000:] if self._log.exists() else ""

    def _watch_reader(self) -> None:
        if self._reader is None and all(self.data_dir.joinpath(f"events.db{end}").exists() for end in ("-wal", "-shm")):
            ledger = str(self.home / "reader.ledger")
            call = [str(self.books.database), ledger, NAMES, self.plan.purges, self._sabotage]
            self._reader = self._zygote.start("kill_roles:reader", call, self._log)
        elif self._reader is not None and self._reader.poll() is not None:
            raise Broken(f"the reader ended: {self.logged()}")

    # -- killing -----------------------------------------------------------------------------------------------------

    def run(self, kills: int) -> None:
        """So many more kills, then the end is checked."""
        end = self.tally.kills + kills
        first = self.tally.kills
        number = 0
        while self.tally.kills < end:
            self._day = self._day_at((self.tally.kills - first) / kills)
            self._life(number)
            number += 1
        self.finish()

    def _life(self, number: int) -> None:
        # For each life anew: how many choices there were before depends on who was faster.
        self._choose = choose = random.Random(f"{self._seed} {number}")
        is_calm = number % 8 == 7  # on a slow machine nobody would live long enough to get anything done
        is_armed = not is_calm and choose.random() < 0.75
        if self._daemon is not None and self._is_tight and is_calm:
            self._kill(self._daemon, self._point, "daemon")
            self._daemon = None
        if self._daemon is None:
            point, fuse = self._draw_point(number) if is_armed else ("", None)
            self._start_daemon(point, fuse, tight=self._is_to_be_tight() and not is_calm)
        self._bring_up_producers(armed=not is_calm)
        self._watch_reader()
        if not is_calm:
            self._begin_command()
        if is_calm:
            self._wait_for_acks()
        ended = self._let_it_reach_its_point() if self._point else any_ended([self._daemon], choose.random() * 0.08)
        victims = choose.choice(["daemon", "daemon", "producer", "both"])
        if victims == "producer" and not ended:
            self._kill_producers(choose.sample(NAMES, choose.randint(1, len(NAMES))))
        else:
            self._kill(self._daemon, self._point, "daemon")
            self._daemon = None
            if victims == "both":
                self._kill_producers(choose.sample(NAMES, choose.randint(1, len(NAMES))))
        if self._reader is not None and choose.random() < 0.1:
            self._watch_reader()
            self._kill(self._reader, "", "reader")
            self._reader = None
        self._end_commands()
        if self._daemon is None and self.plan.purges and self.books.is_migrated and choose.random() < 0.15:
            self._purge_without_daemon()
        if choose.random() < 0.5 and self._daemon is None:  # the one that looks may be the first that recovers the WAL
            self.books.check()
        else:
            if self._daemon is None:
                point = self._draw_point(number + 1) if choose.random() < 0.75 else ()
                self._start_daemon(*point, tight=self._is_to_be_tight())
            self.books.check()

    def _is_to_be_tight(self) -> bool:
        return self.plan.purges and self.books.is_migrated and self._choose.random() < 0.2

    def _draw_point(self, number: int) -> tuple[str, Any]:
        points = kill_points
        if self.plan.schema and number < 6:
            return points.draw(self._choose, {"migration": points.MIGRATION})
        tables = [points.RUNNING, points.CALLS]
        if number < 2:
            tables = [points.START]
        elif self._choose.random() < 0.2:
            tables = [{name: point for name, point in points.START.items() if name != "new database"}]
        elif self.plan.purges and self._choose.random() < 0.3:
            tables = [points.PURGING]
        elif self.plan.encodes and self._choose.random() < 0.4:
            tables = [points.ENCODING]
        return points.draw(self._choose, *tables)

    def _let_it_reach_its_point(self) -> bool:
        """Not for so long, but for so many records: on a machine that is busy it gets as far."""
        enough = sum(map(self.books.acked, NAMES)) + 200
        end = time.monotonic() + 1
        while not (ended := any_ended([self._daemon], 0.01)):
            if time.monotonic() > end or sum(map(self.books.acked, NAMES)) > enough:
                break
        return ended

    def _kill_producers(self, names: list[str]) -> None:
        for name in names:
            if name in self._producers:
                process, point = self._producers.pop(name)
                self._kill(process, point, "producer")

    def _wait_for_acks(self) -> None:
        before = {name: self.books.acked(name) for name in NAMES}
        deadline = time.monotonic() + 90
        while any(self.books.acked(name) < before[name] + 6 for name in NAMES):
            require(time.monotonic() < deadline, f"no acks: {self.logged()}")
            if self._daemon is None or self._daemon.poll() is not None:
                if self._daemon is not None:
                    self._died(self._daemon.poll() or 0, self._point, "daemon")
                self._start_daemon()
            self._bring_up_producers(armed=False)
            time.sleep(0.002)

    # -- commands beside the daemon ----------------------------------------------------------------------------------

    def _begin_command(self) -> None:
        choose = self._choose
        if not self.books.is_migrated or len(self._commands) > 1:
            return
        if self.plan.backups and choose.random() < 0.3:
            point, fuse = kill_points.draw(choose, kill_points.COPYING) if choose.random() < 0.6 else ("", None)
            self._commands.append((self.command("backup", str(self.home / "backup"), fuse=fuse), point, "backup"))
        if self.plan.purges and choose.random() < (0.9 if self._point in kill_points.PURGING else 0.1):
            before = choose.choice([self._day, (self._began + timedelta(days=1)).date().isoformat()])
            arguments = ["purge", "--force", "--before", before]
            self._commands.append((self.command(*arguments), "", "purge"))

    def _purge_without_daemon(self) -> None:
        point, fuse = kill_points.draw(self._choose, kill_points.PURGING)
        process = self.command("purge", "--force", "--before", self._day, fuse=fuse)
        if (code := process.wait()) != 0:
            self._died(code, point, "purge")

    def _end_commands(self) -> None:
        """Some go on beside the next daemon."""
        for command in [*self._commands]:
            process, point, what = command
            if (code := process.poll()) is not None:
                self._commands.remove(command)
                if code == -signal.SIGKILL:
                    self._died(code, point, what)
                else:
                    # A purge whose daemon was killed is told so; a second backup into one directory waits its turn.
                    require(code in (0, 74, 75), f"{what} ended with {code}: {self.logged()}")
            elif self._choose.random() < 0.5:
                self._commands.remove(command)
                process.kill()
                code = process.wait()
                if code == -signal.SIGKILL:
                    self.tally.moments[what] += 1
                    self.tally.kills += 1

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """All that was published is stored; logs, pictures and backup have it; the reader has seen it."""
        for process, _, _ in self._commands:
            process.kill()
            process.wait()
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        for name in NAMES:
            self._bury_producer(name)
            if name in self._producers:
                process, _ = self._producers.pop(name)
                process.kill()
                process.wait()
        self._finish_purges()
        self._start_daemon()
        for name in NAMES:
            self._start_producer(name, armed=False, count=1)
        for name in NAMES:
            process, _ = self._producers.pop(name)
            require(process.wait(90) == 0, f"{name} did not deliver: {self.logged()}")
        self.books.check()
        self._until(lambda: not self.books.waits_for_pictures, "pictures are re-encoded", self.books.check)
        self._until(lambda: daylogs.are_marked(self.books.database), "the day logs have caught up")
        self._until(lambda: not self._leaving(), "days are removed")
        self.books.check(delivered=True)
        self._check_reader()
        require(self._daemon is not None, "a daemon")
        self._daemon.kill(signal.SIGTERM)
        require(self._daemon.wait() == 0, f"no clean stop: {self.logged()}")
        self._daemon = None
        kill_end.check(self)
        self.tally.events += len(self.books.ids)

    def _finish_purges(self) -> None:
        """Where room is scarce."""
        if left := self._leaving():
            self._start_daemon(tight=True)
            self._until(lambda: not left & self._leaving(), "a day that was on its way out is gone")
            self._daemon.kill()
            self._daemon.wait()

    def _leaving(self) -> set[str]:
        return {path.name for path in self.data_dir.glob("events/trash/*")}

    def _until(self, condition: Callable[[], bool], what: str, step: Callable[[], None] | None = None) -> None:
        deadline = time.monotonic() + 90
        while not condition():
            require(time.monotonic() < deadline, f"not within 90 s: {what}: {self.logged()}")
            time.sleep(0.01)
            if step is not None:
                step()

    def _check_reader(self) -> None:
        self._watch_reader()
        with closing(sqlite3.connect(f"file:{self.books.database}?mode=ro", uri=True)) as connection:
            last = connection.execute("SELECT max(id) FROM events").fetchone()[0]
        self._until(
            lambda: self._cursor.read()[0] >= last or self._reader.poll() is not None, "the reader has seen all"
        )
        self._watch_reader()
        if not self.plan.purges:
            count = self._cursor.read()[1]
            require(count == len(self.books.ids), f"the reader saw {count} of {len(self.books.ids)}")

    def close(self) -> None:
        processes = [process for process, _ in self._producers.values()] + [process for process, _, _ in self._commands]
        for process in (*processes, self._daemon, self._reader):
            if process is not None:
                process.kill()
                with suppress(AssertionError):
                    process.wait()
        self._sockets.cleanup()
