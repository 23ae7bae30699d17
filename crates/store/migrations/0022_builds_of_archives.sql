-- Builds: what is kept of them, what their steps are given, and whose request they belong to; uploads that go on where they broke off.

-- What is made: `snapshot` has the memory of the sandbox that it was built in, `base` is its disk alone.
ALTER TABLE template_builds ADD COLUMN kind TEXT NOT NULL DEFAULT 'snapshot' CHECK (kind IN ('snapshot', 'base'));
-- By the name of a variable of RUN steps, the name of a secret of the team's. Values are looked up for each attempt, and written nowhere.
ALTER TABLE template_builds ADD COLUMN secrets JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(secrets) = 'object');
-- What the request that asked for it was part of (W3C Trace Context, `traceparent`); none = nobody traced it.
ALTER TABLE template_builds ADD COLUMN trace TEXT CHECK (length(trace) <= 64);

-- Of an archive that arrives, how much is kept, in whole parts. `interrupted`: its upload broke off, and another may go on there for an hour.
ALTER TABLE build_files ADD COLUMN received BIGINT NOT NULL DEFAULT 0 CHECK (received >= 0);
ALTER TABLE build_files DROP CONSTRAINT build_files_state_check;
ALTER TABLE build_files ADD CONSTRAINT build_files_state_check
    CHECK (state IN ('arriving', 'interrupted', 'ready', 'leaving'));
