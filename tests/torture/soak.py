"""A soak: sensors at 50 events/s, readers, kills and purges at random, for hours; nothing is lost, and nothing grows.

    PYTHONPATH=tests .venv/bin/python tests/torture/soak.py HOURS [--output DIR] [--seed N]

It ends with a verdict: exit 0 when the ledgers hold, the day logs say what the database says, and memory, descriptors
and WAL are flat within stated bounds. DIR gets soak.png and soak.json. In the second half the daemon, one sensor and
the reader are left alone, because what is judged has to live; everything else goes on. Ctrl-C ends it sooner, and what
there is by then is evaluated.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pictures
import soak_plot
import soak_sensor
from soak_check import Loss, check, removed_days
from soak_samples import Cpu, Sample, Tail, children_of, latencies, of_process, size_of
from soak_verdict import Growth, growth

RATE = 50.0
"""Events a second, of all sensors together."""
SENSORS = ("camera", "detector", "face", "lock")
SPARED = SENSORS[0]
DAY_SECONDS_MAX = 30.0
BUDGET = 30_000_000
CONFIG = f"""
[store]
timezone = "UTC"
[storage]
max_storage_gb = {BUDGET / 1e9}
keep_free_gb = 0.0
min_retention_days = 0
purge_share_max = 1.0
[metrics]
metrics_interval = 10
"""
END_SECONDS = 180
"""That everything may take to be delivered when the time is over."""
SAMPLES_CALM = 10
"""That are wanted at least from when what is judged is left alone."""
ABSENT = {"status": 3, "purge": 75}
"""What commands end with while the daemon is not there, or just starts."""
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


class Step(NamedTuple):
    at: float
    what: str
    """kill or purge"""
    victims: tuple[str, ...] = ()


def plan(seconds: float, chance: random.Random) -> list[Step]:
    """What is done when."""
    gap = min(210.0, max(1.5, seconds / 12))
    steps, at = [], 0.0
    while (at := at + gap * chance.uniform(0.6, 1.4)) < seconds * 0.95:
        if at < seconds / 2:
            sensor = chance.choice(SENSORS)
            steps.append(Step(at, "kill", chance.choice([("daemon",), (sensor,), ("daemon", sensor)])))
        else:
            steps.append(Step(at, "kill", (chance.choice(SENSORS[1:]),)))
    at = 0.0
    while (at := at + gap * chance.uniform(0.8, 2.0)) < seconds * 0.95:
        steps.append(Step(at, "purge"))
    return sorted(steps)


class Soak:
    """`run` once, then `evaluate`. `daemon` is the program, and what comes before its own arguments."""

    def __init__(self, seconds: float, seed: int, home: Path, daemon: Sequence[str] = ("-m", "sightlogd")) -> None:
        self.seconds, self.seed, self.home = seconds, seed, home
        self.samples: list[Sample] = []
        self.marks: list[dict[str, Any]] = []
        self.published = self.acked = 0
        self.failures: list[str] = []
        self._daemon = daemon
        self._chance = random.Random(f"soak {seed}")
        self._plan = plan(seconds, self._chance)
        self._day_seconds = min(DAY_SECONDS_MAX, max(0.3, seconds / 20))
        self.interval = min(10.0, max(0.25, seconds / 600))
        self._socket_dir = tempfile.TemporaryDirectory(prefix="sightlog-")
        self._endpoint = f"ipc://{self._socket_dir.name}/s"
        self.data_dir = home / "data"
        self.ledgers = {name: home / f"{name}.ledger" for name in SENSORS}
        self._tails = [Tail(path) for path in self.ledgers.values()]
        self._cpu = {"daemon": Cpu(), "sensors": Cpu()}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._passing: list[tuple[str, subprocess.Popen[bytes], float]] = []
        """Commands that end by themselves, and when they were begun."""
        self._killed_at = 0.0
        self._acked_when_killed = 0
        self.calm_from: float | None = None
        """Since when the daemon, SPARED and the reader are left alone, and records are acked."""
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(CONFIG)
        (home / "pictures").mkdir()
        for number in range(16):
            (home / "pictures" / f"{number:02}").write_bytes(pictures.jpeg_of(2_000 + 100 * number))
        (home / "pictures" / "16").write_bytes(pictures.png())

    # -- processes ---------------------------------------------------------------------------------------------------

    def _popen(self, name: str, *command: object) -> subprocess.Popen[bytes]:
        """In a session of its own: Ctrl-C is for the soak alone."""
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, start_new_session=True)

    def _start(self, name: str) -> None:
        config = ("--config", self.home / "config.toml", "--data-dir", self.data_dir)
        if name == "daemon":
            command: tuple[object, ...] = (*self._daemon, "run", *config, "--endpoint", self._endpoint)
        elif name == "reader":
            command = (HERE / "soak_reader.py", self.data_dir / "events.db", self.home / "followed")
        else:
            command = (
                HERE / "soak_sensor.py", self._endpoint, self.home / "spool", name, self.ledgers[name],
                self.home / "pictures", RATE / len(SENSORS), self._day_seconds, self._began_at,
                self.home / "stop",
            )  # fmt: skip
        self._processes[name] = self._popen(name, sys.executable, *command)

    def _kill(self, names: Sequence[str]) -> None:
        for name in names:
            self._processes[name].kill()
        for name in names:
            self._processes[name].wait()
            if name == "daemon":
                self._killed_at = time.monotonic()
                latencies(self._tails, self._count)
                self._acked_when_killed = self.acked
            self._start(name)

    def _purge(self) -> None:
        if any(name == "purge" for name, _, _ in self._passing):
            return
        now = soak_sensor.moment(time.time() - self._began_at, self._day_seconds)
        before = now - timedelta(days=self._chance.randrange(4))
        command = ("purge", "--before", f"{before:%Y-%m-%d}", "--force", "--config", self.home / "config.toml")
        self._pass("purge", BIN / "sightlogd", *command, "--data-dir", self.data_dir)

    def _pass(self, name: str, *command: object) -> None:
        self._passing.append((name, self._popen(name, *command), time.monotonic()))

    def _look_at_processes(self) -> None:
        """Who ended without being killed."""
        for name, process, began in list(self._passing):
            if (code := process.poll()) is not None:
                self._passing.remove((name, process, began))
                # A daemon that was killed meanwhile gives no answer; one that starts is not asked yet.
                if code not in (0, ABSENT[name]) and began > self._killed_at:
                    self.failures.append(f"{name} ended with {code}: see {self.home}/{name}.log")
        for name, process in self._processes.items():
            if (code := process.poll()) is not None:
                is_locked_out = name == "daemon" and code == 75 and self._passing  # by a purge without a daemon
                if not is_locked_out:
                    self.failures.append(f"{name} ended by itself with {code}: see {self.home}/{name}.log")
                self._start(name)

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(self, show: Any = lambda _: None) -> None:
        """Until the time is over, or KeyboardInterrupt; raises nothing for that."""
        self._began_at, began = time.time(), time.monotonic()
        for name in ("daemon", *SENSORS, "reader"):
            self._start(name)
        steps, sample_at, status_at = list(self._plan), 0.0, 0.0
        try:
            while not self._is_over(now := time.monotonic() - began):
                self._look_at_processes()
                if len(self.failures) > 20:
                    break
                if steps and steps[0].at <= now:
                    step = steps.pop(0)
                    self.marks.append({"at": round(now, 2), "what": step.what, "victims": step.victims})
                    self._purge() if step.what == "purge" else self._kill(step.victims)
                if now >= sample_at:
                    sample_at = now + self.interval
                    self.samples.append(self._sample(round(now, 2)))
                    if self.calm_from is None and now >= self.seconds / 2 and self.acked > self._acked_when_killed:
                        self.calm_from = now
                        self.seconds = max(self.seconds, now + self.seconds / 2)
                    show(self.progress(now))
                if now >= status_at and (self.data_dir / "events.db").exists():
                    status_at = now + max(2.0, 3 * self.interval)
                    self._pass("status", BIN / "sightlog", "status", "--data-dir", self.data_dir)
                time.sleep(min(0.1, self.interval / 4))
        except KeyboardInterrupt:
            self.seconds = time.monotonic() - began

    def _is_over(self, now: float) -> bool:
        """On a machine that is busy with other things it takes longer until there is something to judge."""
        is_judged = self.calm_from is not None and self.samples[-SAMPLES_CALM:][0]["at"] >= self.calm_from
        return now >= self.seconds + (0 if is_judged else END_SECONDS)

    def _sample(self, at: float) -> Sample:
        there = {name: of_process(process.pid) for name, process in self._processes.items()}
        sensors = [one for name in SENSORS if (one := there[name])]
        decoders = [one for child in children_of(self._processes["daemon"].pid) if (one := of_process(child))]
        sample: Sample = {"at": at, "daemon": there["daemon"], "sensor": there[SPARED], "reader": there["reader"]}
        sample["decoder"] = sum(one["memory"] for one in decoders)
        sample["sensors"] = sum(one["memory"] for one in sensors)
        daemons = [one for one in (there["daemon"], *decoders) if one]
        sample["cpu"] = {
            "daemon": self._cpu["daemon"].share(daemons, at),
            "sensors": self._cpu["sensors"].share(sensors, at),
        }
        database = self.data_dir / "events.db"
        sample["store"] = {
            "database": size_of(database) / 1e6,
            "wal": size_of(Path(f"{database}-wal")) / 1e6,
            "all": size_of(self.data_dir) / 1e6,
            "spool": size_of(self.home / "spool") / 1e6,
        }
        sample["latency"] = latencies(self._tails, self._count)
        sample["published"], sample["acked"] = self.published, self.acked
        return sample

    def _count(self, published: int, acked: int) -> None:
        self.published += published
        self.acked += acked

    @property
    def kills(self) -> int:
        return sum(len(mark["victims"]) for mark in self.marks)

    @property
    def purges(self) -> int:
        return sum(mark["what"] == "purge" for mark in self.marks)

    def progress(self, now: float) -> str:
        last = self.samples[-1]
        daemon = (
            "starting" if last["daemon"] is None else "{memory:.0f} MB, {descriptors} files".format(**last["daemon"])
        )
        return (
            f"{clock(now)} of {clock(self.seconds)}, {clock(self.seconds - now)} to go: {self.acked:,} events acked; "
            f"daemon {daemon}; WAL {last['store']['wal']:.1f} MB; {self.kills} kills, {self.purges} purges"
            + (f"; {len(self.failures)} FAILURES" if self.failures else "")
        )

    # -- the end -----------------------------------------------------------------------------------------------------

    def evaluate(self) -> list[Growth]:
        """Everything is delivered and stopped; what is wrong is in `failures`. Returns what grew by how much."""
        try:
            self._finish()
            check(self.home, self.ledgers)
        except (Loss, AssertionError, subprocess.TimeoutExpired) as error:
            self.failures.append(str(error))
        found: list[Growth] = []
        try:
            if self.calm_from is not None:
                found = growth(self.samples, self.calm_from)
        except ValueError as error:
            self.failures.append(str(error))
        self.failures += [str(one) for one in found if not one.is_flat]
        if (most := max(sample["store"]["all"] for sample in self.samples)) > BUDGET / 1e6:
            self.failures.append(f"the data directory had {most:.1f} MB, and the budget is {BUDGET / 1e6:.0f}")
        return found

    def _finish(self) -> None:
        (self.home / "stop").touch()
        deadline = time.monotonic() + END_SECONDS
        for name in SENSORS:
            if code := self._processes[name].wait(max(0.1, deadline - time.monotonic())):
                raise Loss(f"{name} ended with {code} instead of delivering what it has: see {self.home}/{name}.log")
        for _, process, _ in self._passing:
            process.wait(END_SECONDS)
        while left := [path for name in ("trash", "incoming") for path in (self.data_dir / "events" / name).glob("*")]:
            if time.monotonic() > deadline:
                raise Loss(f"the daemon does not get done with {left[0]}: see {self.home}/daemon.log")
            time.sleep(0.1)
        daemon = self._processes["daemon"]
        daemon.send_signal(signal.SIGTERM)
        if code := daemon.wait(END_SECONDS):
            raise Loss(f"the daemon ended with {code} when it was stopped: see {self.home}/daemon.log")

    def close(self) -> None:
        for process in [*self._processes.values(), *(process for _, process, _ in self._passing)]:
            process.kill()
            process.wait()
        self._socket_dir.cleanup()

    def summary(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1), "seed": self.seed, "rate": RATE, "budget_mb": BUDGET / 1e6,
            "published": self.published, "acked": self.acked, "kills": self.kills, "purges": self.purges,
            "days_removed": len(removed_days(self.home)),
            "calm_from": self.calm_from, "failures": self.failures, "marks": self.marks, "samples": self.samples,
        }  # fmt: skip


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class Progress:
    """One line that is written over at a terminal; elsewhere a line a minute."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            room = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:room].ljust(room)}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + 60
            print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="What it does is at the top of this file.")
    parser.add_argument("hours", type=float, nargs="?", default=0.1)
    parser.add_argument("--output", type=Path, default=Path("demo-data/soak"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 2**31))
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="sightlog-soak-"))
    print(f"seed {options.seed}; the store is in {home}; Ctrl-C ends it sooner and evaluates")
    soak = Soak(options.hours * 3600, options.seed, home)
    try:
        soak.run(Progress())
        print("\ntime is over: delivering, stopping, comparing ledgers, database and day logs", flush=True)
        found = soak.evaluate()
    finally:
        soak.close()
    options.output.mkdir(parents=True, exist_ok=True)
    summary = soak.summary()
    (options.output / "soak.json").write_text(json.dumps(summary))
    soak_plot.plot(summary, found, options.output / "soak.png")
    print(*(found or ["growth was not judged: it was ended in its first half"]), sep="\n")
    done = f"{soak.kills} kills, {soak.purges} purges, {summary['days_removed']} days removed"
    print(f"{soak.published:,} published, {done}; {options.output}/soak.png")
    if soak.failures:
        print("FAILED", *soak.failures, f"kept: {home}", sep="\n  ")
        return 1
    shutil.rmtree(home)
    grows = "; all growth within its bounds" if found else ""
    print(f"passed: nothing lost, nothing twice, in order; day logs and database say the same{grows}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
