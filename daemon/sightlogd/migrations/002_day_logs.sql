-- What a sensor knows beyond the columns: a frame's number, how long an inference took. A JSON object, or NULL.
ALTER TABLE events ADD COLUMN metadata TEXT CHECK (metadata IS NULL OR json_valid(metadata));

-- How far the day logs are complete and durable: everything up to `last_id` is in there. What came later is compared with
-- them after a crash.
CREATE TABLE day_log_marks (
    kind     TEXT PRIMARY KEY,  -- event, person: the table that `last_id` is an id of
    last_id  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO day_log_marks VALUES ('event', 0), ('person', 0);

-- Events up to the mark that were amended after it.
CREATE TABLE amended_events (
    id  INTEGER PRIMARY KEY REFERENCES events (id) ON DELETE CASCADE
) STRICT;

-- Days (UTC) on which records were stored, by the daemon's clock. A day of events is old when many of these began behind
-- its last event: a clock that jumps adds one, and makes nothing old.
CREATE TABLE clock_days (
    day       TEXT PRIMARY KEY,  -- YYYY-MM-DD
    first_id  INTEGER NOT NULL   -- events.id of the first event stored on it, or behind it
) STRICT, WITHOUT ROWID;
