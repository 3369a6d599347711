"""`sightlog demo`: daemon, camera, detector, face recogniser and lock on one video, and live what gets stored."""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightlog.cli.options import add_command
from sightlog.cli.render.terminal import Span, complain, local, terminal
from sightlog.errors import SightlogError, SpoolInUse, UsageError
from sightlog.protocol.endpoint import IPC_PATH_BYTES_MAX
from sightlog.publisher.publisher import Publisher
from sightlog.reader.reader import Reader
from sightlog.records import Event
from sightlog.text import printable
from sightlog.writer import DATABASE

from .demo_report import Producers, print_status_line, print_tally

if TYPE_CHECKING:
    from sightlog.cli.options import Commands

LIVE_SECONDS: Final = 30.0
START_SECONDS: Final = 15.0
STOP_SECONDS: Final = 10.0
DRAIN_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 0.1
COOLDOWN_SECONDS: Final = 1.5
RECENT_EVENTS: Final = 50
LOG_LINES: Final = 10
SENSORS: Final = ("camera", "detector", "face", "lock")
"""In the order of the data."""
NEEDED: Final = ("cv2", "numpy", "apsw", "msgspec", "structlog")
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>

_TEXT: Final = """
Everything is kept in the data directory: the store, the sensors' spools, and logs/ with a log for each process.
"ack" is the time from publish() to the ack. The lock publishes urgently; other records wait for company
(ingest.linger_ms).

examples:
  sightlog demo
  sightlog demo --source visitors.mp4
  sightlog demo --source rtsp://user:password@192.168.1.20/stream --duration 600

exit codes: 0 every published record is accounted for; 1 it is not, or a process failed; 2 wrong usage
"""


class ProcessFailed(SightlogError):
    """A process of the demo ended before its time, or not cleanly. `said` are the last lines of its log."""

    def __init__(self, text: str, said: list[str]) -> None:
        super().__init__(text)
        self.said = said

    def tell(self) -> None:
        complain(str(self))
        for line in self.said:
            print(f"  {printable(line)}", file=sys.stderr)


def add_parsers(subparsers: Commands) -> None:
    parser = add_command(subparsers, "demo", "run sensors, daemon and reader on a video", _TEXT, run)
    parser.add_argument(
        "--source", help="a video file, rtsp://…, /dev/videoN or picamera2 (default: a drawn clip of two visitors)"
    )
    parser.add_argument(
        "--duration", type=_seconds, metavar="SECONDS", help="default: until the file ends; 30 for live sources"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path("demo-data"), metavar="DIR", help="default: ./demo-data; is used again"
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0 seconds")
    return value


def run(options: argparse.Namespace) -> int:
    """The exit code. Raises SightlogError, OSError."""
    if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        complain(f'the demo needs {", ".join(absent)}: pip install "sightlog[daemon,sensors]"')
        return 1
    with _Stop() as stop, ExitStack() as stack:
        try:
            return _Demo(options, stop, stack).run()
        except ProcessFailed as failure:
            failure.tell()
            return 1


class _Stop:
    """SIGINT, SIGTERM and SIGHUP as a flag."""

    requested = False

    def __enter__(self) -> _Stop:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._old = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def _request(self, _number: int, _frame: object) -> None:
        self.requested = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


class _Child:
    """A process that ends with this one, however this one ends. Its output goes to `log`."""

    def __init__(self, name: str, log: Path, *arguments: str | Path) -> None:
        self.name = name
        self._log = log
        parent = os.getpid()
        prctl = ctypes.CDLL(None).prctl

        def end_with_parent() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it ended before the call
                os._exit(1)

        with log.open("ab") as output:
            self._log_begins = output.tell()
            # Its own process group: Ctrl-C in the terminal reaches the demo alone, which stops the sensors first.
            self._process = subprocess.Popen(
                [sys.executable, "-m", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
                preexec_fn=end_with_parent,
            )

    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._process.poll()

    def stop(self) -> int:
        """SIGTERM, and SIGKILL when that takes too long; returns the exit code. Does nothing to one that has ended."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def stop_cleanly(self) -> None:
        """Raises ProcessFailed when it did not end with exit code 0. SIGTERM before it had begun its work is clean."""
        if self.stop() not in (0, -signal.SIGTERM):
            raise self.failure()

    def failure(self) -> ProcessFailed:
        with self._log.open("rb") as log:
            log.seek(self._log_begins)
            said = log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        code = self._process.poll()
        how = "does not answer" if code is None else f"ended with exit code {code}"
        return ProcessFailed(f"{self.name} {how}; the end of {self._log}:", said)


class _Demo:
    def __init__(self, options: argparse.Namespace, stop: _Stop, stack: ExitStack) -> None:
        self._stop = stop
        self._stack = stack
        self._data: Path = options.data_dir.absolute()
        self._source: str | None = options.source
        is_live = self._source is not None and not Path(self._source).is_file()
        self._duration: float = options.duration or (LIVE_SECONDS if is_live else float("inf"))
        self._recording_id = f"demo-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        self._children: dict[str, _Child] = {}

    def run(self) -> int:
        source = self._source
        if source is not None and "://" not in source and Path(source).suffix and not Path(source).is_file():
            raise UsageError(f"there is no video file {source}")
        for directory in ("logs", "stats", "handoff", "known"):
            (self._data / directory).mkdir(parents=True, exist_ok=True)
        endpoint = self._make_endpoint()
        # Also this demo's claim on the directory: a second one finds the spool in use.
        try:
            probe = self._stack.enter_context(Publisher(endpoint, "demo", self._data / "spool"))
        except SpoolInUse as error:
            raise UsageError(
                f"another demo is using {self._data}. Give another --data-dir, or stop that one"
            ) from error
        for stale in self._data.glob("stats/*.json"):
            stale.unlink()
        source = self._source or self._draw_clip()
        self._start(
            "sightlogd", "sightlogd", "run", "--config", os.devnull, "--data-dir", self._data, "--endpoint", endpoint
        )
        self._wait_for_daemon(probe)
        with Reader(self._data / DATABASE) as reader:
            return self._run_sensors(endpoint, source, reader)

    def _run_sensors(self, endpoint: str, source: str, reader: Reader) -> int:
        before = _producers(reader)
        view = _View(reader, self._recording_id)
        began = time.monotonic()
        failure: ProcessFailed | None = None
        try:
            self._start_sensors(endpoint, source)
            self._watch(view)
            self._stop_sensors(view)
        except ProcessFailed as error:
            failure = error
            for name in SENSORS:
                self._children[name].stop()
        view.show()
        try:
            self._children["sightlogd"].stop_cleanly()
        except ProcessFailed as error:
            failure = failure or error
        print(
            f"\n{view.events} events in {time.monotonic() - began:.1f} s; {reader.count_events()} are stored in all\n"
        )
        begun = [name for name in SENSORS if self._children[name].exit_code() != -signal.SIGTERM]
        tallies = print_tally([self._data / "stats" / f"{name}.json" for name in begun], before, _producers(reader))
        print_status_line(self._data / "logs" / "sightlogd.log")
        self._print_hints(view.last_event_id)
        if failure is not None:
            failure.tell()
        return 0 if tallies and failure is None else 1

    # -- starting ----------------------------------------------------------------------------------------------------

    def _make_endpoint(self) -> str:
        path = self._data / "ingest.sock"
        if len(os.fsencode(path)) > IPC_PATH_BYTES_MAX:
            directory = tempfile.mkdtemp(prefix="sightlog-")
            self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
            path = Path(directory) / "ingest.sock"
        return f"ipc://{path}"

    def _draw_clip(self) -> str:
        clip = self._data / "clip.avi"
        artist = self._start("clip", "sightlog_sensors.clip", "--output", clip, "--known", self._data / "known")
        while artist.exit_code() is None:
            self._pause()
        if artist.exit_code() != 0:
            raise artist.failure()
        return str(clip)

    def _start(self, name: str, *arguments: str | Path) -> _Child:
        child = self._children[name] = _Child(name, self._data / "logs" / f"{name}.log", *arguments)
        self._stack.callback(child.stop)
        return child

    def _wait_for_daemon(self, probe: Publisher) -> None:
        daemon = self._children["sightlogd"]
        deadline = time.monotonic() + START_SECONDS
        while not probe.connected:
            if daemon.exit_code() is not None or time.monotonic() >= deadline:
                raise daemon.failure()
            self._pause()

    def _pause(self) -> None:
        """Between two looks at something that starts."""
        if self._stop.requested:
            raise ProcessFailed("stopped before the sensors began", [])
        time.sleep(0.02)

    def _start_sensors(self, endpoint: str, source: str) -> None:
        handoff = ("--handoff", self._data / "handoff")
        recording = ("--recording-id", self._recording_id)
        particular: dict[str, tuple[str | Path, ...]] = {
            "camera": ("--source", source, "--cooldown", str(COOLDOWN_SECONDS), *handoff, *recording),
            "detector": handoff,
            "face": ("--known", self._data / "known", *handoff),
            "lock": ("--database", self._data / DATABASE, *recording),
        }
        common = ("--endpoint", endpoint, "--spool-dir", self._data / "spool")
        for name in reversed(SENSORS):  # the camera last: the others are about ready for its first frame
            stats = self._data / "stats" / f"{name}.json"
            self._start(name, f"sightlog_sensors.{name}", *common, "--stats", stats, *particular[name])

    # -- running -----------------------------------------------------------------------------------------------------

    def _watch(self, view: _View) -> None:
        """Until the source or the time ends, or somebody stops it. Raises ProcessFailed when a process ends before."""
        until = time.monotonic() + self._duration
        while not self._stop.requested and time.monotonic() < until:
            view.show()
            for name in ("sightlogd", *SENSORS):
                code = self._children[name].exit_code()
                if code == 0 and name == "camera":
                    return
                if code is not None:
                    raise self._children[name].failure()
            time.sleep(LOOK_SECONDS)

    def _stop_sensors(self, view: _View) -> None:
        """In the order of the data, each when it has done what the one before left to it. Raises ProcessFailed."""
        self._children["camera"].stop_cleanly()
        self._await(lambda: not any(self._data.glob("handoff/*/*.jpg")), view)
        self._children["detector"].stop_cleanly()
        self._children["face"].stop_cleanly()
        self._await(lambda: not view.undecided(), view)
        self._children["lock"].stop_cleanly()

    def _await(self, done: Callable[[], bool], view: _View) -> None:
        """Not for ever, and not after Ctrl-C: frames that are left are looked at in the next run."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while True:
            view.show()
            if done() or self._stop.requested or time.monotonic() >= deadline:
                return
            time.sleep(LOOK_SECONDS)

    def _print_hints(self, event_id: str | None) -> None:
        database = os.path.relpath(self._data / DATABASE)
        command = (
            "sightlog" if shutil.which("sightlog") else os.path.relpath(Path(sys.executable).with_name("sightlog"))
        )
        print(f"\nlook further:\n  {command} events --database {database}")
        if event_id is not None:
            print(f"  {command} show {event_id} --database {database}")
        print(f"  {command} status --database {database}")
        for log in sorted(self._data.glob("events/*/events.log"))[-1:]:
            print(f"  less {os.path.relpath(log)}  (events.json and the pictures are beside it)", flush=True)


def _producers(reader: Reader) -> Producers:
    return {row["producer_id"]: row for row in reader.producers()}


class _View:
    """Prints a line for each event of a recording that is stored, and one for each thing learnt about it later."""

    def __init__(self, reader: Reader, recording_id: str) -> None:
        self._reader = reader
        self._recording_id = recording_id
        self._shown: dict[str, Event] = {}
        self._terminal = terminal()
        self.events = 0
        self.last_event_id: str | None = None

    def show(self) -> None:
        """What is new since the last time."""
        # Amendments change rows that `follow` has passed, so the recent events are read again instead.
        recent = [e for e in self._reader.get_recent_events(RECENT_EVENTS) if e.recording_id == self._recording_id]
        shown, self._shown = self._shown, {event.event_id: event for event in recent}
        for event in reversed(recent):
            before = shown.get(event.event_id)
            if before is None:
                self.events, self.last_event_id = self.events + 1, event.event_id
                self._print(event, _what(event))
            if news := list(_news(event, before or Event(event.camera_id))):
                self._print(event, [("  ", ""), *news])

    def undecided(self) -> bool:
        """Whether the lock has still to decide about a face."""
        return any(
            event.unlock_granted is None and any(detection.label == "face" for detection in event.detections)
            for event in self._shown.values()
        )

    def _print(self, event: Event, spans: list[Span]) -> None:
        at = f"{local(event.recorded_at):%H:%M:%S.%f}"[:12]
        print(self._terminal.render([(f"{at} …{event.event_id[-6:]}  ", "dim"), *spans]), flush=True)


def _what(event: Event) -> list[Span]:
    thumbnail = "thumbnail" if event.thumbnail_path else "no thumbnail"
    delay = (event.created_at - event.recorded_at).total_seconds() if event.created_at else 0.0
    return [
        (f"{printable(event.camera_id)} {printable(event.event_type)} {event.motion_confidence or 0:.2f}", "bold"),
        (f"  {thumbnail}, stored {delay * 1000:.0f} ms later", "dim"),
    ]


def _news(event: Event, before: Event) -> Iterator[Span]:
    found = event.detections[len(before.detections) :]
    yield from ((f"{printable(detection.label)} {detection.confidence:.2f}  ", "") for detection in found)
    if event.person_name is not None and event.person_name != before.person_name:
        yield f"{printable(event.person_name)} (distance {event.face_distance or 0:.3f})  ", "good"
    if event.door_action is not None and event.door_action != before.door_action:
        yield f"door {event.door_action}", "good" if event.unlock_granted else "bad"
