-- Statistics and usage.

-- What a team has running ---------------------------------------------------------------------------------------------

-- The one place that says what counts. Of what is paused half the memory does, rounded up.
CREATE VIEW team_reserved AS
    SELECT team_id,
           (count(*) FILTER (WHERE status <> 'paused'))::integer AS running_count,
           COALESCE(sum(vcpus) FILTER (WHERE status <> 'paused'), 0)::integer AS vcpus,
           COALESCE(sum(memory_mb) FILTER (WHERE status <> 'paused'), 0)
               + (COALESCE(sum(memory_mb) FILTER (WHERE status = 'paused'), 0) + 1) / 2 AS memory_mb
    FROM sandboxes
    WHERE status IN ('starting', 'running', 'paused')
    GROUP BY team_id;
-- Asked every ten seconds for all teams, and by each look at a team's figures.
CREATE INDEX sandboxes_counted ON sandboxes (team_id, status) INCLUDE (vcpus, memory_mb)
    WHERE status IN ('starting', 'running', 'paused');

-- A point holds the largest values of the seconds that it stands for, so merging points loses no peak.
-- No reference to the team: each point would write to the team's row, too, and those rows stay.
ALTER TABLE team_usage_snapshots DROP CONSTRAINT team_usage_snapshots_team_id_fkey;
DROP INDEX team_usage_snapshots_age;
CREATE INDEX team_usage_snapshots_age ON team_usage_snapshots (span_sec, at);

-- What a team used ----------------------------------------------------------------------------------------------------

-- Each stretch of time in which a sandbox ran: from `running` on, through pauses and snapshots that are under way, until it is anything
-- else. Written by a trigger, so with every change of state, whoever makes it, and in its transaction.
-- No reference to the sandbox: what was used stays so.
CREATE TABLE sandbox_runs (
    sandbox_id UUID NOT NULL,
    team_id    UUID NOT NULL,
    vcpus      INTEGER NOT NULL,
    memory_mb  INTEGER NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    -- 'infinity' = it runs.
    ended_at   TIMESTAMPTZ NOT NULL DEFAULT 'infinity' CHECK (ended_at >= started_at),
    PRIMARY KEY (sandbox_id, started_at)
);
CREATE UNIQUE INDEX sandbox_runs_open ON sandbox_runs (sandbox_id) WHERE ended_at = 'infinity';
CREATE INDEX sandbox_runs_team ON sandbox_runs (team_id, ended_at);
CREATE INDEX sandbox_runs_age ON sandbox_runs (ended_at);

-- The clock, not the transaction's start: the row is held, so what is written of one sandbox is in order. A clock that was set back must
-- make no time count twice.
CREATE FUNCTION sandbox_runs_follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = 'running' THEN
        INSERT INTO sandbox_runs (sandbox_id, team_id, vcpus, memory_mb, started_at)
        SELECT NEW.id, NEW.team_id, NEW.vcpus, NEW.memory_mb,
               GREATEST(clock_timestamp(), max(r.ended_at) + interval '1 microsecond')
        FROM sandbox_runs r WHERE r.sandbox_id = NEW.id
        HAVING max(r.ended_at) IS NULL OR max(r.ended_at) <> 'infinity';
    ELSIF NEW.status NOT IN ('pausing', 'snapshotting') THEN
        UPDATE sandbox_runs SET ended_at = GREATEST(started_at, clock_timestamp())
        WHERE sandbox_id = NEW.id AND ended_at = 'infinity';
    END IF;
    RETURN NULL;
END;
$$;
CREATE TRIGGER sandboxes_runs AFTER UPDATE OF status ON sandboxes
    FOR EACH ROW WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION sandbox_runs_follow();
CREATE TRIGGER sandboxes_runs_inserted AFTER INSERT ON sandboxes
    FOR EACH ROW WHEN (NEW.status = 'running') EXECUTE FUNCTION sandbox_runs_follow();

-- Before this there was no account of it.
INSERT INTO sandbox_runs (sandbox_id, team_id, vcpus, memory_mb, started_at)
SELECT id, team_id, vcpus, memory_mb, now() FROM sandboxes WHERE status IN ('running', 'pausing');

-- Days that are over are summed up once; those from `counted_to` on are summed when somebody asks.
CREATE TABLE usage_counted (
    only_row     BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    -- The first day that there is an account of.
    counted_from DATE NOT NULL,
    counted_to   DATE NOT NULL CHECK (counted_to >= counted_from)
);
INSERT INTO usage_counted (counted_from, counted_to)
SELECT day, day FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS day) today;
-- How far the days are counted is the same for all teams.
ALTER TABLE team_daily_usage DROP COLUMN counted_to;

-- Of one sandbox's run, the seconds that fall between two moments: exact to the microsecond.
CREATE FUNCTION seconds_within(started TIMESTAMPTZ, ended TIMESTAMPTZ, low TIMESTAMPTZ, high TIMESTAMPTZ) RETURNS NUMERIC
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT GREATEST(EXTRACT(EPOCH FROM LEAST(ended, high)) - EXTRACT(EPOCH FROM GREATEST(started, low)), 0)
$$;
