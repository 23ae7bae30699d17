-- Paused sandboxes in object storage.

-- A template that is one sandbox's pause: no team's to see or use, and gone with the pause.
ALTER TABLE templates ADD COLUMN is_pause BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE templates ADD CONSTRAINT templates_of_pause
    CHECK (NOT is_pause OR (draft AND source_id IS NOT NULL AND build_id IS NULL));
CREATE INDEX templates_pauses ON templates (id) WHERE is_pause AND deleted_at IS NULL;

-- What a paused sandbox is kept as: the very pause that it is in, and no earlier one. `durable` says that object storage has all of it; then
-- the sandbox needs no host.
ALTER TABLE sandboxes ADD COLUMN kept_as UUID REFERENCES templates (id);
UPDATE sandboxes SET durable = FALSE WHERE durable;
ALTER TABLE sandboxes ADD CONSTRAINT sandboxes_durable CHECK (NOT durable OR kept_as IS NOT NULL);
ALTER TABLE sandboxes DROP CONSTRAINT sandboxes_placed;
ALTER TABLE sandboxes ADD CONSTRAINT sandboxes_placed
    CHECK (host_id IS NOT NULL OR status IN ('pending', 'stopping', 'stopped', 'error') OR (status = 'paused' AND durable));
CREATE INDEX sandboxes_kept_as ON sandboxes (kept_as) WHERE kept_as IS NOT NULL;
CREATE INDEX sandboxes_to_keep ON sandboxes (transition_started_at) WHERE status = 'paused' AND pause_mode IS DISTINCT FROM 'filesystem' AND kept_as IS NULL;

-- The copy is good for as long as nothing can have happened after it: while the sandbox is paused, is copied as that, or is being restored from
-- it on another host. Whatever else becomes of the sandbox, the copy is nobody's from then on, in the same transaction.
CREATE FUNCTION sandbox_copy_follows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (CASE NEW.status
        -- Paused after it ran on a host, it is in another pause. Without a host it is in the one that was copied.
        WHEN 'paused' THEN OLD.status IN ('paused', 'snapshotting') OR NEW.host_id IS NULL
        WHEN 'snapshotting' THEN OLD.status = 'paused'
        -- On its own host it goes on from that host's files.
        WHEN 'resuming' THEN NEW.host_id IS DISTINCT FROM OLD.host_id
        WHEN 'missing' THEN OLD.status = 'resuming'
        ELSE FALSE
    END) THEN
        NEW.kept_as := NULL;
        NEW.durable := FALSE;
    END IF;
    RETURN NEW;
END;
$$;
CREATE TRIGGER sandboxes_copy BEFORE UPDATE OF status, host_id ON sandboxes
    FOR EACH ROW WHEN (OLD.kept_as IS NOT NULL) EXECUTE FUNCTION sandbox_copy_follows();
