-- sightlog's store. Readable by SQLite 3.40 and newer. Times are TEXT, UTC, ISO 8601, fixed width with milliseconds
-- (2026-11-20T10:00:00.000Z), so that they sort as text and compare as text. Rows are also written by hand: what the
-- daemon could not go on with is refused here. Of events and observations that is only what costs nothing an event.
-- ('+0 days' makes another date of one that the calendar does not have.)

-- Which migrations made this schema. The row of a migration commits together with what it changed.
CREATE TABLE schema_version (
    version     INTEGER PRIMARY KEY,  -- NNN of migrations/NNN_name.sql
    name        TEXT NOT NULL,        -- its file name
    applied_at  TEXT NOT NULL         -- the daemon's clock; that of the first row tells one database from another
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
    -- Which camera of the site saw it: people ask for one camera's events.
    camera_id          TEXT NOT NULL,
    -- The sensor's clock. May be wrong or late; commit order is `id`.
    recorded_at        TEXT NOT NULL CHECK (length(recorded_at) = 24),
    -- motion, ding, ... : an open set.
    event_type         TEXT NOT NULL,
    -- The recorder's clip that shows the event, if there is one.
    recording_id       TEXT,
    -- How sure the sensor was that something moved; NULL: it did not say.
    motion_confidence  REAL CHECK (motion_confidence BETWEEN 0 AND 1),
    -- NULL: a stranger, or nobody looked.
    person_name        TEXT,
    -- How sure the recogniser was of the name; NULL: it did not say, or nobody looked.
    face_confidence    REAL CHECK (face_confidence BETWEEN 0 AND 1),
    -- In the recogniser's own metric; not 1 - confidence.
    face_distance      REAL CHECK (face_distance >= 0),
    -- NULL: no lock was asked. 0: refused.
    unlock_granted     INTEGER CHECK (unlock_granted IN (0, 1)),
    -- What the lock did. NULL: no lock was asked.
    door_action        TEXT CHECK (door_action IN ('unlocked', 'locked', 'none')),
    -- Set by the daemon, relative to the data directory; NULL: no thumbnail was sent, or it was not acceptable.
    thumbnail_path     TEXT,
    -- Set by the sensor: where it keeps the full picture.
    image_path         TEXT,
    -- What a language model says about the picture: found by full text.
    llm_description    TEXT,
    -- Set by the bot that told somebody: so that a restarted one does not tell it again.
    alert_sent         INTEGER NOT NULL DEFAULT 0 CHECK (alert_sent IN (0, 1)),
    -- The daemon's clock at the commit.
    created_at         TEXT NOT NULL,
    -- What a sensor knows beyond the columns: a frame's number, how long an inference took. A JSON object, or NULL.
    metadata           TEXT CHECK (metadata IS NULL OR json_valid(metadata))
) STRICT;

-- Recent events and time ranges of a site. The rowid is the last column of every index: ties keep commit order.
CREATE INDEX events_by_time ON events (site, recorded_at);
-- The same for one camera.
CREATE INDEX events_by_camera ON events (site, camera_id, recorded_at);
-- Filters of what is rare: the index holds no other rows. A query has to repeat the condition for SQLite to take it.
CREATE INDEX events_by_person ON events (site, person_name, recorded_at) WHERE person_name IS NOT NULL;
CREATE INDEX events_by_type ON events (site, event_type, recorded_at) WHERE event_type <> 'motion';
CREATE INDEX events_at_lock ON events (site, recorded_at)
    WHERE unlock_granted IS NOT NULL OR door_action IN ('unlocked', 'locked');

-- Labelled boxes on events. Clustered by event, so an event's detections are one range and need no index of their own.
CREATE TABLE detections (
    event_id    INTEGER NOT NULL REFERENCES events (id) ON DELETE CASCADE,  -- events.id
    position    INTEGER NOT NULL,  -- the order the detector gave them in, from 0
    label       TEXT NOT NULL,     -- person, package, ...
    confidence  REAL NOT NULL CHECK (confidence BETWEEN 0 AND 1),  -- how sure the detector was of the label
    -- Corners in pixels of the sensor's frame: all four, or none.
    bbox_x1     REAL,
    bbox_y1     REAL,
    bbox_x2     REAL,
    bbox_y2     REAL,
    PRIMARY KEY (event_id, position),
    CHECK ((bbox_x1 IS NULL) = (bbox_y1 IS NULL) AND (bbox_x1 IS NULL) = (bbox_x2 IS NULL)
           AND (bbox_x1 IS NULL) = (bbox_y2 IS NULL))
) STRICT, WITHOUT ROWID;

-- The face that events.person_name and face_distance are about, at most one an event.
CREATE TABLE face_embeddings (
    event_id           INTEGER PRIMARY KEY REFERENCES events (id) ON DELETE CASCADE,  -- events.id
    -- The event's: the index below begins with it, so that a site's faces are found without reading its events.
    site               TEXT NOT NULL,
    -- float32, little-endian. Compared only with those of the same model, version and length.
    embedding          BLOB NOT NULL CHECK (length(embedding) > 0 AND length(embedding) % 4 = 0),
    -- Which network made it; NULL: the sensor did not say.
    embedding_model    TEXT,
    -- Which version of it; NULL: the sensor did not say.
    embedding_version  TEXT
) STRICT;

-- Which models there are, and the rows of one of them.
CREATE INDEX face_embeddings_by_model
    ON face_embeddings (site, embedding_model, embedding_version, length(embedding));

-- A text about what was seen, with an embedding of it or without: a description, a remark, a face.
CREATE TABLE observations (
    -- From the same sequence as events.id: one commit order over both, and one number for each text that can be found.
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Made by the producer (UUIDv7 by default): sending the same observation again finds it here.
    observation_id     TEXT NOT NULL UNIQUE,
    -- As in events.
    site               TEXT NOT NULL,
    -- The sensor's clock. The day that it has is the one the observation is removed with.
    recorded_at        TEXT NOT NULL CHECK (length(recorded_at) = 24),
    -- events.event_id of the event it is about; that may come later, or be removed already. NULL: about none.
    event_id           TEXT,
    -- The text: found by full text.
    content            TEXT NOT NULL,
    -- Who says so: a model, a process, a person.
    source             TEXT NOT NULL,
    -- float32, little-endian. Compared only with those of the same model, version and length.
    embedding          BLOB CHECK (length(embedding) > 0 AND length(embedding) % 4 = 0),
    -- As in face_embeddings.
    embedding_model    TEXT,
    -- As in face_embeddings.
    embedding_version  TEXT,
    -- What the source knows beyond the columns. A JSON object, or NULL.
    metadata           TEXT CHECK (metadata IS NULL OR json_valid(metadata)),
    -- The daemon's clock at the commit.
    created_at         TEXT NOT NULL
) STRICT;

-- Time ranges of a site, and days that are removed.
CREATE INDEX observations_by_time ON observations (site, recorded_at);
-- What was said about an event.
CREATE INDEX observations_by_event ON observations (site, event_id) WHERE event_id IS NOT NULL;
-- Which models there are, and the rows of one of them.
CREATE INDEX observations_by_model ON observations (site, embedding_model, embedding_version, length(embedding))
    WHERE embedding IS NOT NULL;

-- People the face recogniser may name.
CREATE TABLE persons (
    -- The order they became known in: day_log_marks goes by it.
    id            INTEGER PRIMARY KEY CHECK (id BETWEEN 0 AND 4611686018427387904),
    site          TEXT NOT NULL,  -- as in events: two sites may each know an anna
    name          TEXT NOT NULL,  -- what events.person_name says
    display_name  TEXT,           -- what people want to read
    -- The daemon's clock at the commit: the day whose log has the person.
    created_at    TEXT NOT NULL
        CHECK (length(created_at) = 24 AND created_at IS strftime('%Y-%m-%dT%H:%M:%fZ', created_at, '+0 days')),
    UNIQUE (site, name)
) STRICT;

-- Cameras that events have come from: written by the daemon when it meets a new one.
CREATE TABLE cameras (
    site           TEXT NOT NULL,  -- as in events
    camera_id      TEXT NOT NULL,  -- as in events
    -- The daemon's clock.
    first_seen_at  TEXT NOT NULL
        CHECK (length(first_seen_at) = 24 AND first_seen_at IS strftime('%Y-%m-%dT%H:%M:%fZ', first_seen_at, '+0 days')),
    PRIMARY KEY (site, camera_id)
) STRICT, WITHOUT ROWID;

-- Who has sent what, and how far. The row changes in the transaction of the records it counts: exactly-once rests on it.
CREATE TABLE producers (
    producer_id    TEXT PRIMARY KEY,      -- durable identity of a spool
    name           TEXT NOT NULL,         -- the sensor's name
    -- Life of the producer that the last settled record belongs to.
    epoch          INTEGER NOT NULL CHECK (epoch >= 0),
    -- The last settled record of that life.
    last_seq       INTEGER NOT NULL CHECK (last_seq >= 0),
    -- Records of all lives that became rows.
    stored         INTEGER NOT NULL DEFAULT 0 CHECK (stored BETWEEN 0 AND 4611686018427387904),
    -- Records of all lives that were here already.
    duplicates     INTEGER NOT NULL DEFAULT 0 CHECK (duplicates BETWEEN 0 AND 4611686018427387904),
    -- Records of all lives that broke a rule.
    rejected       INTEGER NOT NULL DEFAULT 0 CHECK (rejected BETWEEN 0 AND 4611686018427387904),
    -- Known to the producer as stored, or lost by it, but never seen here.
    missing        INTEGER NOT NULL DEFAULT 0 CHECK (missing BETWEEN 0 AND 4611686018427387904),
    -- Time of its first commit.
    first_seen_at  TEXT NOT NULL
        CHECK (length(first_seen_at) = 24 AND first_seen_at IS strftime('%Y-%m-%dT%H:%M:%fZ', first_seen_at, '+0 days')),
    -- Time of its last commit.
    last_seen_at   TEXT NOT NULL
        CHECK (length(last_seen_at) = 24 AND last_seen_at IS strftime('%Y-%m-%dT%H:%M:%fZ', last_seen_at, '+0 days'))
) STRICT, WITHOUT ROWID;

-- Records that were settled, but not stored: rejected ones with their bytes, duplicates without.
CREATE TABLE dead_letters (
    -- Order of arrival: the oldest make room.
    id           INTEGER PRIMARY KEY CHECK (id BETWEEN 0 AND 4611686018427387904),
    site         TEXT,                 -- of the record; NULL: it, or its message, could not be taken apart
    -- The daemon's clock.
    received_at  TEXT NOT NULL
        CHECK (length(received_at) = 24 AND received_at IS strftime('%Y-%m-%dT%H:%M:%fZ', received_at, '+0 days')),
    producer_id  TEXT NOT NULL,        -- producers.producer_id
    -- With seq: where in the producer's stream.
    epoch        INTEGER NOT NULL CHECK (epoch >= 0),
    -- 0: a message that could not be taken apart.
    seq          INTEGER NOT NULL CHECK (seq >= 0),
    status       TEXT NOT NULL CHECK (status IN ('rejected', 'duplicate', 'expired')),  -- as the producer was told
    reason       TEXT NOT NULL,        -- for whoever mends the sensor
    record       BLOB                  -- as it was sent, cut at a limit
) STRICT;

-- After a lost ack a producer asks what became of its records.
CREATE INDEX dead_letters_by_position ON dead_letters (producer_id, epoch, seq);

-- Amendments whose event has not come yet. Applied in the event's transaction; expire to dead letters.
CREATE TABLE pending_amendments (
    -- Order of arrival: they are applied in it.
    id           INTEGER PRIMARY KEY CHECK (id BETWEEN 0 AND 4611686018427387904),
    site         TEXT NOT NULL,        -- as in events: of another site's event it is none
    event_id     TEXT NOT NULL,        -- events.event_id, once it is there
    -- The daemon's clock: it expires by that.
    received_at  TEXT NOT NULL
        CHECK (length(received_at) = 24 AND received_at IS strftime('%Y-%m-%dT%H:%M:%fZ', received_at, '+0 days')),
    producer_id  TEXT NOT NULL,        -- producers.producer_id
    -- With seq: where in the producer's stream, for its dead letter.
    epoch        INTEGER NOT NULL CHECK (epoch >= 0),
    -- As above.
    seq          INTEGER NOT NULL CHECK (seq >= 0),
    record       BLOB NOT NULL         -- as it was sent
) STRICT;

-- What waits for the events of a batch.
CREATE INDEX pending_amendments_by_event ON pending_amendments (event_id);

-- Which range of time each day has: the day's folder is events/DAY, and its rows, lines and pictures are of that range.
-- Written in the transaction of the day's first record, as the time zone was then, without the moments that another day
-- has: no two ranges overlap, and another time zone later moves nothing to another day. A range may grow, into moments
-- that no day has. Goes with the last row of the day that is removed.
CREATE TABLE days (
    day    TEXT PRIMARY KEY CHECK (length(day) = 10),  -- YYYY-MM-DD: the folder's name
    first  TEXT NOT NULL,                              -- the day has recorded_at from here on; '': from the first there is
    after  TEXT NOT NULL CHECK (first < after),        -- and before this; '~': to the last there is
    zone   TEXT NOT NULL                               -- [store] timezone as it was then; '': the system's own
) STRICT, WITHOUT ROWID;

-- The day of a moment: the last one that begins before it.
CREATE UNIQUE INDEX days_by_first ON days (first);

-- How far the day logs are complete and durable: everything up to `last_id` is in there. What came later is compared with
-- them after a crash.
CREATE TABLE day_log_marks (
    kind     TEXT PRIMARY KEY CHECK (kind IN ('event', 'person')),  -- the table that `last_id` is an id of
    -- 0: they are compared with all there is.
    last_id  INTEGER NOT NULL CHECK (last_id BETWEEN 0 AND 4611686018427387904)
) STRICT, WITHOUT ROWID;

INSERT INTO day_log_marks VALUES ('event', 0), ('person', 0);

-- Events up to the mark that were amended after it.
CREATE TABLE amended_events (
    id  INTEGER PRIMARY KEY REFERENCES events (id) ON DELETE CASCADE  -- events.id
) STRICT;

-- Days (UTC) on which records were stored, by the daemon's clock. A day of events is old when many of these began behind
-- its last event: a clock that jumps adds one, and makes nothing old.
CREATE TABLE clock_days (
    day       TEXT PRIMARY KEY CHECK (length(day) = 10 AND day IS date(day, '+0 days')),  -- YYYY-MM-DD
    -- events.id of the first event stored on it, or behind it.
    first_id  INTEGER NOT NULL CHECK (first_id BETWEEN 0 AND 4611686018427387904)
) STRICT, WITHOUT ROWID;

-- How many rows each site has, so that nobody has to count ten million to say so (0.6 s on a PC with all of it in memory).
-- Those with an id up to `counted.last_id` are in `counts`; who asks counts the few behind it himself, in the same view.
-- The daemon counts what comes in slices beside its other work (4 ms for 10,000 rows on a PC).
CREATE TABLE counts (
    site  TEXT NOT NULL,                                             -- as in events
    kind  TEXT NOT NULL CHECK (kind IN ('events', 'observations')),  -- the table
    -- Of it, with an id up to counted.last_id.
    rows  INTEGER NOT NULL CHECK (abs(rows) <= 4611686018427387904),
    PRIMARY KEY (site, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE counted (
    one       INTEGER PRIMARY KEY CHECK (one = 1),  -- there is one row
    -- Of events and observations: they share a sequence.
    last_id   INTEGER NOT NULL CHECK (last_id BETWEEN 0 AND 4611686018427387904),
    -- Rows that days took with them since the index of texts was written anew without what was removed.
    unmerged  INTEGER NOT NULL CHECK (unmerged BETWEEN 0 AND 4611686018427387904)
) STRICT;

INSERT INTO counted VALUES (1, 0, 0);

-- Whatever removes a row: a day that goes, or somebody by hand.
CREATE TRIGGER events_uncounted AFTER DELETE ON events WHEN old.id <= (SELECT last_id FROM counted)
BEGIN
    UPDATE counts SET rows = rows - 1 WHERE site = old.site AND kind = 'events';
END;

CREATE TRIGGER observations_uncounted AFTER DELETE ON observations WHEN old.id <= (SELECT last_id FROM counted)
BEGIN
    UPDATE counts SET rows = rows - 1 WHERE site = old.site AND kind = 'observations';
END;

-- All texts that can be found. `origin` is the camera, or 'observation'.
CREATE VIEW texts (id, site, origin, content) AS
SELECT id, site, camera_id, llm_description FROM events WHERE llm_description IS NOT NULL
UNION ALL
SELECT id, site, 'observation', content FROM observations;

-- The index alone; the texts stay where they are. `site` and `origin` are in it to find few candidates: whoever reads
-- compares them exactly.
CREATE VIRTUAL TABLE texts_index USING fts5 (
    site, origin, content, content='texts', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2'
);

-- Entries are added by the daemon where it adds the rows (a trigger on every insert of an event costs 20 %), and taken
-- out here, whatever removes or changes the row: for that FTS5 needs the text that the entry was made of.
CREATE TRIGGER events_text_removed AFTER DELETE ON events WHEN old.llm_description IS NOT NULL
BEGIN
    INSERT INTO texts_index (texts_index, rowid, site, origin, content)
    VALUES ('delete', old.id, old.site, old.camera_id, old.llm_description);
END;

CREATE TRIGGER events_text_changed AFTER UPDATE OF llm_description ON events
WHEN old.llm_description IS NOT new.llm_description
BEGIN
    INSERT INTO texts_index (texts_index, rowid, site, origin, content)
    SELECT 'delete', old.id, old.site, old.camera_id, old.llm_description WHERE old.llm_description IS NOT NULL;
    INSERT INTO texts_index (rowid, site, origin, content)
    SELECT new.id, new.site, new.camera_id, new.llm_description WHERE new.llm_description IS NOT NULL;
END;

CREATE TRIGGER observations_text_removed AFTER DELETE ON observations
BEGIN
    INSERT INTO texts_index (texts_index, rowid, site, origin, content)
    VALUES ('delete', old.id, old.site, 'observation', old.content);
END;

-- For tools that expect one row an event: its objects as JSON text, a column called timestamp, the file that has its line
-- (relative to the data directory), and what the lock did without NULL: no lock was asked is 0 and 'none' there.
CREATE VIEW events_with_objects AS
SELECT id, event_id, site, camera_id, recorded_at, recorded_at AS timestamp, event_type, recording_id,
       motion_confidence, person_name, face_confidence, face_distance,
       coalesce(unlock_granted, 0) AS unlock_granted, coalesce(door_action, 'none') AS door_action,
       thumbnail_path, image_path, llm_description, alert_sent, created_at, metadata,
       (SELECT json_group_array(json_object(
                   'label', label,
                   'confidence', confidence,
                   'bbox', CASE WHEN bbox_x1 IS NULL THEN NULL
                           ELSE json_array(bbox_x1, bbox_y1, bbox_x2, bbox_y2) END))
          FROM (SELECT * FROM detections WHERE detections.event_id = events.id ORDER BY position)) AS detected_objects,
       (SELECT CASE WHEN recorded_at < after THEN 'events/' || day || '/events.json' END
          FROM days WHERE first <= recorded_at ORDER BY first DESC LIMIT 1) AS json_log_path
  FROM events;
