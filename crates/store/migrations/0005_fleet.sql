-- Many hosts.

-- What an operator wants of a host is one thing, what is known of it another: one that drains and falls silent is `unreachable`, and
-- drains on when it is back.
ALTER TABLE hosts ADD COLUMN draining BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE hosts SET draining = TRUE WHERE status = 'draining';

-- What is promised of a host is summed up for each placement: from the index alone.
DROP INDEX sandboxes_host;
CREATE INDEX sandboxes_host ON sandboxes (host_id, status) INCLUDE (team_id, vcpus, memory_mb, disk_mb)
    WHERE status NOT IN ('stopped', 'error');

CREATE INDEX hosts_page ON hosts (created_at DESC, id DESC) WHERE deleted_at IS NULL;

ALTER TABLE host_tags ADD COLUMN created_at TIMESTAMPTZ NOT NULL DEFAULT now();
