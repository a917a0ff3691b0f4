-- What switches devices: one driver for each role.
CREATE TABLE power_drivers (
    device INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE,
    role   TEXT NOT NULL,
    -- How it switches, as JSON. Nothing in it is secret.
    driver TEXT NOT NULL,
    -- Passwords and tokens, encrypted with a key that is not in this file.
    sealed BLOB,
    -- How sessions with it were had when they last were.
    known  TEXT,
    PRIMARY KEY (device, role)
) STRICT;
