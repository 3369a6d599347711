"""Reader calls on a million events, each with a description, and what following them costs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import apsw
import bench
import results

sys.path.insert(0, str(Path(__file__).parents[1]))

import generated

from sightlog import Reader
from sightlog.protocol.encoding import format_time

Calls = dict[str, Callable[[], Iterable[object]]]
SITE = "home"
CALLS, LONG_CALLS = 200, 10
IDLE_SECONDS = 20
WAKE_UPS = 50


def timed(call: Callable[[], Iterable[object]], calls: int) -> tuple[int, list[float]]:
    """How many rows, and the milliseconds of each call behind a first one that warms up."""
    rows = len(list(call()))
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        list(call())
        taken.append((time.perf_counter() - began) * 1000)
    return rows, taken


def short_ones(reader: Reader, shape: generated.Shape) -> Calls:
    """Less than 100 rows each."""
    middle = generated.moment(shape, shape.events // 2)
    cursor = next(reader.find_events(start=middle)).cursor
    days = timedelta(days=shape.days)
    return {
        "recent": lambda: reader.get_recent_events(99),
        "recent, offset 1,000": lambda: reader.get_recent_events(99, offset=1000),
        "camera": lambda: reader.get_events_by_camera("gate", 99),
        "time range": lambda: reader.get_events_by_timerange(middle, middle + days * 99 / shape.events),
        "one": lambda: [reader.get_event(generated.event_id(8))],
        "person": lambda: reader.find_events(person="anna", newest_first=True, limit=99),
        "person and camera": lambda: reader.find_events(person="anna", camera_id="garage", newest_first=True, limit=50),
        "lock": lambda: reader.find_events(unlock_granted=True, newest_first=True, limit=99),
        "type": lambda: reader.find_events(event_type="ding", newest_first=True, limit=99),
        "stranger": lambda: reader.find_events(stranger=True, newest_first=True, limit=99),
        "common label": lambda: reader.find_events(label="person", newest_first=True, limit=99),
        "alert": lambda: reader.find_events(alert_sent=True, newest_first=True, limit=99),
        "after a cursor": lambda: reader.find_events(after=cursor, limit=99),
        "before a cursor": lambda: reader.find_events(before=cursor, limit=99),
        "observations": lambda: reader.find_observations(newest_first=True, limit=99),
        "observations of an event": lambda: reader.find_observations(event_id=generated.event_id(8)),
    }


def searches(reader: Reader, shape: generated.Shape) -> Calls:
    """The commonest word, with any filter, and others."""
    middle = generated.moment(shape, shape.events // 2)
    hours, weeks = timedelta(hours=2), timedelta(weeks=8)
    common, rare = generated.COMMONEST, generated.word(2900)
    return {
        "commonest word": lambda: reader.search(common),
        "at a camera": lambda: reader.search(common, camera_id="gate"),
        "since half of the time": lambda: reader.search(common, since=middle),
        "until half of the time": lambda: reader.search(common, until=middle),
        "of two old hours": lambda: reader.search(common, since=middle, until=middle + hours),
        "of eight old weeks": lambda: reader.search(common, since=middle - weeks, until=middle),
        "of eight old weeks, at a camera": lambda: reader.search(common, 20, middle - weeks, middle, "gate"),
        "three common words": lambda: reader.search(f"{common} {generated.word(1)} {generated.word(2)}"),
        "a phrase": lambda: reader.search(f'"{common} {generated.word(1)}"'),
        "a rare word": lambda: reader.search(rare),
        "a common and a rare word": lambda: reader.search(f"{common} {rare}"),
        "a rare word, until half of the time": lambda: reader.search(rare, until=middle),
        "a word in 40, of three old weeks": lambda: reader.search(
            generated.word(50), since=middle - timedelta(weeks=3), until=middle
        ),
    }


def long_ones(reader: Reader, shape: generated.Shape) -> Calls:
    """They look at every row of something."""
    vector = [1.0] * generated.NUMBERS
    calls: Calls = {
        "similar, of texts": lambda: reader.similar(vector, model=generated.MODEL),
        "similar, of faces": lambda: reader.similar(vector, model=generated.FACE_MODEL),
        "rare label": lambda: reader.find_events(label="truck", min_confidence=0.95, newest_first=True, limit=99),
        "count": lambda: [reader.count_events()],
    }
    for by in ("day", "camera", "person", "type", "label"):
        calls[f"counts by {by}"] = lambda by=by: reader.counts(by)  # type: ignore[misc]
    return calls


def measure(book: results.Book) -> None:
    shape = generated.Shape(events=20_000 if book.quick else 1_000_000, described=1.0)
    calls, long_calls = (20, 2) if book.quick else (CALLS, LONG_CALLS)
    with bench.home() as home:
        path = home / "events.db"
        bench.say(f"queries, making {shape.events:,} events")
        generated.write(path, shape)
        size = path.stat().st_size / 1e6
        book.about["database"] = f"{shape.events:,} events, each with a description, {size:.0f} MB"
        with Reader(path, SITE) as reader:
            bench.say("queries, calling")
            show(book, "", short_ones(reader, shape), calls, "<= 5")
            show(book, "search: ", searches(reader, shape), calls, "<= 50")
            show(book, "all of something: ", long_ones(reader, shape), long_calls, None)
        bench.say("queries, following")
        following(book, path, IDLE_SECONDS if not book.quick else 2)


def show(book: results.Book, group: str, calls: Calls, times: int, target: str | None) -> None:
    for name, call in calls.items():
        rows, taken = timed(call, times)
        note = f"{rows} rows, {times} calls"
        book.value(f"{group}{name}, p50", "ms", bench.percentile(taken, 0.5), note=note)
        book.value(f"{group}{name}, p99", "ms", bench.percentile(taken, 0.99), target, note)


def following(book: results.Book, path: Path, idle_seconds: float) -> None:
    """CPU of a reader that waits for events, and how long one takes to arrive."""
    writer = apsw.Connection(str(path))
    with Reader(path, SITE) as reader:
        arrived: list[float] = []
        seen = threading.Semaphore(0)

        def follow(cursor: int) -> None:
            for _ in reader.follow(after=cursor):
                arrived.append(time.perf_counter())
                seen.release()
                if len(arrived) == WAKE_UPS:
                    return

        thread = threading.Thread(target=follow, args=(reader.last_id(),), daemon=True)
        thread.start()
        began = time.process_time()
        time.sleep(idle_seconds)
        idle = (time.process_time() - began) / idle_seconds
        taken = []
        for number in range(WAKE_UPS):
            time.sleep(0.013 * (number % 4))
            moment = format_time(generated.BEGIN)
            writer.execute(
                "INSERT INTO events (event_id, site, camera_id, recorded_at, event_type, created_at) "
                "VALUES (?, ?, 'gate', ?, 'motion', ?)",
                (f"follow{number}", SITE, moment, moment),
            )
            committed = time.perf_counter()
            seen.acquire()
            taken.append((arrived[-1] - committed) * 1000)
        thread.join()
    writer.close()
    book.value("follow, while nothing is committed", "% of a core", idle * 100, "<= 0.5")
    book.value("follow, commit to arrival, p50", "ms", bench.percentile(taken, 0.5), note=f"{WAKE_UPS} events")
    book.value("follow, commit to arrival, longest", "ms", max(taken), "<= 100", f"{WAKE_UPS} events")
