-- Every statement of the SQLite adapter, by name. `SELECT *` on purpose: rows are read by column name, so a
-- column that a newer release added does not disturb this one.

-- name: mark
SELECT epoch, system_id FROM registry WHERE only = 1

-- name: put_mark
UPDATE registry SET epoch = :epoch, system_id = :system_id WHERE only = 1 AND epoch = :expected

-- name: session
SELECT * FROM session WHERE id = :id

-- name: insert_session
INSERT INTO session (
    id, workspace_id, user_id, policy_id, policy_rev, state, outcome, generation, registry_epoch, fence, node_id,
    hold_s, created_at_ms, loss_epoch, loss_cause, lost_at_ms, hold_clock, hold_base_ms, hold_left_ms,
    start_attempts, start_from_seq, start_from_hash, chosen_seq, close_step, close_cause, close_actor,
    asked_at_ms, hook_state, refused_windows, freeze_method, accepted_paths, c1_seq, c1_hash, c2_seq, c2_hash,
    grant_number, grant_cause, link_id, device_id, device_label, closed_at_ms, detail
) VALUES (
    :id, :workspace_id, :user_id, :policy_id, :policy_rev, :state, :outcome, :generation, :registry_epoch,
    :fence, :node_id, :hold_s, :created_at_ms, :loss_epoch, :loss_cause, :lost_at_ms, :hold_clock,
    :hold_base_ms, :hold_left_ms, :start_attempts, :start_from_seq, :start_from_hash, :chosen_seq, :close_step,
    :close_cause, :close_actor, :asked_at_ms, :hook_state, :refused_windows, :freeze_method, :accepted_paths,
    :c1_seq, :c1_hash, :c2_seq, :c2_hash, :grant_number, :grant_cause, :link_id, :device_id, :device_label,
    :closed_at_ms, :detail
) ON CONFLICT (id) DO NOTHING

-- name: update_session
UPDATE session SET
    policy_id = :policy_id, policy_rev = :policy_rev, state = :state, outcome = :outcome,
    generation = :generation, registry_epoch = :registry_epoch, fence = :fence, node_id = :node_id,
    hold_s = :hold_s, loss_epoch = :loss_epoch, loss_cause = :loss_cause, lost_at_ms = :lost_at_ms, hold_clock = :hold_clock,
    hold_base_ms = :hold_base_ms, hold_left_ms = :hold_left_ms, start_attempts = :start_attempts,
    start_from_seq = :start_from_seq, start_from_hash = :start_from_hash, chosen_seq = :chosen_seq,
    close_step = :close_step, close_cause = :close_cause, close_actor = :close_actor,
    asked_at_ms = :asked_at_ms, hook_state = :hook_state, refused_windows = :refused_windows,
    freeze_method = :freeze_method, accepted_paths = :accepted_paths, c1_seq = :c1_seq, c1_hash = :c1_hash,
    c2_seq = :c2_seq, c2_hash = :c2_hash, grant_number = :grant_number, grant_cause = :grant_cause,
    link_id = :link_id, device_id = :device_id, device_label = :device_label, closed_at_ms = :closed_at_ms,
    detail = :detail
WHERE id = :id AND generation = :expected
    AND workspace_id = :workspace_id AND user_id = :user_id AND created_at_ms = :created_at_ms

-- name: open_sessions
SELECT count(*) AS count FROM session WHERE workspace_id = :workspace_id AND state <> 'closed'

-- name: workspace
SELECT * FROM workspace WHERE id = :id

-- name: workspaces
SELECT * FROM workspace ORDER BY id

-- name: workspaces_of_user
SELECT * FROM workspace WHERE user_id = :user_id ORDER BY id

-- name: workspace_named
SELECT id FROM workspace WHERE user_id = :user_id AND name_key = :name_key AND id <> :id

-- name: insert_workspace
INSERT INTO workspace (id, user_id, tenant_id, name, name_key, policy_group, created_at_ms, generation)
VALUES (:id, :user_id, :tenant_id, :name, :name_key, :policy_group, :created_at_ms, :generation)
ON CONFLICT (id) DO NOTHING

-- name: update_workspace
UPDATE workspace SET
    user_id = :user_id, tenant_id = :tenant_id, name = :name, name_key = :name_key, policy_group = :policy_group,
    created_at_ms = :created_at_ms, generation = :generation
WHERE id = :id AND generation = :expected

-- name: lease
SELECT * FROM lease WHERE workspace_id = :workspace_id

-- name: leases
SELECT * FROM lease ORDER BY workspace_id

-- name: insert_lease
INSERT INTO lease (
    workspace_id, fence, node_id, session_id, generation, newest_seq, newest_hash, saved_as_of_ms, saved_seq
) VALUES (
    :workspace_id, :fence, :node_id, :session_id, :generation, :newest_seq, :newest_hash, :saved_as_of_ms,
    :saved_seq
) ON CONFLICT (workspace_id) DO NOTHING

-- name: update_lease
UPDATE lease SET
    fence = :fence, node_id = :node_id, session_id = :session_id, generation = :generation,
    newest_seq = :newest_seq, newest_hash = :newest_hash, saved_as_of_ms = :saved_as_of_ms,
    saved_seq = :saved_seq
WHERE workspace_id = :workspace_id AND generation = :expected AND fence <= :fence

-- name: desktop
SELECT * FROM desktop WHERE workspace_id = :workspace_id AND fence = :fence

-- name: desktops
SELECT * FROM desktop WHERE node_id = :node_id ORDER BY workspace_id, fence

-- name: put_desktop
INSERT INTO desktop (workspace_id, fence, node_id, session_id, handle, home)
VALUES (:workspace_id, :fence, :node_id, :session_id, :handle, :home)
ON CONFLICT (workspace_id, fence) DO UPDATE SET
    node_id = excluded.node_id, session_id = excluded.session_id, handle = excluded.handle, home = excluded.home

-- name: forget_desktop
DELETE FROM desktop WHERE workspace_id = :workspace_id AND fence = :fence

-- name: node
SELECT * FROM node WHERE id = :id

-- name: nodes
SELECT * FROM node ORDER BY id

-- name: insert_node
INSERT INTO node (id, boot_id, incarnation, address, count_ms, beat, state)
VALUES (:id, :boot_id, :incarnation, :address, :count_ms, :beat, :state)
ON CONFLICT (id) DO NOTHING

-- name: update_node
UPDATE node SET
    boot_id = :boot_id, incarnation = :incarnation, address = :address, count_ms = :count_ms, beat = :beat,
    state = :state
WHERE id = :id AND incarnation = :expected

-- name: tick
UPDATE node SET count_ms = :count_ms, beat = :beat + 1
WHERE id = :id AND incarnation = :incarnation AND beat = :beat AND state = 'up' AND count_ms <= :count_ms

-- name: effects
SELECT * FROM effect ORDER BY id

-- name: effects_of_session
SELECT * FROM effect WHERE session_id = :session_id ORDER BY id

-- name: add_effect
INSERT INTO effect (id, session_id, generation, kind, args, attempts, last_error)
VALUES (:id, :session_id, :generation, :kind, :args, :attempts, :last_error)
ON CONFLICT (id) DO NOTHING

-- name: effect_done
DELETE FROM effect WHERE id = :id

-- name: effect_failed
UPDATE effect SET attempts = attempts + 1, last_error = :error WHERE id = :id

-- name: ticket
SELECT * FROM ticket WHERE hash = :hash

-- name: forget_old_tickets
DELETE FROM ticket WHERE expires_at_ms < :before_ms

-- name: use_older_tickets
UPDATE ticket SET used_at_ms = :now_ms
WHERE session_id = :session_id AND device_id = :device_id AND mode = 'control' AND used_at_ms IS NULL

-- name: forget_tickets_of_user
DELETE FROM ticket WHERE user_id = :user_id AND used_at_ms IS NULL

-- name: forget_tickets_of_device
DELETE FROM ticket WHERE user_id = :user_id AND device_id = :device_id AND used_at_ms IS NULL

-- name: add_ticket
INSERT INTO ticket (
    hash, session_id, user_id, device_id, device_label, mode, created_at_ms, expires_at_ms, used_at_ms
) VALUES (
    :hash, :session_id, :user_id, :device_id, :device_label, :mode, :created_at_ms, :expires_at_ms, :used_at_ms
) ON CONFLICT (hash) DO NOTHING

-- name: use_ticket
UPDATE ticket SET used_at_ms = :now_ms
WHERE hash = :hash AND used_at_ms IS NULL AND expires_at_ms > :now_ms

-- name: account
SELECT * FROM account WHERE id = :id

-- name: account_by_name
SELECT * FROM account WHERE name_key = :name_key

-- name: accounts
SELECT * FROM account ORDER BY id

-- name: account_named
SELECT id FROM account WHERE name_key = :name_key AND id <> :id

-- name: insert_account
INSERT INTO account (
    id, tenant_id, name, name_key, role, password_hash, created_at_ms, generation, disabled
) VALUES (
    :id, :tenant_id, :name, :name_key, :role, :password_hash, :created_at_ms, :generation, :disabled
) ON CONFLICT (id) DO NOTHING

-- name: update_account
UPDATE account SET
    tenant_id = :tenant_id, name = :name, name_key = :name_key, role = :role, password_hash = :password_hash,
    created_at_ms = :created_at_ms, generation = :generation, disabled = :disabled
WHERE id = :id AND generation = :expected

-- name: sign_in
SELECT * FROM sign_in WHERE hash = :hash

-- name: sign_ins
SELECT * FROM sign_in WHERE user_id = :user_id ORDER BY created_at_ms, hash

-- name: put_sign_in
INSERT INTO sign_in (hash, user_id, device_id, device_label, created_at_ms, last_seen_ms, expires_at_ms)
VALUES (:hash, :user_id, :device_id, :device_label, :created_at_ms, :last_seen_ms, :expires_at_ms)
ON CONFLICT (hash) DO UPDATE SET
    user_id = excluded.user_id, device_id = excluded.device_id, device_label = excluded.device_label,
    created_at_ms = excluded.created_at_ms, last_seen_ms = excluded.last_seen_ms,
    expires_at_ms = excluded.expires_at_ms

-- name: forget_old_sign_ins
DELETE FROM sign_in WHERE user_id = :user_id AND expires_at_ms < :before_ms

-- name: forget_sign_in
DELETE FROM sign_in WHERE hash = :hash

-- name: forget_sign_ins
DELETE FROM sign_in WHERE user_id = :user_id

-- name: api_token
SELECT * FROM api_token WHERE hash = :hash

-- name: api_tokens
SELECT * FROM api_token ORDER BY id

-- name: api_tokens_of_user
SELECT * FROM api_token WHERE user_id = :user_id ORDER BY id

-- name: api_token_hashed
SELECT id FROM api_token WHERE hash = :hash AND id <> :id

-- name: put_api_token
INSERT INTO api_token (id, user_id, name, scopes, hash, created_at_ms, expires_at_ms, revoked_at_ms)
VALUES (:id, :user_id, :name, :scopes, :hash, :created_at_ms, :expires_at_ms, :revoked_at_ms)
ON CONFLICT (id) DO UPDATE SET
    user_id = excluded.user_id, name = excluded.name, scopes = excluded.scopes, hash = excluded.hash,
    created_at_ms = excluded.created_at_ms, expires_at_ms = excluded.expires_at_ms,
    revoked_at_ms = excluded.revoked_at_ms

-- name: receipt
SELECT * FROM receipt WHERE session_id = :session_id

-- name: receipts
SELECT * FROM receipt ORDER BY written_at_ms DESC, session_id DESC LIMIT :limit

-- name: receipts_of_user
SELECT * FROM receipt WHERE user_id = :user_id ORDER BY written_at_ms DESC, session_id DESC LIMIT :limit

-- name: add_receipt
INSERT INTO receipt (session_id, workspace_id, user_id, body, written_at_ms)
VALUES (:session_id, :workspace_id, :user_id, :body, :written_at_ms)
ON CONFLICT (session_id) DO NOTHING

-- name: idempotency
SELECT * FROM idempotency WHERE user_id = :user_id AND key = :key

-- name: forget_old_idempotency
DELETE FROM idempotency WHERE created_at_ms < :before_ms

-- name: add_idempotency
INSERT INTO idempotency (user_id, key, request_hash, status, body, created_at_ms)
VALUES (:user_id, :key, :request_hash, :status, :body, :created_at_ms)
ON CONFLICT (user_id, key) DO NOTHING

-- name: setting
SELECT value FROM setting WHERE name = :name

-- name: insert_setting
INSERT INTO setting (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING

-- name: update_setting
UPDATE setting SET value = :value WHERE name = :name AND value = :expected

-- name: audit_head
SELECT seq, hash FROM audit_head WHERE only = 1

-- name: put_audit_head
UPDATE audit_head SET seq = :seq, hash = :hash WHERE only = 1

-- name: add_audit
INSERT INTO audit (seq, kind, actor, at_ms, session_id, workspace_id, user_id, facts, prev, hash)
VALUES (:seq, :kind, :actor, :at_ms, :session_id, :workspace_id, :user_id, :facts, :prev, :hash)

-- name: audit_up
SELECT * FROM audit WHERE seq > :after ORDER BY seq LIMIT :limit

-- name: audit_down
SELECT * FROM audit WHERE seq < :before ORDER BY seq DESC LIMIT :limit

-- name: audit_of_session_up
SELECT * FROM audit WHERE session_id = :session_id AND seq > :after ORDER BY seq LIMIT :limit

-- name: audit_of_session_down
SELECT * FROM audit WHERE session_id = :session_id AND seq < :before ORDER BY seq DESC LIMIT :limit
