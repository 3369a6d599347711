-- sightlog's store. Readable by SQLite 3.40 and newer. Times are TEXT, UTC, ISO 8601, fixed width with milliseconds
-- (2026-11-20T10:00:00.000Z), so that they sort as text and compare as text.

-- Which migrations made this schema. The row of a migration commits together with what it changed.
CREATE TABLE schema_version (
    version     INTEGER PRIMARY KEY,  -- NNN of migrations/NNN_name.sql
    name        TEXT NOT NULL,        -- its file name
    applied_at  TEXT NOT NULL
) STRICT;

-- Something that happened before a camera. Rows are only ever added, amended and removed with their whole day.
CREATE TABLE events (
    -- Commit order: the readers' cursor. AUTOINCREMENT, so that the id of a purged event is never given again and a
    -- cursor kept by a bot stays right; it costs 4 % of an insert.
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Made by the producer (UUIDv7 by default): sending the same event again finds it here.
    event_id           TEXT NOT NULL UNIQUE,
    -- The isolation boundary: every query names one site.
    site               TEXT NOT NULL,
    camera_id          TEXT NOT NULL,
    -- The sensor's clock. May be wrong or late; commit order is `id`.
    recorded_at        TEXT NOT NULL CHECK (length(recorded_at) = 24),
    -- motion, ding, ... : an open set.
    event_type         TEXT NOT NULL,
    -- The recorder's clip that shows the event, if there is one.
    recording_id       TEXT,
    motion_confidence  REAL CHECK (motion_confidence BETWEEN 0 AND 1),
    -- NULL: a stranger, or nobody looked.
    person_name        TEXT,
    face_confidence    REAL CHECK (face_confidence BETWEEN 0 AND 1),
    -- In the recogniser's own metric; not 1 - confidence.
    face_distance      REAL CHECK (face_distance >= 0),
    -- NULL: no lock was asked. 0: refused.
    unlock_granted     INTEGER CHECK (unlock_granted IN (0, 1)),
    door_action        TEXT CHECK (door_action IN ('unlocked', 'locked', 'none')),
    -- Set by the daemon, relative to the data directory; NULL: no thumbnail was sent, or it was not acceptable.
    thumbnail_path     TEXT,
    -- Set by the sensor: where it keeps the full picture.
    image_path         TEXT,
    llm_description    TEXT,
    alert_sent         INTEGER NOT NULL DEFAULT 0 CHECK (alert_sent IN (0, 1)),
    -- The daemon's clock at the commit.
    created_at         TEXT NOT NULL
) STRICT;

-- Recent events and time ranges of a site. The rowid is the last column of every index: ties keep commit order.
CREATE INDEX events_by_time ON events (site, recorded_at);
-- The same for one camera.
CREATE INDEX events_by_camera ON events (site, camera_id, recorded_at);

-- Labelled boxes on events. Clustered by event, so an event's detections are one range and need no index of their own.
CREATE TABLE detections (
    event_id    INTEGER NOT NULL REFERENCES events (id) ON DELETE CASCADE,  -- events.id
    position    INTEGER NOT NULL,  -- the order the detector gave them in, from 0
    label       TEXT NOT NULL,     -- person, package, ...
    confidence  REAL NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    -- Corners in pixels of the sensor's frame: all four, or none.
    bbox_x1     REAL,
    bbox_y1     REAL,
    bbox_x2     REAL,
    bbox_y2     REAL,
    PRIMARY KEY (event_id, position),
    CHECK ((bbox_x1 IS NULL) = (bbox_y1 IS NULL) AND (bbox_x1 IS NULL) = (bbox_x2 IS NULL)
           AND (bbox_x1 IS NULL) = (bbox_y2 IS NULL))
) STRICT, WITHOUT ROWID;

-- People the face recogniser may name.
CREATE TABLE persons (
    id            INTEGER PRIMARY KEY,
    site          TEXT NOT NULL,
    name          TEXT NOT NULL,  -- what events.person_name says
    display_name  TEXT,           -- what people want to read
    created_at    TEXT NOT NULL,
    UNIQUE (site, name)
) STRICT;

-- Cameras that events have come from: written by the daemon when it meets a new one.
CREATE TABLE cameras (
    site           TEXT NOT NULL,
    camera_id      TEXT NOT NULL,
    first_seen_at  TEXT NOT NULL,  -- the daemon's clock
    PRIMARY KEY (site, camera_id)
) STRICT, WITHOUT ROWID;

-- Who has sent what, and how far. The row changes in the transaction of the records it counts: exactly-once rests on it.
CREATE TABLE producers (
    producer_id    TEXT PRIMARY KEY,      -- durable identity of a spool
    name           TEXT NOT NULL,         -- the sensor's name
    epoch          INTEGER NOT NULL,      -- life of the producer that the last settled record belongs to
    last_seq       INTEGER NOT NULL,      -- the last settled record of that life
    stored         INTEGER NOT NULL DEFAULT 0,
    duplicates     INTEGER NOT NULL DEFAULT 0,
    rejected       INTEGER NOT NULL DEFAULT 0,
    missing        INTEGER NOT NULL DEFAULT 0,  -- known to the producer as stored, or lost by it, but never seen here
    first_seen_at  TEXT NOT NULL,
    last_seen_at   TEXT NOT NULL          -- time of its last commit
) STRICT, WITHOUT ROWID;

-- Records that were settled, but not stored: rejected ones with their bytes, duplicates without.
CREATE TABLE dead_letters (
    id           INTEGER PRIMARY KEY,
    received_at  TEXT NOT NULL,
    producer_id  TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    seq          INTEGER NOT NULL,  -- 0: a message that could not be taken apart
    status       TEXT NOT NULL CHECK (status IN ('rejected', 'duplicate', 'expired')),
    reason       TEXT NOT NULL,
    record       BLOB               -- as it was sent, cut at a limit
) STRICT;

-- After a lost ack a producer asks what became of its records.
CREATE INDEX dead_letters_by_position ON dead_letters (producer_id, epoch, seq);

-- Amendments whose event has not come yet. Applied in the event's transaction; expire to dead letters.
CREATE TABLE pending_amendments (
    id           INTEGER PRIMARY KEY,  -- order of arrival
    site         TEXT NOT NULL,
    event_id     TEXT NOT NULL,        -- events.event_id, once it is there
    received_at  TEXT NOT NULL,
    producer_id  TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    record       BLOB NOT NULL         -- as it was sent
) STRICT;

CREATE INDEX pending_amendments_by_event ON pending_amendments (event_id);

-- For tools that expect one row an event with its objects as JSON text, and a column called timestamp.
CREATE VIEW events_with_objects AS
SELECT events.*,
       events.recorded_at AS timestamp,
       (SELECT coalesce(json_group_array(json_object(
                   'label', label,
                   'confidence', confidence,
                   'bbox', CASE WHEN bbox_x1 IS NULL THEN NULL
                           ELSE json_array(bbox_x1, bbox_y1, bbox_x2, bbox_y2) END)), '[]')
          FROM (SELECT * FROM detections WHERE detections.event_id = events.id ORDER BY position)) AS detected_objects
  FROM events;
