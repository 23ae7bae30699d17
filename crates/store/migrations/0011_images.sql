-- Builds that start from a registry's image.

-- The disk of a build from an image; none = the base's.
ALTER TABLE template_builds ADD COLUMN disk_mb INTEGER CHECK (disk_mb > 0);

-- A template that a host made of an image for one attempt at a build, and that goes with it: whose claim's it is. It is never ready, so that
-- nobody else uses it or sees it.
ALTER TABLE templates ADD COLUMN build_id UUID;
ALTER TABLE templates ADD COLUMN build_worker TEXT;
ALTER TABLE templates ADD CONSTRAINT templates_of_build
    CHECK ((build_id IS NULL) = (build_worker IS NULL) AND (build_id IS NULL OR (draft AND ready_at IS NULL)));
CREATE INDEX templates_of_builds ON templates (build_id) WHERE build_id IS NOT NULL AND deleted_at IS NULL;
