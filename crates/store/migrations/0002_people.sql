-- People: accounts, sign-ins, teams. What the first model left to the transactions becomes the database's to hold.

-- Exactly one owner, exactly one default team ------------------------------------------------------------------------
-- That there is at most one is the unique indexes' business. That there is one is checked when a transaction commits, so that
-- it may pass through other states on its way.

CREATE FUNCTION team_has_an_owner(team UUID) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM teams t
        WHERE t.id = team AND t.deleted_at IS NULL AND t.id <> '00000000-0000-0000-0000-000000000000'
          AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.team_id = t.id AND m.role = 'owner')
    ) THEN
        RAISE EXCEPTION 'team % has no owner', team
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'teams_have_an_owner';
    END IF;
END;
$$;

-- Who belongs to a living team has a living default team.
CREATE FUNCTION person_has_a_default(person UUID) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM memberships m JOIN teams t ON t.id = m.team_id AND t.deleted_at IS NULL WHERE m.user_id = person
    ) AND NOT EXISTS (
        SELECT 1 FROM memberships m JOIN teams t ON t.id = m.team_id AND t.deleted_at IS NULL
        WHERE m.user_id = person AND m.is_default
    ) THEN
        RAISE EXCEPTION 'user % has no default team', person
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'people_have_a_default_team';
    END IF;
END;
$$;

CREATE FUNCTION memberships_are_whole() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM team_has_an_owner(OLD.team_id), person_has_a_default(OLD.user_id);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM team_has_an_owner(NEW.team_id), person_has_a_default(NEW.user_id);
    END IF;
    RETURN NULL;
END;
$$;
CREATE CONSTRAINT TRIGGER memberships_whole AFTER INSERT OR UPDATE OR DELETE ON memberships
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION memberships_are_whole();

CREATE FUNCTION teams_are_whole() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM team_has_an_owner(NEW.id);
    PERFORM person_has_a_default(m.user_id) FROM memberships m WHERE m.team_id = NEW.id;
    RETURN NULL;
END;
$$;
CREATE CONSTRAINT TRIGGER teams_whole AFTER INSERT OR UPDATE OF deleted_at ON teams
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION teams_are_whole();

-- Nothing is made for a deleted team ---------------------------------------------------------------------------------
-- The lock is what makes this hold: whoever deletes a team locks its row first (FOR NO KEY UPDATE), and so either sees what was made
-- before, or is seen by what would be made after. References to the team (FOR KEY SHARE), as each event of the audit trail makes one,
-- wait for nobody: their transactions hold rows that the deleting one is about to ask for.

CREATE FUNCTION team_must_live() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM teams WHERE id = NEW.team_id AND deleted_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'team % does not exist', NEW.team_id
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'team_must_live';
    END IF;
    RETURN NEW;
END;
$$;
CREATE TRIGGER sandboxes_team_lives BEFORE INSERT ON sandboxes FOR EACH ROW EXECUTE FUNCTION team_must_live();
CREATE TRIGGER templates_team_lives BEFORE INSERT ON templates FOR EACH ROW EXECUTE FUNCTION team_must_live();
CREATE TRIGGER template_builds_team_lives BEFORE INSERT ON template_builds FOR EACH ROW EXECUTE FUNCTION team_must_live();
CREATE TRIGGER hosts_team_lives BEFORE INSERT ON hosts FOR EACH ROW EXECUTE FUNCTION team_must_live();
CREATE TRIGGER api_keys_team_lives BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION team_must_live();
CREATE TRIGGER memberships_team_lives BEFORE INSERT ON memberships FOR EACH ROW EXECUTE FUNCTION team_must_live();

-- Signing in ---------------------------------------------------------------------------------------------------------

CREATE INDEX users_page ON users (created_at DESC, id DESC);

-- How often something was tried of late: a bucket that each attempt fills a little and time empties. Shared by all replicas.
-- Not logged: a crash of the database forgets it, which costs nothing that matters.
CREATE UNLOGGED TABLE sign_in_attempts (
    bucket     BYTEA PRIMARY KEY CHECK (octet_length(bucket) = 32),
    level      DOUBLE PRECISION NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX sign_in_attempts_age ON sign_in_attempts (updated_at);

-- What a page that comes back from an identity provider gets its token for: one use, a minute.
CREATE TABLE sign_in_codes (
    code_hash  BYTEA PRIMARY KEY CHECK (octet_length(code_hash) = 32),
    user_id    UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX sign_in_codes_expiry ON sign_in_codes (expires_at);

-- The audit trail ----------------------------------------------------------------------------------------------------

-- The transaction that wrote an event. `created_at` is when that transaction began, so a row may appear below rows that were
-- read already. A walk through the pages keeps to the snapshot of its first page, and so sees a set that does not change.
ALTER TABLE audit_logs ADD COLUMN xid XID8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX audit_logs_everywhere ON audit_logs (created_at DESC, id DESC);
DROP INDEX audit_logs_age;
