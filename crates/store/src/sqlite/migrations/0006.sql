-- What diskless devices run from: a version of an image, and a layer of the device's own on top.
CREATE TABLE exports (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    device       INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE,
    image        INTEGER NOT NULL REFERENCES images,
    -- A layer of files (NFS) and one of blocks are two, of the same image too.
    files        INTEGER NOT NULL CHECK (files IN (0, 1)),
    protocol     TEXT NOT NULL,
    overlay      TEXT NOT NULL,
    overlay_size INTEGER NOT NULL,
    durable      INTEGER NOT NULL CHECK (durable IN (0, 1)),
    aoe_address  TEXT NOT NULL,
    -- What the device booted last.
    current      INTEGER NOT NULL CHECK (current IN (0, 1)),
    -- Hash of the token of its latest boot.
    token        BLOB NOT NULL CHECK (length(token) = 32),
    created      INTEGER NOT NULL,
    booted       INTEGER NOT NULL,
    UNIQUE (device, image, files)
) STRICT;

CREATE INDEX exports_of_image ON exports (image);
