"""A data directory that grows to ten million events: filled by SQLite itself, as the daemon would have left it.

10,000 events a day, so that a day is as large at every size. 3 detections each; of 7 events 4 are of one camera and 1
each of three others; every 20th has a description in the index of texts, every 40th a person and an answer at the lock.
Folders of all days are there; the logs in them are empty but for the days that are to be removed.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import bench

from sightlog import Event
from sightlog.protocol.encoding import format_time
from sightlogd.calendar import Days
from sightlogd.daylogs.writer import DayLogs
from sightlogd.store.opening import create

A_DAY = 10_000
DAYS = 1_001
CAMERAS = ("front_door", "garage", "gate", "yard")
DAY_SECONDS = 86_400
SLICE = 100_000

_EVENTS = """
WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last),
made AS (
    SELECT i, i + :shift AS id,
           strftime('%Y-%m-%dT%H:%M:%fZ', :begin + (i - 1) * (:day / :a_day), 'unixepoch') AS moment FROM n)
INSERT INTO events (id, event_id, site, camera_id, recorded_at, event_type, motion_confidence, person_name,
                    face_distance, unlock_granted, door_action, image_path, llm_description, alert_sent, created_at)
SELECT id, printf('019a9f60-%012d-7b42-9d0a', i), 'default',
       CASE i % 7 WHEN 0 THEN 'garage' WHEN 1 THEN 'gate' WHEN 2 THEN 'yard' ELSE 'front_door' END, moment,
       iif(i % 50 = 0, 'ding', 'motion'), 0.7, iif(i % 40 = 0, 'anna', NULL), iif(i % 40 = 0, 0.3, NULL),
       iif(i % 40 = 0, 1, NULL), iif(i % 40 = 0, 'unlocked', NULL),
       printf('/var/lib/camera/recordings/of-the-door/pictures/%012d-full-size-before-the-crop.jpg', i),
       iif(i % 20 = 0, printf('a person with a %d word parcel at door %d', i % 977, i % 31), NULL), 0, moment
  FROM made"""
_DETECTIONS = """
WITH RECURSIVE n (i) AS (SELECT 3 * :first UNION ALL SELECT i + 1 FROM n WHERE i < 3 * :last + 2)
INSERT INTO detections
SELECT i / 3 + :shift, i % 3, CASE i % 3 WHEN 0 THEN 'person' WHEN 1 THEN 'package' ELSE 'car' END,
       0.9, 10.0, 20.0, 100.0, 200.0 FROM n"""
_TEXTS = """
INSERT INTO texts_index (rowid, site, origin, content)
SELECT id, site, camera_id, llm_description FROM events
 WHERE id BETWEEN :first + :shift AND :last + :shift AND llm_description IS NOT NULL"""
_MARKS = """
UPDATE day_log_marks SET last_id = (SELECT max(id) FROM events) WHERE kind = 'event';
DELETE FROM amended_events;
INSERT OR IGNORE INTO clock_days SELECT :day, max(id) FROM events;"""
_RANGES = "INSERT OR IGNORE INTO days VALUES (?, ?, ?, ?)"


class Grown:
    """`fill` it while no daemon runs on it."""

    def __init__(self, path: Path, removed: int) -> None:
        """`removed`: of so many days, the oldest ones, the logs have every line."""
        self.path = path
        self.data = path / "data"
        self.database = self.data / "events.db"
        self.begin = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
        self.filled = 0
        self._removed = removed
        self.data.mkdir(parents=True)
        create(self.database, lambda: format_time(self.begin))

    def moment(self, number: int) -> datetime:
        return self.begin + timedelta(seconds=(number - 1) * DAY_SECONDS / A_DAY)

    def day(self, number: int) -> str:
        """The name of day `number`, from 0."""
        return (self.begin + timedelta(days=number)).date().isoformat()

    @staticmethod
    def event_id(number: int) -> str:
        return f"019a9f60-{number:012d}-7b42-9d0a"

    def fill(self, events: int) -> None:
        """Up to so many, in the order of time; ids go on behind what is there."""
        connection = apsw.Connection(str(self.database))
        last_id = int(connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").get)
        # If the machine dies now, the run begins anew.
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144", "locking_mode = EXCLUSIVE"):
            connection.execute(f"PRAGMA {setting}").fetchall()
        shift = last_id - self.filled
        for first in range(self.filled + 1, events + 1, SLICE):
            span = {"first": first, "last": min(events, first + SLICE - 1), "shift": shift}
            connection.execute("BEGIN")
            when = {"begin": self.begin.timestamp(), "day": float(DAY_SECONDS), "a_day": A_DAY}
            connection.execute(_EVENTS, span | when)
            connection.execute(_DETECTIONS, span)
            connection.execute(_TEXTS, span)
            connection.execute("COMMIT")
        connection.executemany(
            "INSERT OR IGNORE INTO cameras VALUES ('default', ?, ?)",
            [(camera, format_time(self.begin)) for camera in CAMERAS],
        )
        days = [self.day(number) for number in range((events - 1) // A_DAY + 1)]
        connection.executemany(_RANGES, map(Days(UTC).range_of, days))
        connection.execute(_MARKS, {"day": self.day((events - 1) // A_DAY)})
        connection.execute("PRAGMA locking_mode = NORMAL").fetchall()
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.close()
        self._make_folders(self.filled, events)
        self.filled = events
        os.sync()  # else the disk is busy with these gigabytes while others are measured

    def _make_folders(self, before: int, events: int) -> None:
        for number in range(before // A_DAY, (events - 1) // A_DAY + 1):
            folder = self.data / "events" / self.day(number)
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("events.json", "events.log"):
                (folder / name).touch()
            if number < self._removed:
                self._write_logs(number)

    def _write_logs(self, number: int) -> None:
        logs = DayLogs(self.data, Days(UTC), print, lambda *_: None)
        events = [
            Event("front_door", recorded_at=self.moment(number * A_DAY + n), detections=bench.DETECTIONS)
            for n in range(1, A_DAY + 1)
        ]
        for start in range(0, A_DAY, 1_000):
            some = events[start : start + 1_000]
            logs.add([bench.stored(some, 1 + number * A_DAY + start)], 0)
            logs.write_all()
        logs.close_all()
