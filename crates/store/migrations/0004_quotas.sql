-- Quotas of teams. The limits are in `team_quotas`; what a team has is counted under the lock of its row, which everything takes
-- that adds to it: no counter can drift.

-- The states in which a sandbox counts, as `SandboxStatus::occupies` has them. The count reads no more entries than the quota allows.
CREATE INDEX sandboxes_occupying ON sandboxes (team_id) INCLUDE (vcpus, memory_mb)
    WHERE status IN ('pending', 'starting', 'running', 'pausing', 'resuming', 'snapshotting', 'missing');
CREATE INDEX template_builds_unfinished ON template_builds (team_id) WHERE status IN ('pending', 'running');

-- Who began a change is kept until the change comes to rest, no longer: a sandbox that goes missing later has none under way.
UPDATE sandboxes SET operation = NULL WHERE status IN ('running', 'paused', 'starting', 'missing');
