"""Where the output goes: pipes that nobody reads, full disks, closed descriptors; and what is loaded for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SIGHTLOG, environment

from sightlog import Reader


@pytest.mark.parametrize(
    "arguments", [("events",), ("tail", "-f"), ("show", "e01", "-o", "json"), ("status",), ("--help",)]
)
def test_a_reader_that_is_gone_leaves_no_traceback(filled, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [SIGHTLOG, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, env=environment(filled),
        check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_under_the_output_is_told(filled):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [SIGHTLOG, "events"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment(filled), check=False
        )
    assert done.returncode == 74
    assert done.stderr == "sightlog: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("arguments", [("events",), ("show", "e0"), ("export",)], ids=" ".join)
def test_a_closed_standard_output_is_no_traceback(home, arguments):
    done = subprocess.run(
        ["bash", "-c", '"$0" "$@" >&-', SIGHTLOG, *arguments], capture_output=True, env=environment(home), check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


# -- start-up ----------------------------------------------------------------------------------------------------------


def test_reading_imports_neither_zmq_nor_asyncio(filled):
    script = (
        "import sys; from sightlog.cli import main; code = main(['events']); "
        "sys.exit(code or str({'zmq', 'asyncio', 'logging', 'sightlog.publisher.publisher'} & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(filled), check=False
    )
    assert done.stderr.strip() == ""


def test_the_package_gives_every_name_it_promises():
    script = (
        "import sightlog, sys; assert 'zmq' not in sys.modules; "
        "missing = [name for name in sightlog.__all__ if name not in dir(sightlog)]; assert not missing, missing; "
        "from sightlog import *; Publisher, Reader, Receipt, BatchReceipt, InsertResult; "
        "assert not hasattr(sightlog, 'Publishr')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_follow_and_its_cursor_read_by_id(filled):
    """By the site's index they would read the whole site at every commit."""
    with Reader(filled.database) as reader:
        statements: list[str] = []
        reader._connection.set_trace_callback(statements.append)
        events = reader.follow(after=28)
        assert next(events).event_id == "e28"
        reader._connection.set_trace_callback(None)
        query = next(statement for statement in statements if "id > 28" in statement)
        plan = reader._connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    assert any("INTEGER PRIMARY KEY" in row["detail"] for row in plan), [row["detail"] for row in plan]


@pytest.mark.parametrize(
    "command",
    [
        (), ("run",), ("check-config",), ("verify",), ("backup",), ("restore",), ("purge",), ("rebuild",), ("keys",),
        ("keys", "new"), ("keys", "revoke"),
    ],
)  # fmt: skip
def test_the_daemons_help_is_shown(command):
    done = subprocess.run(
        [Path(sys.executable).with_name("sightlogd"), *command, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: sightlogd")
    has_endpoint = "--endpoint URL" in done.stdout
    assert has_endpoint == (command in {("run",), ("check-config",)}), "only of what listens"
