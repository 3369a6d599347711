"""What all attacks of the lab share: how long they run, their seed, and the row of the table that each leaves behind.

make torture                                                   # the long runs
SIGHTLOG_TORTURE=long .venv/bin/python -m pytest tests/torture/test_kills.py
SIGHTLOG_SEED=7 .venv/bin/python -m pytest tests/torture      # repeats the choices of a run
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

LONG = os.environ.get("SIGHTLOG_TORTURE") == "long"
SEED = int(os.environ.get("SIGHTLOG_SEED", "0")) or random.randrange(1, 2**31)
RESULTS = os.environ.get("SIGHTLOG_RESULTS")
"""Where rows are appended; nowhere when it is not set."""


def often(short: int, long: int) -> int:
    """How often to do something: in `make test`, and in `make torture`."""
    return long if LONG else short


@dataclass
class Attack:
    """One row of the table. A test fills it while it runs; the fixture `attack` writes it down when the test ends.

    A control is an attack with a protection switched off: `what` names the protection, `caught` how many of its `runs`
    showed the loss.
    """

    test: str
    seed: int
    promise: str = ""
    what: str = ""
    runs: int = 0
    unit: str = ""
    control: bool = False
    caught: int = 0
    note: str = ""
    passed: bool = False
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def on(self, promise: str, what: str, unit: str) -> Attack:
        """Say which promise is attacked ("P1, P3"), how, and what `runs` counts ("kills", "crash images")."""
        self.promise, self.what, self.unit = promise, what, unit
        return self

    def without(self, promise: str, protection: str, unit: str) -> Attack:
        """The same for a control: what was switched off."""
        self.control = True
        return self.on(promise, protection, unit)

    def random(self, *more: object) -> random.Random:
        """A generator that the seed and `more` determine."""
        return random.Random(f"{self.seed} {self.test} {more}")

    def end(self, *, passed: bool) -> str:
        """What to print; the row is written, if anybody wants it."""
        self.passed, self.seconds = passed, round(time.monotonic() - self.began, 1)
        if RESULTS and self.promise:
            row = asdict(self)
            del row["began"]
            with Path(RESULTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        caught = f", {self.caught} caught" if self.control else ""
        return f"{self.promise}: {self.what}: {self.runs} {self.unit}{caught}, seed {self.seed}, {self.seconds} s"
