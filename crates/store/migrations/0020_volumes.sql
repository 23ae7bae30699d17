-- Volumes of teams: disks that outlive sandboxes and are mounted by name.

-- A row is there before its host is asked for the volume, and goes after the host has deleted it, so no host has one that is in no row.
CREATE TABLE volumes (
    id                    UUID PRIMARY KEY,
    team_id               UUID NOT NULL REFERENCES teams (id),
    name                  TEXT NOT NULL CHECK (name ~ '^[A-Za-z0-9_-]{1,128}$'),
    size_mb               INTEGER NOT NULL CHECK (size_mb > 0),
    host_id               UUID NOT NULL REFERENCES hosts (id),
    -- 'deleting' = gone, to everybody but the host, which owes the deletion.
    status                TEXT NOT NULL DEFAULT 'creating' CHECK (status IN ('creating', 'ready', 'deleting')),
    -- The sandbox that has it, until that ends.
    sandbox_id            UUID REFERENCES sandboxes (id) ON DELETE SET NULL,
    -- Whether that is the platform's own, which serves the files and ends when somebody wants the volume.
    serving               BOOLEAN NOT NULL DEFAULT FALSE,
    -- None: a key of the team made it, or who did so is gone.
    created_by            UUID REFERENCES users (id) ON DELETE SET NULL,
    created_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    transition_started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT volumes_had CHECK (sandbox_id IS NULL OR status = 'ready')
);
CREATE UNIQUE INDEX volumes_name ON volumes (team_id, name) WHERE status <> 'deleting';
CREATE INDEX volumes_page ON volumes (team_id, created_at DESC, id DESC);
CREATE INDEX volumes_host ON volumes (host_id);
CREATE INDEX volumes_sandbox ON volumes (sandbox_id);
CREATE INDEX volumes_creator ON volumes (created_by);
CREATE TRIGGER volumes_team_lives BEFORE INSERT ON volumes FOR EACH ROW EXECUTE FUNCTION team_must_live();

-- What a sandbox was made with, as `sandbar_types::VolumeMount` has it: `[{"id": ..., "name": ..., "path": ...}]`.
ALTER TABLE sandboxes ADD COLUMN volumes JSONB NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(volumes) = 'array');

-- Whoever ends a sandbox, its volumes are free with that.
CREATE FUNCTION free_volumes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE volumes SET sandbox_id = NULL, serving = FALSE WHERE sandbox_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER sandboxes_free_volumes AFTER UPDATE OF status ON sandboxes
    FOR EACH ROW WHEN (NEW.volumes <> '[]' AND NEW.status IN ('stopped', 'error')) EXECUTE FUNCTION free_volumes();

ALTER TABLE team_quotas ADD COLUMN max_volumes INTEGER CHECK (max_volumes >= 0);
ALTER TABLE team_quotas ADD COLUMN max_volume_mb BIGINT CHECK (max_volume_mb >= 0);
