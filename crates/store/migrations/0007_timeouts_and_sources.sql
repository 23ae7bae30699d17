-- What E2B's clients need to be told.

-- From when the time-out counts: from the last use, or from when the sandbox was made, resumed or given it.
ALTER TABLE sandboxes ADD COLUMN timeout_from TEXT NOT NULL DEFAULT 'activity' CHECK (timeout_from IN ('activity', 'start'));

-- The sandbox that a snapshot was made of. It may be older than the platform remembers its sandboxes: no reference.
ALTER TABLE templates ADD COLUMN source_id UUID;
CREATE INDEX templates_source ON templates (source_id, created_at DESC, id DESC) WHERE deleted_at IS NULL;

-- Lists in the order of the starts.
CREATE INDEX sandboxes_by_start ON sandboxes (team_id, started_at DESC, id DESC) WHERE status NOT IN ('stopped', 'error');
