-- Files that clients bring for their builds.

-- An archive, kept as parts in object storage or in a folder, named by this row's id. The row is there before the first part and goes after the
-- last, so that nothing is kept that nobody knows of. `arriving`: it is being uploaded, and `size` is what was reserved for it; `ready`: builds may use it;
-- `leaving`: replaced or not used any more, its parts are owed to be deleted.
CREATE TABLE build_files (
    id         UUID PRIMARY KEY,
    team_id    UUID NOT NULL REFERENCES teams (id),
    -- 64 hexadecimal digits: the SHA-256 of the archive; with `client:` before them: what the client calls it.
    name       TEXT NOT NULL CHECK (name ~ '^(client:)?[0-9a-f]{64}$'),
    state      TEXT NOT NULL DEFAULT 'arriving' CHECK (state IN ('arriving', 'ready', 'leaving')),
    size       BIGINT NOT NULL CHECK (size >= 0),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    used_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX build_files_ready ON build_files (team_id, name) WHERE state = 'ready';
CREATE INDEX build_files_of_team ON build_files (team_id);
CREATE INDEX build_files_by_use ON build_files (used_at);

-- The names of the archives that a build's steps copy from.
ALTER TABLE template_builds ADD COLUMN files TEXT[] NOT NULL DEFAULT '{}';
-- Credentials for the registry of its image, sealed with the master key; none from the build's end on.
ALTER TABLE template_builds ADD COLUMN registry BYTEA;
ALTER TABLE template_builds ADD CONSTRAINT template_builds_registry
    CHECK (registry IS NULL OR status NOT IN ('success', 'failed', 'cancelled'));
-- However it ends, and whoever says so.
CREATE FUNCTION forget_registry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.registry := NULL;
    RETURN NEW;
END;
$$;
CREATE TRIGGER template_builds_forget_registry BEFORE UPDATE OF status ON template_builds
    FOR EACH ROW WHEN (NEW.status IN ('success', 'failed', 'cancelled')) EXECUTE FUNCTION forget_registry();
