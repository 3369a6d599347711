"""Runs verbs of both commands, each by its own `main` in a forked child, which takes a tenth of a new interpreter.

As a program it reads a JSON list of argument lists from standard input, and writes one of [code, stdout, stderr].
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SECONDS_MAX = 30


class Done(NamedTuple):
    """`code` is negative when a signal ended it: -SIGALRM after SECONDS_MAX."""

    arguments: list[str]
    code: int
    stdout: str
    stderr: str


def run(jobs: Sequence[Sequence[object]], **environment: str) -> list[Done]:
    """Each job is a command's name and its arguments."""
    texts = [[str(argument) for argument in job] for job in jobs]
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(texts), capture_output=True, text=True, check=True,
        env={**os.environ, "TZ": "Europe/Zurich", **environment}, timeout=SECONDS_MAX * len(texts) + 60,
    )  # fmt: skip
    return [Done(text, *outcome) for text, outcome in zip(texts, json.loads(done.stdout), strict=True)]


def assert_explained(done: Done) -> None:
    """It worked, or said what kept it from working; no traceback either way. `sightlog` has 1 for nothing found."""
    said = f"{done.arguments}: {done.code}\n{done.stderr[-3_000:]}"
    assert "Traceback" not in done.stderr, said
    assert done.code >= 0, said
    assert not _controls(done.stderr), said
    if done.code > (done.arguments[0] == "sightlog"):
        assert done.stderr.strip() or done.stdout.strip(), said


_controls = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]").search


def tree(directory: Path) -> dict[str, bytes]:
    """All files but what SQLite makes for readers that may write there: the index of the WAL, and an empty WAL."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    found = {str(path.relative_to(directory)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if data or not name.endswith("-wal")}


def _child(job: list[str], out: int, err: int) -> int:
    from sightlog.cli import main as sightlog
    from sightlogd.__main__ import main as sightlogd

    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.argv = job
    signal.alarm(SECONDS_MAX)
    try:
        code = {"sightlog": sightlog, "sightlogd": sightlogd}[job[0]](job[1:])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001 - told as the interpreter would
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def _forked(job: list[str]) -> tuple[int, str, str]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _child(job, out.fileno(), err.fileno())
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
        return code, *texts


def _load() -> None:
    """What the children need, once."""
    import gc
    import importlib

    import sightlogd.__main__  # noqa: F401
    from sightlog import cli

    for module in set(cli._VERBS.values()):
        importlib.import_module(f"sightlog.cli.commands.{module}")
    gc.freeze()


if __name__ == "__main__":
    _load()
    print(json.dumps([_forked(job) for job in json.load(sys.stdin)]))
    sys.exit(0)
