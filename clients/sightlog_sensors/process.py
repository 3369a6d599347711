"""What every sensor process shares: its options, a clean stop, and one line for an error."""

from __future__ import annotations

import argparse
import logging
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from sightlog import SightlogError

_EPILOG = "exit codes: 0 stopped by SIGTERM or SIGINT, or the source ended; 1 an error, told in one line; 2 wrong usage"


class SensorError(Exception):
    """A sensor cannot do its work; the text says why and what to do."""


class Stop:
    """SIGTERM and SIGINT as a flag that can be waited for. One per process, in its main thread."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Stop:
        self._awake, self._waker = socket.socketpair()
        for end in (self._awake, self._waker):
            end.setblocking(False)
        self._old_waker = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _request(self, _number: int, _frame: object) -> None:
        self.requested = True

    def wait(self, seconds: float | None, *descriptors: int) -> bool:
        """Sleep until a stop is requested, one of `descriptors` is readable or `seconds` passed; True to stop."""
        poller = select.poll()
        for descriptor in (self._awake.fileno(), *descriptors):
            poller.register(descriptor, select.POLLIN)
        if not self.requested:
            poller.poll(None if seconds is None else max(0.0, seconds * 1000))
        return self.requested

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_waker)
        self._awake.close()
        self._waker.close()


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that every publishing sensor takes; `name` is its producer by default."""
    parser = argparse.ArgumentParser(prog=f"python -m sightlog_sensors.{name}", description=description, epilog=_EPILOG)
    parser.add_argument(
        "--endpoint", metavar="URL", help="where sightlogd listens (default: SIGHTLOG_ENDPOINT, else the service's)"
    )
    parser.add_argument("--producer", metavar="NAME", default=name, help=f"durable name of this sensor ({name})")
    parser.add_argument(
        "--spool-dir", type=Path, metavar="DIR", help="where records wait for their ack (default: the user's state)"
    )
    parser.add_argument(
        "--stats", type=Path, metavar="FILE", help="measure publish -> ack, and write counts and times here at the end"
    )
    return parser


def run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    work: Callable[[argparse.Namespace, Stop], None],
) -> int:
    """`work` until it returns; the exit code."""
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        with Stop() as stop:
            work(options, stop)
    except ModuleNotFoundError as error:
        if error.name not in ("cv2", "numpy"):
            raise
        return _fail(parser, f'{error.name} is not installed: pip install "sightlog[sensors]"')
    except (SensorError, SightlogError, OSError) as error:
        return _fail(parser, str(error))
    return 0


def _fail(parser: argparse.ArgumentParser, text: str) -> int:
    print(f"{parser.prog}: {text}", file=sys.stderr)
    return 1
