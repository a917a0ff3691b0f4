-- What a device boots is its own profile, by name, or what the rules say.
ALTER TABLE devices ADD COLUMN own_profile TEXT;
UPDATE devices SET own_profile = 'local' WHERE profile = 'local';
ALTER TABLE devices DROP COLUMN profile;
-- The profile that it boots once, the next time.
ALTER TABLE devices ADD COLUMN next_profile TEXT;
-- Whether its firmware starts signed programs alone.
ALTER TABLE devices ADD COLUMN secure_boot INTEGER NOT NULL DEFAULT 0 CHECK (secure_boot IN (0, 1));
-- What was learned of its firmware: JSON.
ALTER TABLE devices ADD COLUMN quirks TEXT NOT NULL DEFAULT '{}';
-- How many boots it began since one had an outcome.
ALTER TABLE devices ADD COLUMN tries INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0);

-- Profiles and rules are read whole: JSON.
CREATE TABLE profiles (
    name TEXT PRIMARY KEY CHECK (name <> ''),
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE rules (
    position INTEGER PRIMARY KEY,
    profile  TEXT NOT NULL,
    body     TEXT NOT NULL
) STRICT;
