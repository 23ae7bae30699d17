-- Pauses without memory are kept in object storage as well.

DROP INDEX sandboxes_to_keep;
CREATE INDEX sandboxes_to_keep ON sandboxes (transition_started_at) WHERE status = 'paused' AND kept_as IS NULL;
