-- Whoever waits for a change that another control plane makes is told of its end, as those are who wait for builds.

-- A sandbox has left a state between two. Starts are not told: nobody but the maker of a sandbox has its id by then, and a transaction that
-- tells holds a lock of the whole database until its commit is on the disk.
CREATE FUNCTION tell_of_sandbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('sandbar_sandboxes', NEW.id::text);
    RETURN NULL;
END;
$$;
CREATE TRIGGER sandboxes_tell AFTER UPDATE OF status ON sandboxes
    FOR EACH ROW WHEN (OLD.status IN ('pausing', 'resuming', 'snapshotting') AND NEW.status <> OLD.status)
    EXECUTE FUNCTION tell_of_sandbox();

-- A template's files have arrived on a host, or will not.
CREATE FUNCTION tell_of_fetch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('sandbar_fetches', OLD.template_id::text);
    RETURN NULL;
END;
$$;
CREATE TRIGGER template_locations_tell AFTER UPDATE OF state ON template_locations
    FOR EACH ROW WHEN (OLD.state = 'fetching' AND NEW.state <> 'fetching') EXECUTE FUNCTION tell_of_fetch();
CREATE TRIGGER template_locations_tell_deleted AFTER DELETE ON template_locations
    FOR EACH ROW WHEN (OLD.state = 'fetching') EXECUTE FUNCTION tell_of_fetch();
