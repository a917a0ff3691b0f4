-- The first schema. Enumerations are the words of their serde form; times are milliseconds since
-- the Unix epoch; lists and structures that are only ever read whole are JSON.

CREATE TABLE devices (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    name      TEXT UNIQUE CHECK (name <> ''),
    tags      TEXT NOT NULL DEFAULT '[]',
    uuid      TEXT UNIQUE,
    arch      TEXT,
    firmware  TEXT,
    netboot   TEXT NOT NULL,
    profile   TEXT NOT NULL,
    presence  TEXT NOT NULL,
    address   TEXT,
    inventory TEXT,
    created   INTEGER NOT NULL,
    seen      INTEGER NOT NULL,
    -- Whether an agent has ever registered from it.
    had_agent INTEGER NOT NULL DEFAULT 0 CHECK (had_agent IN (0, 1)),
    -- Whether an agent or an operator has ever had to do with it. A device of which only packets
    -- were seen is forgotten when too many such come.
    kept      INTEGER NOT NULL DEFAULT 0 CHECK (kept IN (0, 1))
) STRICT;

CREATE INDEX strangers ON devices (seen, id) WHERE kept = 0;

CREATE TABLE macs (
    mac    BLOB PRIMARY KEY CHECK (length(mac) = 6),
    device INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE,
    -- 0 for the one that the device last booted from.
    rank   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX macs_of_device ON macs (device, rank);

CREATE TABLE sessions (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    device   INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE,
    firmware TEXT,
    started  INTEGER NOT NULL,
    stages   TEXT NOT NULL DEFAULT '[]',
    outcome  TEXT NOT NULL
) STRICT;

CREATE INDEX sessions_of_device ON sessions (device, id);
CREATE UNIQUE INDEX open_sessions ON sessions (device) WHERE outcome = 'open';

CREATE TABLE boot_tokens (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    hash    BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE
) STRICT;

CREATE INDEX boot_tokens_of_session ON boot_tokens (session, id);

-- One for each device: a registration replaces the token of the one before it.
CREATE TABLE agent_tokens (
    device  INTEGER PRIMARY KEY REFERENCES devices ON DELETE CASCADE,
    hash    BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    session INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (
    -- The IPv4 address as a number.
    address   INTEGER PRIMARY KEY,
    mac       BLOB NOT NULL CHECK (length(mac) = 6),
    client_id BLOB,
    hostname  TEXT,
    state     TEXT NOT NULL,
    expires   INTEGER NOT NULL
) STRICT;

CREATE TABLE images (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT NOT NULL UNIQUE,
    manifest    TEXT NOT NULL,
    size        INTEGER NOT NULL,
    used        INTEGER NOT NULL,
    stored      INTEGER NOT NULL,
    sector_size INTEGER NOT NULL,
    state       TEXT NOT NULL,
    created     INTEGER NOT NULL
) STRICT;

CREATE TABLE tasks (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    device   INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE,
    action   TEXT NOT NULL,
    -- The image that the action needs. No reference: the list of ended tasks outlives images.
    image    INTEGER,
    state    TEXT NOT NULL,
    progress TEXT NOT NULL,
    message  TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    created  INTEGER NOT NULL,
    updated  INTEGER NOT NULL,
    open     INTEGER GENERATED ALWAYS AS
             (state IN ('queued', 'claimed', 'running', 'verifying')) VIRTUAL
) STRICT;

CREATE INDEX tasks_of_device ON tasks (device, id);
CREATE INDEX open_tasks_of_device ON tasks (device, id) WHERE open = 1;
CREATE INDEX ended_tasks ON tasks (id) WHERE open = 0;

CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    device  INTEGER,
    session INTEGER,
    task    INTEGER,
    image   INTEGER,
    text    TEXT NOT NULL
) STRICT;

CREATE INDEX events_of_device ON events (device, id);
