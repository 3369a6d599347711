-- A text about what was seen, with an embedding of it or without: a description, a remark, a face.
CREATE TABLE observations (
    -- From the same sequence as events.id: one commit order over both, and one number for each text that can be found.
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Made by the producer (UUIDv7 by default): sending the same observation again finds it here.
    observation_id     TEXT NOT NULL UNIQUE,
    site               TEXT NOT NULL,
    -- The sensor's clock. The day that it has is the one the observation is removed with.
    recorded_at        TEXT NOT NULL CHECK (length(recorded_at) = 24),
    -- events.event_id of the event it is about; that may come later, or be removed already. NULL: about none.
    event_id           TEXT,
    content            TEXT NOT NULL,
    -- Who says so: a model, a process, a person.
    source             TEXT NOT NULL,
    -- float32, little-endian. Compared only with those of the same model, version and length.
    embedding          BLOB CHECK (length(embedding) > 0 AND length(embedding) % 4 = 0),
    embedding_model    TEXT,
    embedding_version  TEXT,
    -- A JSON object, or NULL.
    metadata           TEXT CHECK (metadata IS NULL OR json_valid(metadata)),
    -- The daemon's clock at the commit.
    created_at         TEXT NOT NULL
) STRICT;

CREATE INDEX observations_by_time ON observations (site, recorded_at);
CREATE INDEX observations_by_event ON observations (site, event_id) WHERE event_id IS NOT NULL;
-- Which models there are, and the rows of one of them.
CREATE INDEX observations_by_model ON observations (site, embedding_model, embedding_version, length(embedding))
    WHERE embedding IS NOT NULL;

-- The face that events.person_name and face_distance are about, at most one an event.
CREATE TABLE face_embeddings (
    event_id           INTEGER PRIMARY KEY REFERENCES events (id) ON DELETE CASCADE,  -- events.id
    site               TEXT NOT NULL,
    embedding          BLOB NOT NULL CHECK (length(embedding) > 0 AND length(embedding) % 4 = 0),
    embedding_model    TEXT,
    embedding_version  TEXT
) STRICT;

CREATE INDEX face_embeddings_by_model
    ON face_embeddings (site, embedding_model, embedding_version, length(embedding));

-- Of the record, as far as that could be read; NULL in rows that are older, and for messages that could not be taken apart.
ALTER TABLE dead_letters ADD COLUMN site TEXT;

-- Filters of what is rare: the index holds no other rows. A query has to repeat the condition for SQLite to take it.
CREATE INDEX events_by_person ON events (site, person_name, recorded_at) WHERE person_name IS NOT NULL;
CREATE INDEX events_by_type ON events (site, event_type, recorded_at) WHERE event_type <> 'motion';
CREATE INDEX events_at_lock ON events (site, recorded_at)
    WHERE unlock_granted IS NOT NULL OR door_action IN ('unlocked', 'locked');

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

INSERT INTO texts_index (texts_index) VALUES ('rebuild');
