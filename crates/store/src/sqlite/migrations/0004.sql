-- An image is one version of its name.
CREATE TABLE images_4 (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT NOT NULL,
    version     INTEGER NOT NULL CHECK (version > 0),
    note        TEXT NOT NULL,
    -- Where it was taken from: JSON.
    origin      TEXT,
    manifest    TEXT NOT NULL,
    size        INTEGER NOT NULL,
    used        INTEGER NOT NULL,
    stored      INTEGER NOT NULL,
    sector_size INTEGER NOT NULL,
    state       TEXT NOT NULL,
    created     INTEGER NOT NULL,
    UNIQUE (name, version)
) STRICT;

INSERT INTO images_4 (id, name, version, note, manifest, size, used, stored, sector_size, state, created)
    SELECT id, name, 1, '', manifest, size, used, stored, sector_size, state, created FROM images;

-- An id is never given twice, so the counter goes with the table.
DELETE FROM sqlite_sequence WHERE name = 'images_4';
INSERT INTO sqlite_sequence (name, seq) SELECT 'images_4', seq FROM sqlite_sequence WHERE name = 'images';
DROP TABLE images;
ALTER TABLE images_4 RENAME TO images;

-- The last version that each name was given: a version is never given twice either.
CREATE TABLE image_versions (
    name TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO image_versions SELECT name, version FROM images;

-- What was last written onto a device's disk: JSON.
ALTER TABLE devices ADD COLUMN deployed TEXT;
