-- Templates on their way between hosts, and to and from object storage.

-- Who is fetching a template's files to a host, and until when nobody else does; none where the host makes them itself.
ALTER TABLE template_locations ADD COLUMN fetcher UUID;
ALTER TABLE template_locations ADD COLUMN fetcher_until TIMESTAMPTZ;
ALTER TABLE template_locations ADD CONSTRAINT template_locations_fetcher
    CHECK ((fetcher IS NULL) = (fetcher_until IS NULL) AND (fetcher IS NULL OR state = 'fetching'));

-- Copies of templates in object storage: there before the first object is, and gone after the last. Who is making or deleting one, and until
-- when nobody else does. One whose template is deleted owes the deletion of its objects.
CREATE TABLE template_copies (
    template_id  UUID PRIMARY KEY REFERENCES templates (id),
    copier       UUID,
    copier_until TIMESTAMPTZ,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    CHECK ((copier IS NULL) = (copier_until IS NULL))
);
CREATE INDEX templates_to_copy ON templates (created_at) WHERE deleted_at IS NULL AND ready_at IS NOT NULL AND NOT durable;
