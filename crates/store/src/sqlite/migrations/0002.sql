-- Whether the task's rule has become the one disk that a deploy has chosen.
ALTER TABLE tasks ADD COLUMN disk_pinned INTEGER NOT NULL DEFAULT 0 CHECK (disk_pinned IN (0, 1));
