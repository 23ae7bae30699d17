-- Pauses that keep the disk alone.

-- What the pause kept of a sandbox that is paused: its memory and disk, or its disk alone. NULL while it is not paused; of one that was
-- paused before this column was, that is its memory and disk.
ALTER TABLE sandboxes ADD COLUMN pause_mode TEXT CHECK (pause_mode IN ('full', 'filesystem'));

ALTER TABLE sandboxes DROP CONSTRAINT sandboxes_on_timeout_check;
ALTER TABLE sandboxes ADD CONSTRAINT sandboxes_on_timeout_check
    CHECK (on_timeout IN ('kill', 'pause', 'pause_filesystem'));
