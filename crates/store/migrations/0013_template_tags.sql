-- Tags of templates, and builds as E2B's clients ask for them.

-- What a template is called besides by its name alone. The tag `default` has no row: it is whoever holds the name. A draft that is ready holds
-- tags and not the name; one that holds neither is deleted by whoever took its last.
CREATE TABLE template_tags (
    team_id     UUID NOT NULL REFERENCES teams (id),
    name        TEXT NOT NULL,
    tag         TEXT NOT NULL CHECK (tag ~ '^[a-z0-9._-]{1,128}$' AND tag <> 'default'),
    template_id UUID NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (team_id, name, tag)
);
CREATE INDEX template_tags_template ON template_tags (template_id);

-- A deleted template has no tags, whoever deletes it.
CREATE FUNCTION forget_tags() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM template_tags WHERE template_id = NEW.id;
    RETURN NULL;
END;
$$;
CREATE TRIGGER templates_forget_tags AFTER UPDATE OF deleted_at ON templates
    FOR EACH ROW WHEN (NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION forget_tags();

-- What all builds of one name are together known by, from before the first of them: E2B's `templateID`.
CREATE FUNCTION template_name_id(team_id UUID, name TEXT) RETURNS UUID LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT encode(substring(sha256((team_id::text || '/' || name)::bytea) FROM 1 FOR 16), 'hex')::uuid
$$;
CREATE INDEX templates_name_id ON templates (template_name_id(team_id, name)) WHERE deleted_at IS NULL;

-- Whose words a build's steps are, and so what they find where nobody has said otherwise.
ALTER TABLE template_builds ADD COLUMN dialect TEXT NOT NULL DEFAULT 'recipe' CHECK (dialect IN ('recipe', 'e2b'));
-- What its template is tagged with.
ALTER TABLE template_builds ADD COLUMN tags TEXT[] NOT NULL DEFAULT '{default}' CHECK (cardinality(tags) > 0);
-- Which of the base's builds it starts from, where the base is a template.
ALTER TABLE template_builds ADD COLUMN base_tag TEXT NOT NULL DEFAULT 'default';
-- What its owner is told before the first step.
ALTER TABLE template_builds ADD COLUMN note TEXT;
CREATE INDEX template_builds_name ON template_builds (team_id, name);
CREATE INDEX template_builds_template ON template_builds (template_id) WHERE template_id IS NOT NULL;

-- Builds that have an id and a name, and no steps yet: E2B's clients ask for the one before they send the other. They are nobody's to run.
CREATE TABLE announced_builds (
    id         UUID PRIMARY KEY,
    team_id    UUID NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    tags       TEXT[] NOT NULL CHECK (cardinality(tags) > 0),
    vcpus      INTEGER,
    memory_mb  INTEGER,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX announced_builds_team ON announced_builds (team_id);
CREATE INDEX announced_builds_age ON announced_builds (created_at);

-- How many entries a step's log is to whoever reads all of a build's as one list, to which is only ever added: its command, the whole lines of its
-- output, and once it has ended what is left of that and the lines of its errors.
CREATE FUNCTION lines_of(text TEXT, ended BOOLEAN) RETURNS INTEGER LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT length(text) - length(replace(text, E'\n', ''))
           + CASE WHEN ended AND text <> '' AND right(text, 1) <> E'\n' THEN 1 ELSE 0 END
$$;
ALTER TABLE template_build_logs ADD COLUMN entries INTEGER NOT NULL GENERATED ALWAYS AS (
    1 + lines_of(stdout, duration_ms IS NOT NULL) + CASE WHEN duration_ms IS NULL THEN 0 ELSE lines_of(stderr, TRUE) END
) STORED;
