-- Pause, resume, snapshots and forks.

-- Who began the change that is under way, in the audit trail's words, so that whoever finishes it (this control plane or the one
-- after it) tells the trail on their behalf: action, actor_type, actor_id, actor_name, request_id. It stays when the change is done.
ALTER TABLE sandboxes ADD COLUMN operation JSONB CHECK (jsonb_typeof(operation) = 'object');
ALTER TABLE templates ADD COLUMN operation JSONB CHECK (jsonb_typeof(operation) = 'object');

-- A draft is made to take the place of the template that has its name. Until its files are complete both rows exist.
ALTER TABLE templates ADD COLUMN draft BOOLEAN NOT NULL DEFAULT FALSE;
DROP INDEX templates_name;
CREATE UNIQUE INDEX templates_name ON templates (team_id, name) WHERE deleted_at IS NULL AND NOT draft;

-- As hosts tell it: a figure that was kept is the one that was shown.
ALTER TABLE sandbox_metric_points ALTER COLUMN cpu_pct TYPE DOUBLE PRECISION;
