"""The `sightlog` command: reads what is stored, publishes one event, and says how things stand."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Final

from sightlog import __version__
from sightlog.cli.render.terminal import NOBODY_READS, complain
from sightlog.errors import (
    DaemonError,
    DatabaseNotFound,
    NotNow,
    RecordRejected,
    SchemaMismatch,
    SightlogError,
    UsageError,
)

from .options import helper
from .times import is_ago

FAILED: Final = 1
USAGE: Final = 2
IO_ERROR: Final = 74
TRY_AGAIN: Final = 75
NO_PERMISSION: Final = 77
OTHER_SCHEMA: Final = 78
INTERRUPTED: Final = 130
"""As a shell reports a program that SIGINT ended."""

_EXIT_CODES: Final[tuple[tuple[type[SightlogError], int], ...]] = (
    (DatabaseNotFound, FAILED),
    (RecordRejected, FAILED),
    (SchemaMismatch, OTHER_SCHEMA),
    (UsageError, USAGE),
    (NotNow, TRY_AGAIN),
    (DaemonError, IO_ERROR),
)

_VERBS: Final = {
    "events": "events",
    "tail": "events",
    "show": "events",
    "search": "search",
    "similar": "search",
    "stats": "stats",
    "export": "export",
    "status": "status",
    "publish": "publish",
    "demo": "demo",
    "completion": "completion",
}
"""Commands and the module that has them."""

_OF_TIMES: Final = ("-S", "--since", "-U", "--until", "--at")
"""Options whose value may be a time that begins with a dash."""

_EPILOG: Final = """
`sightlog COMMAND --help` has examples and exit codes.

environment:
  SIGHTLOG_DATA_DIR    where the database is (default: /var/lib/sightlog)
  SIGHTLOG_ENDPOINT    where the daemon listens (default: ipc:///run/sightlog/ingest.sock)
  SIGHTLOG_SPOOL_DIR   where publish keeps events without an ack (default: ~/.local/state/sightlog/spool)
  NO_COLOR             when set, no colours
"""


def parser(verbs: Iterable[str] = _VERBS) -> argparse.ArgumentParser:
    """Of the whole command, or of some of its verbs: each loads no more than it needs itself."""
    whole = argparse.ArgumentParser(
        prog="sightlog",
        description="What the cameras saw: list it, follow it, add to it.",
        epilog=_EPILOG,
        formatter_class=helper,
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"sightlog {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for module in dict.fromkeys(_VERBS[verb] for verb in verbs):
        import_module(f"{__name__}.commands.{module}").add_parsers(commands)
    return whole


def _joined(arguments: Sequence[str]) -> Iterator[str]:
    """`--since -2h` as `--since=-2h`: argparse takes what begins with a dash for an option."""
    coming = iter(arguments)
    for argument in coming:
        if argument == "--":
            yield from (argument, *coming)
        elif argument in _OF_TIMES and (value := next(coming, None)) is not None:
            glue = "=" if argument.startswith("--") else ""
            yield from (f"{argument}{glue}{value}",) if is_ago(value) else (argument, value)
        else:
            yield argument


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; raises nothing."""
    if sys.stdout is None:  # closed by the caller; the next file to be opened would have its number
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return NOBODY_READS
    except OSError as error:
        _drop_output()
        what = f"cannot use {error.filename}" if error.filename else "cannot write the output"
        complain(f"{what}: {error.strerror or error}")
        return IO_ERROR
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        verbs = [arguments[0]] if arguments and arguments[0] in _VERBS else _VERBS
        options = parser(verbs).parse_args(list(_joined(arguments)))
        _set_encoding(is_data=getattr(options, "output", None) == "csv")
        code: int = options.run(options)
    except SystemExit as stop:  # argparse's: --help, --version, usage
        return stop.code if isinstance(stop.code, int) else USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except SightlogError as error:
        complain(str(error))
        return _exit_code(error)
    return code


def _set_encoding(*, is_data: bool) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding does not have is no reason to stop, and data has all of them.
        encoding = "utf-8" if is_data and not sys.stdout.isatty() else sys.stdout.encoding
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")


def _exit_code(error: SightlogError) -> int:
    cause = error.__cause__
    # A database that is there and cannot be opened.
    if isinstance(cause, PermissionError) or (isinstance(error, DatabaseNotFound) and cause is not None):
        return NO_PERMISSION
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), FAILED)


def _drop_output() -> None:
    """What is still buffered goes nowhere: the interpreter would fail on it while it shuts down."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
