-- The first tables: docs/design/0003-tables.md says what each is for, who writes it and why it looks like this.
-- Times end in _ms; at_ms columns are UTC milliseconds for display, count_ms and hold_* are ticks of a node.

CREATE TABLE registry (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    system_id TEXT NOT NULL
) STRICT;
INSERT INTO registry (only, epoch, system_id) VALUES (1, 1, lower(hex(randomblob(16))));

CREATE TABLE workspace (
    id TEXT PRIMARY KEY NOT NULL,
    user_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL,
    policy_group TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL CHECK (generation >= 1)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX workspace_name ON workspace (user_id, name_key);

CREATE TABLE lease (
    workspace_id TEXT PRIMARY KEY NOT NULL,
    fence INTEGER NOT NULL CHECK (fence >= 0),
    node_id TEXT NOT NULL,
    session_id TEXT,
    generation INTEGER NOT NULL CHECK (generation >= 1),
    newest_seq INTEGER,
    newest_hash BLOB,
    saved_as_of_ms INTEGER,
    saved_seq INTEGER,
    CHECK ((newest_seq IS NULL) = (newest_hash IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
    id TEXT PRIMARY KEY NOT NULL,
    workspace_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    policy_id TEXT NOT NULL,
    policy_rev INTEGER NOT NULL,
    state TEXT NOT NULL,
    outcome TEXT,
    generation INTEGER NOT NULL CHECK (generation >= 1),
    registry_epoch INTEGER NOT NULL,
    fence INTEGER NOT NULL CHECK (fence >= 0),
    node_id TEXT NOT NULL,
    hold_s REAL NOT NULL,
    created_at_ms INTEGER NOT NULL,
    loss_epoch INTEGER NOT NULL CHECK (loss_epoch >= 0),
    loss_cause TEXT,
    lost_at_ms INTEGER,
    hold_clock TEXT,
    hold_base_ms INTEGER CHECK (hold_base_ms >= 0),
    hold_left_ms INTEGER CHECK (hold_left_ms >= 0),
    hold_deadline_ms INTEGER GENERATED ALWAYS AS (hold_base_ms + hold_left_ms) VIRTUAL,
    start_attempts INTEGER NOT NULL,
    start_from_seq INTEGER,
    start_from_hash BLOB,
    chosen_seq INTEGER,
    close_step TEXT,
    close_cause TEXT,
    close_actor TEXT,
    asked_at_ms INTEGER,
    hook_state TEXT NOT NULL,
    refused_windows TEXT NOT NULL,
    freeze_method TEXT,
    accepted_paths TEXT NOT NULL,
    c1_seq INTEGER,
    c1_hash BLOB,
    c2_seq INTEGER,
    c2_hash BLOB,
    grant_number INTEGER NOT NULL,
    grant_cause TEXT NOT NULL,
    link_id TEXT,
    device_id TEXT,
    device_label TEXT NOT NULL,
    closed_at_ms INTEGER,
    detail TEXT NOT NULL,
    CHECK ((hold_clock IS NULL) = (hold_base_ms IS NULL)),
    CHECK ((hold_clock IS NULL) = (hold_left_ms IS NULL)),
    CHECK ((start_from_seq IS NULL) = (start_from_hash IS NULL)),
    CHECK ((c1_seq IS NULL) = (c1_hash IS NULL)),
    CHECK ((c2_seq IS NULL) = (c2_hash IS NULL)),
    CHECK (state <> 'closed' OR outcome IS NOT NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX session_due ON session (hold_clock, hold_deadline_ms) WHERE hold_clock IS NOT NULL;
CREATE INDEX session_state ON session (state, id);
CREATE INDEX session_user ON session (user_id, id);
CREATE INDEX session_workspace ON session (workspace_id, id);
CREATE INDEX session_open ON session (workspace_id) WHERE state <> 'closed';

CREATE TABLE desktop (
    workspace_id TEXT NOT NULL,
    fence INTEGER NOT NULL,
    node_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    handle BLOB NOT NULL,
    home TEXT NOT NULL,
    PRIMARY KEY (workspace_id, fence)
) STRICT, WITHOUT ROWID;
CREATE INDEX desktop_node ON desktop (node_id);

CREATE TABLE node (
    id TEXT PRIMARY KEY NOT NULL,
    boot_id TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    address TEXT NOT NULL,
    count_ms INTEGER NOT NULL CHECK (count_ms >= 0),
    beat INTEGER NOT NULL CHECK (beat >= 0),
    state TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE effect (
    id TEXT PRIMARY KEY NOT NULL,
    session_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    kind TEXT NOT NULL,
    args BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    last_error TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX effect_session ON effect (session_id, id);

CREATE TABLE ticket (
    hash BLOB PRIMARY KEY NOT NULL,
    session_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    device_label TEXT NOT NULL,
    mode TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    used_at_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX ticket_unused ON ticket (session_id, device_id) WHERE used_at_ms IS NULL;
CREATE INDEX ticket_expiry ON ticket (expires_at_ms);

-- "account", not "user": the latter is a reserved word of PostgreSQL, which gets the same tables.
CREATE TABLE account (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL,
    role TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL CHECK (generation >= 1),
    disabled INTEGER NOT NULL CHECK (disabled IN (0, 1))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX account_name ON account (name_key);

CREATE TABLE sign_in (
    hash BLOB PRIMARY KEY NOT NULL,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    device_label TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sign_in_user ON sign_in (user_id, expires_at_ms);

CREATE TABLE api_token (
    id TEXT PRIMARY KEY NOT NULL,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    hash BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,
    revoked_at_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX api_token_hash ON api_token (hash);
CREATE INDEX api_token_user ON api_token (user_id, id);

CREATE TABLE receipt (
    session_id TEXT PRIMARY KEY NOT NULL,
    workspace_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    body BLOB NOT NULL,
    written_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_user ON receipt (user_id, written_at_ms, session_id);
CREATE INDEX receipt_time ON receipt (written_at_ms, session_id);

CREATE TABLE idempotency (
    user_id TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    status INTEGER NOT NULL,
    body BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_age ON idempotency (created_at_ms);

CREATE TABLE setting (
    name TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    session_id TEXT,
    workspace_id TEXT,
    user_id TEXT,
    facts TEXT NOT NULL,
    prev BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_session ON audit (session_id, seq) WHERE session_id IS NOT NULL;

CREATE TABLE audit_head (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;
INSERT INTO audit_head (only, seq, hash) VALUES (1, 0, zeroblob(32));

-- Which release may run on this schema: raised by a post migration, never by a pre migration.
UPDATE schema_reader SET oldest = 1;
