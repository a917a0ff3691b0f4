-- The tokens by which operating systems that were deployed call home when they are up.
CREATE TABLE phone_homes (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    hash   BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    device INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE,
    made   INTEGER NOT NULL,
    -- When it called; NULL until then.
    called INTEGER
) STRICT;

CREATE INDEX phone_homes_of_device ON phone_homes (device, id);

-- What a task does, as one word: whose turn it is, is asked without reading every action.
ALTER TABLE tasks ADD COLUMN kind TEXT NOT NULL DEFAULT '';
UPDATE tasks SET kind = json_extract(action, '$.kind');
CREATE INDEX open_tasks_by_state ON tasks (state, kind, device, id) WHERE open = 1;
