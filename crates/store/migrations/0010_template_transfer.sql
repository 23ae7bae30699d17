-- Templates on their way between hosts, and to and from object storage.

-- Who is fetching a template's files to a host, and until when nobody else does; none where the host makes them itself.
ALTER TABLE template_locations ADD COLUMN fetcher UUID;
ALTER TABLE template_locations ADD COLUMN fetcher_until TIMESTAMPTZ;
ALTER TABLE template_locations ADD CONSTRAINT template_locations_fetcher
    CHECK ((fetcher IS NULL) = (fetcher_until IS NULL) AND (fetcher IS NULL OR state = 'fetching'));
