"""Databases of any size with what a house sees in months: the same rows for the same seed.

python tests/generated.py FILE [EVENTS]
"""

from __future__ import annotations

import itertools
import random
import sys
from array import array
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import apsw

from sightlog.protocol.encoding import format_time
from sightlogd.calendar import Days
from sightlogd.store.opening import create
from sightlogd.store.ranges import Ranges

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SITES = ("home", "shed", "cabin")
"""Of 10 events 8, 1, 1."""
CAMERAS = ("front_door", "garage", "yard", "back_door", "gate")
"""From the one with most events on."""
PERSONS = ("anna", "ben", "carla")
LABELS = ("person", "car", "cat", "package", "dog", "bicycle", "bird", "truck")
MODEL, VERSION, NUMBERS = "text-small", "1", 64
FACE_MODEL = "faces"
WORDS = 3_000
COMMONEST = "person"
"""In about two of three descriptions."""


class Shape(NamedTuple):
    events: int = 1_000_000
    days: int = 300
    described: float = 0.3
    """Share of events with a description."""
    observed: float = 0.02
    """Share of events with an observation behind them, with an embedding."""
    seed: int = 1


def word(rank: int) -> str:
    """From 0, the commonest. `word(2900)` is in about one of 2,000 descriptions."""
    return COMMONEST if rank == 0 else f"word{rank}x"


def moment(shape: Shape, number: int) -> datetime:
    """When event `number`, from 1, happened: evenly spread."""
    return BEGIN + timedelta(days=shape.days) * ((number - 1) / shape.events)


def event_id(number: int) -> str:
    return f"e{number:08}"


def write(path: Path, shape: Shape) -> None:
    """Makes the database. Ids of events are those of the sequence that observations share."""
    create(path, lambda: "2026-01-01T00:00:00.000Z")
    chance = random.Random(shape.seed)
    texts = _texts(chance)
    faces = _vectors(chance, len(PERSONS))
    vectors = _vectors(chance, 500)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA foreign_keys = ON")
    events, boxes, seen, observed = [], [], [], []
    last = 0
    for number in range(1, shape.events + 1):
        last += 1
        key = last
        recorded = format_time(moment(shape, number))
        site = SITES[max(0, number % 10 - 7)]
        camera = CAMERAS[min(int(chance.expovariate(0.9)), len(CAMERAS) - 1)]
        kind = "ding" if number % 50 == 0 else "motion"
        person = PERSONS[number % len(PERSONS)] if number % 40 == 0 else None
        granted = None if person is None else number % 80 == 0
        text = texts[int(chance.random() * len(texts))] if chance.random() < shape.described else None
        events.append(
            (key, event_id(number), site, camera, recorded, kind, None, 0.5, person, None,
             None if person is None else 0.3, granted, None if granted is None else ("unlocked" if granted else "none"),
             None, None, text, number % 100 == 0, recorded, None)
        )  # fmt: skip
        for position in range(number % 7 if number % 2 else 3):
            label = LABELS[min(int(chance.expovariate(0.7)), len(LABELS) - 1)]
            boxes.append((key, position, label, (number * 7 + position) % 100 / 100, 10.0, 20.0, 110.0, 220.0))
        if person is not None:
            seen.append((key, site, faces[number % len(PERSONS)], FACE_MODEL, None))
        if chance.random() < shape.observed:
            last += 1
            observed.append(
                (last, f"o{number:08}", site, recorded, event_id(number), texts[int(chance.random() * len(texts))],
                 "vlm", vectors[number % len(vectors)], MODEL, VERSION, None, recorded)
            )  # fmt: skip
        if len(events) == 50_000 or number == shape.events:
            connection.execute("BEGIN IMMEDIATE")
            for table, batch in (
                ("events", events), ("detections", boxes), ("face_embeddings", seen), ("observations", observed)
            ):  # fmt: skip
                if batch:
                    connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(batch[0]))})", batch)
                    batch.clear()
            connection.execute("COMMIT")
    days = [(BEGIN + timedelta(days=number)).date().isoformat() for number in range(shape.days + 1)]
    Ranges(connection, Days(UTC)).add(map(Days(UTC).range_of, days))
    connection.execute("INSERT INTO texts_index (texts_index) VALUES ('rebuild')")
    connection.close()


def _texts(chance: random.Random) -> list[str]:
    """Of 12 words each, drawn as in a language: the second commonest half as often as the first, and so on."""
    weights = list(itertools.accumulate(1 / rank for rank in range(1, WORDS + 1)))
    words = [word(rank) for rank in range(WORDS)]
    return [" ".join(chance.choices(words, cum_weights=weights, k=12)) for _ in range(20_000)]


def _vectors(chance: random.Random, count: int) -> list[bytes]:
    vectors = []
    for _ in range(count):
        numbers = array("f", (chance.gauss(0, 1) for _ in range(NUMBERS)))
        if sys.byteorder == "big":
            numbers.byteswap()
        vectors.append(numbers.tobytes())
    return vectors


if __name__ == "__main__":
    write(Path(sys.argv[1]), Shape(events=int(sys.argv[2]) if len(sys.argv) > 2 else Shape().events))
