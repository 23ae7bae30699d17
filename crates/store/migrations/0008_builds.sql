-- Builds of templates.

-- Who asked, in the audit trail's words: whoever finishes the build tells the trail on their behalf.
ALTER TABLE template_builds ADD COLUMN operation JSONB CHECK (jsonb_typeof(operation) = 'object');
-- How long the healthcheck may take to pass.
ALTER TABLE template_builds ADD COLUMN healthcheck_sec INTEGER NOT NULL DEFAULT 120 CHECK (healthcheck_sec BETWEEN 1 AND 3600);

-- Whether output beyond the limit was dropped.
ALTER TABLE template_build_logs ADD COLUMN truncated BOOLEAN NOT NULL DEFAULT FALSE;

-- Sandboxes in which builds run are the platform's, so that no team sees them; which build and which attempt, their metadata says.
CREATE INDEX sandboxes_of_builds ON sandboxes ((metadata ->> 'build'))
    WHERE team_id = '00000000-0000-0000-0000-000000000000' AND metadata ? 'build' AND status NOT IN ('stopping', 'stopped', 'error');

-- Whoever waits for a build is woken by its changes: readers of its progress, and workers when there is something to take.
CREATE FUNCTION tell_of_build() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('sandbar_builds', NEW.id::text);
    IF NEW.status = 'pending' THEN
        PERFORM pg_notify('sandbar_build_queue', NEW.id::text);
    END IF;
    RETURN NULL;
END;
$$;
CREATE TRIGGER template_builds_tell AFTER INSERT OR UPDATE OF status, current_step, cancel_asked ON template_builds
    FOR EACH ROW EXECUTE FUNCTION tell_of_build();
CREATE FUNCTION tell_of_build_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('sandbar_builds', NEW.build_id::text);
    RETURN NULL;
END;
$$;
CREATE TRIGGER template_build_logs_tell AFTER INSERT OR UPDATE ON template_build_logs
    FOR EACH ROW EXECUTE FUNCTION tell_of_build_log();
