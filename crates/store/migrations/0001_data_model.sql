-- The data model.
--
-- Ids are UUIDs (version 7, made by the application). TEXT is for names and for columns that hold ids of several kinds.
-- Words (states, kinds, roles) are TEXT with a CHECK: adding one is a cheap migration, and `crates/types` has the same list.
-- Every status is written by compare-and-set; `generation` grows with each change of it.

-- People and teams ---------------------------------------------------------------------------------------------------

CREATE TABLE users (
    id            UUID PRIMARY KEY,
    email         TEXT NOT NULL CHECK (email <> '' AND length(email) <= 320),
    name          TEXT NOT NULL CHECK (name <> '' AND length(name) <= 100),
    -- argon2id, in PHC form. None: the person signs in through an identity provider only.
    password_hash TEXT,
    is_admin      BOOLEAN NOT NULL DEFAULT FALSE,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);
-- One account per address, however it is spelt; also the index for the search by prefix.
CREATE UNIQUE INDEX users_email ON users (lower(email) text_pattern_ops);

CREATE TABLE oauth_identities (
    provider   TEXT NOT NULL CHECK (provider <> ''),
    -- The provider's id of the person, never their address: addresses change hands.
    subject    TEXT NOT NULL CHECK (subject <> ''),
    user_id    UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    email      TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, subject)
);
CREATE UNIQUE INDEX oauth_identities_user ON oauth_identities (user_id, provider);

-- A sign-in. Its JWT names it; a revoked or expired one is refused at the next request.
CREATE TABLE sessions (
    id           UUID PRIMARY KEY,
    user_id      UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    user_agent   TEXT NOT NULL DEFAULT '',
    address      INET,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_used_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at   TIMESTAMPTZ NOT NULL,
    revoked_at   TIMESTAMPTZ
);
CREATE INDEX sessions_user ON sessions (user_id) WHERE revoked_at IS NULL;
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE teams (
    id         UUID PRIMARY KEY,
    name       TEXT NOT NULL CHECK (name <> '' AND length(name) <= 128),
    -- Stays reserved after the team's deletion: the row stays.
    slug       TEXT NOT NULL UNIQUE CHECK (slug ~ '^[0-9a-f]{6}-[0-9a-f]{6}$'),
    is_byoc    BOOLEAN NOT NULL DEFAULT FALSE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    deleted_at TIMESTAMPTZ
);
CREATE INDEX teams_page ON teams (created_at DESC, id DESC) WHERE deleted_at IS NULL;

-- None = the platform's defaults.
CREATE TABLE team_quotas (
    team_id       UUID PRIMARY KEY REFERENCES teams (id) ON DELETE CASCADE,
    max_sandboxes INTEGER CHECK (max_sandboxes >= 0),
    max_vcpus     INTEGER CHECK (max_vcpus >= 0),
    max_memory_mb BIGINT CHECK (max_memory_mb >= 0),
    max_snapshots INTEGER CHECK (max_snapshots >= 0),
    max_builds    INTEGER CHECK (max_builds >= 0),
    updated_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE memberships (
    team_id    UUID NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    user_id    UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role       TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    is_default BOOLEAN NOT NULL DEFAULT FALSE,
    joined_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (team_id, user_id)
);
-- At most one owner of a team, and at most one default team of a person. That there is one is the transactions' duty.
CREATE UNIQUE INDEX memberships_owner ON memberships (team_id) WHERE role = 'owner';
CREATE UNIQUE INDEX memberships_default ON memberships (user_id) WHERE is_default;
CREATE INDEX memberships_user ON memberships (user_id);

CREATE TABLE api_keys (
    id           UUID PRIMARY KEY,
    team_id      UUID NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name         TEXT NOT NULL CHECK (name <> '' AND length(name) <= 100),
    -- SHA-256: the key is 160 random bits, so a slow hash would protect nothing.
    key_hash     BYTEA NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    -- What lists show, to tell keys apart.
    key_prefix   TEXT NOT NULL CHECK (length(key_prefix) <= 16),
    created_by   UUID REFERENCES users (id) ON DELETE SET NULL,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_used_at TIMESTAMPTZ,
    expires_at   TIMESTAMPTZ,
    revoked_at   TIMESTAMPTZ
);
CREATE INDEX api_keys_team ON api_keys (team_id, created_at DESC, id DESC);
CREATE INDEX api_keys_creator ON api_keys (created_by);

-- Hosts --------------------------------------------------------------------------------------------------------------

CREATE TABLE hosts (
    id                    UUID PRIMARY KEY,
    kind                  TEXT NOT NULL CHECK (kind IN ('regular', 'byoc')),
    -- The platform team for regular hosts.
    team_id               UUID NOT NULL REFERENCES teams (id),
    provider              TEXT CHECK (length(provider) <= 128),
    availability_zone     TEXT CHECK (length(availability_zone) <= 128),
    -- What the agent said at its registration.
    arch                  TEXT CHECK (arch IN ('x86_64', 'aarch64')),
    vmm                   TEXT CHECK (vmm IN ('firecracker', 'qemu')),
    cpu_cores             INTEGER CHECK (cpu_cores > 0),
    memory_mb             INTEGER CHECK (memory_mb > 0),
    disk_gb               INTEGER CHECK (disk_gb > 0),
    address               TEXT,
    status                TEXT NOT NULL DEFAULT 'pending'
                          CHECK (status IN ('pending', 'online', 'offline', 'draining', 'unreachable')),
    -- Tokens of an earlier epoch are refused: a new registration ends the credentials of the one before.
    credential_epoch      INTEGER NOT NULL DEFAULT 0,
    last_heartbeat_at     TIMESTAMPTZ,
    -- Of the last heartbeat, and of the last inventory that rows were held against.
    inventory_generation  BIGINT,
    reconciled_generation BIGINT,
    load                  JSONB NOT NULL DEFAULT '{}',
    generation            BIGINT NOT NULL DEFAULT 1,
    created_by            UUID REFERENCES users (id) ON DELETE SET NULL,
    created_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    deleted_at            TIMESTAMPTZ,
    CONSTRAINT hosts_registered CHECK (
        status = 'pending'
        OR (arch IS NOT NULL AND vmm IS NOT NULL AND cpu_cores IS NOT NULL AND memory_mb IS NOT NULL
            AND disk_gb IS NOT NULL AND address IS NOT NULL)
    )
);
CREATE INDEX hosts_team ON hosts (team_id) WHERE deleted_at IS NULL;
CREATE INDEX hosts_status ON hosts (status) WHERE deleted_at IS NULL;

-- One-time registration tokens.
CREATE TABLE host_tokens (
    id         UUID PRIMARY KEY,
    host_id    UUID NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    token_hash BYTEA NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    created_by UUID REFERENCES users (id) ON DELETE SET NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ NOT NULL,
    used_at    TIMESTAMPTZ
);
CREATE INDEX host_tokens_host ON host_tokens (host_id);

-- Refresh tokens. All that descend from one registration are a family: reuse after the grace revokes it whole.
CREATE TABLE host_refresh_tokens (
    id          UUID PRIMARY KEY,
    host_id     UUID NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    family_id   UUID NOT NULL,
    token_hash  BYTEA NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at  TIMESTAMPTZ NOT NULL,
    -- When its successor was made; it works once more within the grace, for the reply that was lost.
    replaced_at TIMESTAMPTZ,
    replaced_by UUID REFERENCES host_refresh_tokens (id) ON DELETE SET NULL,
    grace_used  BOOLEAN NOT NULL DEFAULT FALSE,
    revoked_at  TIMESTAMPTZ
);
CREATE INDEX host_refresh_tokens_host ON host_refresh_tokens (host_id);
CREATE INDEX host_refresh_tokens_family ON host_refresh_tokens (family_id);

CREATE TABLE host_tags (
    host_id UUID NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    tag     TEXT NOT NULL CHECK (tag <> '' AND length(tag) <= 64),
    PRIMARY KEY (host_id, tag)
);
CREATE INDEX host_tags_tag ON host_tags (tag);

-- Templates ----------------------------------------------------------------------------------------------------------

CREATE TABLE templates (
    id             UUID PRIMARY KEY,
    -- The platform team's are everybody's.
    team_id        UUID NOT NULL REFERENCES teams (id),
    name           TEXT NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    kind           TEXT NOT NULL CHECK (kind IN ('base', 'snapshot')),
    vcpus          INTEGER NOT NULL CHECK (vcpus BETWEEN 1 AND 32),
    memory_mb      INTEGER NOT NULL CHECK (memory_mb BETWEEN 128 AND 131072),
    disk_mb        INTEGER NOT NULL CHECK (disk_mb >= 0),
    size_bytes     BIGINT NOT NULL CHECK (size_bytes >= 0),
    arch           TEXT NOT NULL CHECK (arch IN ('x86_64', 'aarch64')),
    vmm            TEXT NOT NULL CHECK (vmm IN ('firecracker', 'qemu')),
    -- What a restore needs to be the same: only hosts that say the same can take its sandboxes.
    compatibility  TEXT NOT NULL DEFAULT '',
    -- Whether the files are in the shared object store.
    durable        BOOLEAN NOT NULL DEFAULT FALSE,
    -- Environment, working folder and user that its recipe left.
    defaults       JSONB NOT NULL DEFAULT '{}',
    created_by     UUID REFERENCES users (id) ON DELETE SET NULL,
    created_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- When its files were complete on the first host. Until then it is a name and an id that are taken: making the files
    -- under an id that is known beforehand can be repeated after an end at any moment.
    ready_at       TIMESTAMPTZ,
    deleted_at     TIMESTAMPTZ,
    CONSTRAINT templates_complete CHECK (ready_at IS NULL OR disk_mb > 0)
);
-- A deleted template stays while sandboxes that were made from it tell their template's name; its own name is free again.
CREATE UNIQUE INDEX templates_name ON templates (team_id, name) WHERE deleted_at IS NULL;
CREATE INDEX templates_page ON templates (team_id, created_at DESC, id DESC) WHERE deleted_at IS NULL;

-- Where a template's files are, and what is owed to each place.
CREATE TABLE template_locations (
    template_id UUID NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    host_id     UUID NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    state       TEXT NOT NULL CHECK (state IN ('fetching', 'ready', 'deleting')),
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (template_id, host_id)
);
CREATE INDEX template_locations_host ON template_locations (host_id, state);

CREATE TABLE template_builds (
    id            UUID PRIMARY KEY,
    team_id       UUID NOT NULL REFERENCES teams (id),
    name          TEXT NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    base_template TEXT NOT NULL,
    recipe        JSONB NOT NULL,
    healthcheck   TEXT,
    vcpus         INTEGER NOT NULL CHECK (vcpus BETWEEN 1 AND 32),
    memory_mb     INTEGER NOT NULL CHECK (memory_mb BETWEEN 128 AND 131072),
    status        TEXT NOT NULL DEFAULT 'pending'
                  CHECK (status IN ('pending', 'running', 'success', 'failed', 'cancelled')),
    current_step  INTEGER NOT NULL DEFAULT 0 CHECK (current_step >= 0),
    total_steps   INTEGER NOT NULL CHECK (total_steps >= 0),
    error         TEXT,
    template_id   UUID REFERENCES templates (id) ON DELETE SET NULL,
    sandbox_id    UUID,
    -- The lease of the worker that has it; past its end another may take it.
    worker        TEXT,
    leased_until  TIMESTAMPTZ,
    attempts      INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    cancel_asked  BOOLEAN NOT NULL DEFAULT FALSE,
    generation    BIGINT NOT NULL DEFAULT 1,
    created_by    UUID REFERENCES users (id) ON DELETE SET NULL,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    started_at    TIMESTAMPTZ,
    finished_at   TIMESTAMPTZ
);
CREATE INDEX template_builds_page ON template_builds (team_id, created_at DESC, id DESC);
CREATE INDEX template_builds_queue ON template_builds (created_at) WHERE status IN ('pending', 'running');

CREATE TABLE template_build_logs (
    build_id    UUID NOT NULL REFERENCES template_builds (id) ON DELETE CASCADE,
    step        INTEGER NOT NULL CHECK (step >= 0),
    attempt     INTEGER NOT NULL CHECK (attempt >= 1),
    cmd         TEXT NOT NULL,
    stdout      TEXT NOT NULL DEFAULT '',
    stderr      TEXT NOT NULL DEFAULT '',
    exit_code   INTEGER,
    started_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    duration_ms BIGINT CHECK (duration_ms >= 0),
    PRIMARY KEY (build_id, attempt, step)
);

-- Sandboxes ----------------------------------------------------------------------------------------------------------

CREATE TABLE sandboxes (
    id                    UUID PRIMARY KEY,
    team_id               UUID NOT NULL REFERENCES teams (id),
    template_id           UUID NOT NULL REFERENCES templates (id),
    -- None until a host is chosen.
    host_id               UUID REFERENCES hosts (id),
    status                TEXT NOT NULL DEFAULT 'pending'
                          CHECK (status IN ('pending', 'starting', 'running', 'pausing', 'paused', 'resuming',
                                            'snapshotting', 'missing', 'stopping', 'stopped', 'error')),
    -- Why it ended, where it did not end by request.
    status_reason         TEXT,
    -- Grows with each change of state: a reconciler's verdict on an older row is void.
    generation            BIGINT NOT NULL DEFAULT 1,
    vcpus                 INTEGER NOT NULL CHECK (vcpus BETWEEN 1 AND 32),
    memory_mb             INTEGER NOT NULL CHECK (memory_mb BETWEEN 128 AND 131072),
    disk_mb               INTEGER NOT NULL CHECK (disk_mb > 0),
    timeout_sec           INTEGER NOT NULL DEFAULT 0 CHECK (timeout_sec BETWEEN 0 AND 2592000),
    on_timeout            TEXT NOT NULL DEFAULT 'kill' CHECK (on_timeout IN ('kill', 'pause')),
    metadata              JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    -- Egress rules; none = the default. The environment is not kept: it may carry secrets, and the guest has it.
    network               JSONB,
    parent_id             UUID REFERENCES sandboxes (id) ON DELETE SET NULL,
    created_by            TEXT NOT NULL DEFAULT '',
    guest_ip              TEXT,
    host_ip               TEXT,
    -- Whether what a paused sandbox needs is in the shared object store.
    durable               BOOLEAN NOT NULL DEFAULT FALSE,
    created_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    started_at            TIMESTAMPTZ,
    last_active_at        TIMESTAMPTZ,
    expires_at            TIMESTAMPTZ,
    -- When it came into the state that it is in.
    transition_started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT sandboxes_placed CHECK (host_id IS NOT NULL OR status IN ('pending', 'stopping', 'stopped', 'error'))
);
CREATE INDEX sandboxes_page ON sandboxes (team_id, created_at DESC, id DESC);
-- What lists show unless asked: a team's ended sandboxes outnumber its living ones by far.
CREATE INDEX sandboxes_living ON sandboxes (team_id, created_at DESC, id DESC) WHERE status NOT IN ('stopped', 'error');
CREATE INDEX sandboxes_host ON sandboxes (host_id, status) WHERE status NOT IN ('stopped', 'error');
CREATE INDEX sandboxes_in_transition ON sandboxes (transition_started_at)
    WHERE status IN ('pending', 'starting', 'pausing', 'resuming', 'snapshotting', 'stopping');
CREATE INDEX sandboxes_metadata ON sandboxes USING gin (metadata jsonb_path_ops);
CREATE INDEX sandboxes_template ON sandboxes (template_id);
CREATE INDEX sandboxes_parent ON sandboxes (parent_id) WHERE parent_id IS NOT NULL;

ALTER TABLE template_builds
    ADD CONSTRAINT template_builds_sandbox FOREIGN KEY (sandbox_id) REFERENCES sandboxes (id) ON DELETE SET NULL;

-- One request to create, by the name that its client gave it. Whether the first attempt is under way, done or failed is told by
-- the sandbox that it made, so a control plane that dies in between leaves nothing here to clear up.
CREATE TABLE idempotency_keys (
    team_id      UUID NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    key          TEXT NOT NULL CHECK (key <> '' AND length(key) <= 255),
    request_hash BYTEA NOT NULL CHECK (octet_length(request_hash) = 32),
    sandbox_id   UUID NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (team_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
CREATE INDEX idempotency_keys_sandbox ON idempotency_keys (sandbox_id);

-- What is seen and counted -------------------------------------------------------------------------------------------

CREATE TABLE sandbox_metric_points (
    sandbox_id UUID NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    tier       TEXT NOT NULL CHECK (tier IN ('10m', '2h', '24h')),
    at         TIMESTAMPTZ NOT NULL,
    cpu_pct    REAL NOT NULL,
    mem_bytes  BIGINT NOT NULL,
    disk_bytes BIGINT NOT NULL,
    PRIMARY KEY (sandbox_id, tier, at)
);

CREATE TABLE team_usage_snapshots (
    team_id       UUID NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    at            TIMESTAMPTZ NOT NULL,
    -- Seconds that the point stands for: older points are merged into coarser ones.
    span_sec      INTEGER NOT NULL CHECK (span_sec > 0),
    running_count INTEGER NOT NULL CHECK (running_count >= 0),
    vcpus         INTEGER NOT NULL CHECK (vcpus >= 0),
    memory_mb     BIGINT NOT NULL CHECK (memory_mb >= 0),
    PRIMARY KEY (team_id, at)
);
CREATE INDEX team_usage_snapshots_age ON team_usage_snapshots (at);

CREATE TABLE team_daily_usage (
    team_id           UUID NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    day               DATE NOT NULL,
    cpu_minutes       DOUBLE PRECISION NOT NULL DEFAULT 0 CHECK (cpu_minutes >= 0),
    memory_mb_minutes DOUBLE PRECISION NOT NULL DEFAULT 0 CHECK (memory_mb_minutes >= 0),
    -- Up to where the day is counted, so that a restart neither loses nor doubles.
    counted_to        TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (team_id, day)
);

CREATE TABLE audit_logs (
    id            UUID PRIMARY KEY,
    team_id       UUID REFERENCES teams (id),
    actor_type    TEXT NOT NULL CHECK (actor_type IN ('user', 'api_key', 'host', 'system')),
    actor_id      TEXT NOT NULL DEFAULT '',
    actor_name    TEXT NOT NULL DEFAULT '',
    resource_type TEXT NOT NULL CHECK (resource_type <> ''),
    resource_id   TEXT NOT NULL DEFAULT '',
    action        TEXT NOT NULL CHECK (action <> ''),
    scope         TEXT NOT NULL CHECK (scope IN ('team', 'admin')),
    status        TEXT NOT NULL CHECK (status IN ('success', 'info', 'warning', 'error')),
    metadata      JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    request_id    UUID,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX audit_logs_page ON audit_logs (team_id, created_at DESC, id DESC);
CREATE INDEX audit_logs_resource ON audit_logs (resource_type, resource_id);
CREATE INDEX audit_logs_age ON audit_logs (created_at);

-- The trail is append-only. Retention alone may delete, and says so first: SET LOCAL sandbar.audit_retention = 'on'.
CREATE FUNCTION audit_logs_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('sandbar.audit_retention', TRUE) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'audit_logs is append-only' USING ERRCODE = 'insufficient_privilege';
END;
$$;
CREATE TRIGGER audit_logs_append_only BEFORE UPDATE OR DELETE ON audit_logs
    FOR EACH ROW EXECUTE FUNCTION audit_logs_are_append_only();
CREATE TRIGGER audit_logs_no_truncate BEFORE TRUNCATE ON audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION audit_logs_are_append_only();

-- The platform -------------------------------------------------------------------------------------------------------

-- Keys of the platform, sealed with the master key, which is not in the database.
CREATE TABLE platform_secrets (
    name       TEXT PRIMARY KEY CHECK (name <> ''),
    sealed     BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- The owner of regular hosts and shared templates.
INSERT INTO teams (id, name, slug) VALUES ('00000000-0000-0000-0000-000000000000', 'Platform', '000000-000000');
