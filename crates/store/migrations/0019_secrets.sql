-- Secrets of teams: what sandboxes are given as environment, and nobody reads again.

-- Only the current version is kept. `sealed` is the value under a key of the platform's that the master key seals, bound to this row's id and
-- version: the ciphertext of another row, or of an earlier version, does not open here.
CREATE TABLE team_secrets (
    id         UUID PRIMARY KEY,
    team_id    UUID NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name       TEXT NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,127}$' AND name NOT LIKE 'sec\_%'),
    version    INTEGER NOT NULL DEFAULT 1 CHECK (version > 0),
    sealed     BYTEA NOT NULL,
    metadata   JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    -- None: a key of the team made it, or who did so is gone.
    created_by UUID REFERENCES users (id) ON DELETE SET NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT team_secrets_name UNIQUE (team_id, name)
);
CREATE INDEX team_secrets_page ON team_secrets (team_id, created_at DESC, id DESC);
CREATE INDEX team_secrets_creator ON team_secrets (created_by);
CREATE TRIGGER team_secrets_team_lives BEFORE INSERT ON team_secrets FOR EACH ROW EXECUTE FUNCTION team_must_live();

ALTER TABLE team_quotas ADD COLUMN max_secrets INTEGER CHECK (max_secrets >= 0);
