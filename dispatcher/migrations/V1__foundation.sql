-- The store of Switchyard. The CHECK constraints and partial unique indexes mirror common/src/task/invariant.rs:
-- a state that nobody can explain is refused here even where the code is wrong. All times are timestamptz (incident 62).

-- One row: the restore epoch (protocol G).
CREATE TABLE fence (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch bigint NOT NULL DEFAULT 1
);
INSERT INTO fence DEFAULT VALUES;

-- A pool of agents: the boundary of trust, and the unit of a scheduling pass (its row is the pass's lock).
CREATE TABLE pools (
    pool_id text PRIMARY KEY CHECK (pool_id ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    -- Virtual time: the highest rank that was ever assigned (protocol E4).
    served_rank bigint NOT NULL DEFAULT 0,
    paused_at timestamptz,
    paused_by text,
    paused_why text,
    revoked_at timestamptz,
    revoked_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pool_pause_names_its_author CHECK ((paused_at IS NULL) = (paused_by IS NULL))
);

CREATE TABLE workspaces (
    workspace_id text PRIMARY KEY CHECK (length(workspace_id) BETWEEN 1 AND 128),
    pool_id text NOT NULL REFERENCES pools,
    labels jsonb NOT NULL DEFAULT '{}',
    -- The next position in the line of exclusive tasks; read and raised only under this row's lock (protocol E2).
    next_position bigint NOT NULL DEFAULT 1,
    paused_at timestamptz,
    paused_by text,
    paused_why text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workspace_pause_names_its_author CHECK ((paused_at IS NULL) = (paused_by IS NULL))
);
CREATE INDEX workspaces_by_pool ON workspaces (pool_id);
CREATE INDEX workspaces_paused ON workspaces (workspace_id) WHERE paused_at IS NOT NULL;

-- The stored virtual-time rank of a workspace, one lane per priority (protocol E4): the last rank given to a task of it.
CREATE TABLE lanes (
    workspace_id text NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 9),
    last_rank bigint NOT NULL,
    PRIMARY KEY (workspace_id, priority)
);

CREATE TABLE agents (
    pool_id text NOT NULL REFERENCES pools,
    agent_id text NOT NULL CHECK (agent_id ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    session uuid NOT NULL UNIQUE,
    sequence bigint NOT NULL DEFAULT 0,
    pod text NOT NULL,
    node text,
    version text NOT NULL,
    slots integer NOT NULL CHECK (slots BETWEEN 1 AND 1024),
    credit integer NOT NULL CHECK (credit BETWEEN 0 AND 1024),
    max_exclusive integer NOT NULL CHECK (max_exclusive BETWEEN 0 AND 1024),
    handlers text[] NOT NULL,
    draining boolean NOT NULL DEFAULT false,
    -- False once the agent was declared lost, retired or fenced: the one source of liveness (incident 30).
    live boolean NOT NULL DEFAULT true,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    paused_at timestamptz,
    paused_by text,
    paused_why text,
    PRIMARY KEY (pool_id, agent_id),
    CONSTRAINT agent_pause_names_its_author CHECK ((paused_at IS NULL) = (paused_by IS NULL))
);
CREATE INDEX agents_live ON agents (last_seen) WHERE live;

-- Every session ever seen. An ended one is never accepted again (protocol A2); no clock is compared.
CREATE TABLE agent_sessions (
    session uuid PRIMARY KEY,
    pool_id text NOT NULL,
    agent_id text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    end_reason text CHECK (end_reason IN ('silent', 'superseded', 'pool_revoked', 'fenced', 'drained')),
    CONSTRAINT session_end_has_a_reason CHECK ((ended_at IS NULL) = (end_reason IS NULL))
);
CREATE UNIQUE INDEX agent_sessions_one_current ON agent_sessions (pool_id, agent_id) WHERE ended_at IS NULL;
CREATE INDEX agent_sessions_ended ON agent_sessions (ended_at, session) WHERE ended_at IS NOT NULL;

-- Accepted events: source and id identify one. Rejected ones are not remembered.
CREATE TABLE events (
    source text NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    body_hash bytea NOT NULL,
    task_id text,
    answer jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, event_id)
);
CREATE INDEX events_by_age ON events (received_at, event_id);

CREATE TABLE tasks (
    task_id text PRIMARY KEY CHECK (length(task_id) BETWEEN 1 AND 128),
    seq bigint GENERATED ALWAYS AS IDENTITY,
    workspace_id text NOT NULL REFERENCES workspaces,
    pool_id text NOT NULL,
    kind text NOT NULL,
    exclusive boolean NOT NULL,
    steps jsonb NOT NULL,
    step_count smallint NOT NULL CHECK (step_count BETWEEN 1 AND 16),
    payload jsonb NOT NULL,
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 9),

    status text NOT NULL CHECK (status IN ('blocked', 'pending', 'assigned', 'running', 'awaiting_approval', 'uncertain',
        'succeeded', 'failed', 'cancelled')),
    step smallint NOT NULL DEFAULT 0,
    -- The current step, spelled out for indexes and constraints.
    step_name text NOT NULL,
    handler text NOT NULL,
    step_gated boolean NOT NULL,
    step_repeatable boolean NOT NULL,
    step_started boolean NOT NULL DEFAULT false,

    holds boolean NOT NULL DEFAULT false,
    position bigint,
    run_after timestamptz,
    deadline timestamptz,
    -- When the status or step changed; queue_until and approve_until are the timeouts of the current step.
    since timestamptz NOT NULL,
    queue_until timestamptz,
    approve_until timestamptz,
    rank bigint NOT NULL DEFAULT 0,
    workspace_paused boolean NOT NULL DEFAULT false,

    attempts integer NOT NULL DEFAULT 0,
    charge integer NOT NULL DEFAULT 0,
    losses integer NOT NULL DEFAULT 0,

    agent_id text,
    pod_name text,
    session uuid,
    lease_token uuid,

    artifact_attempt integer,
    artifact_digest text,
    auto_approve boolean NOT NULL DEFAULT false,
    approved_step smallint,
    approved_digest text,
    approved_by text,
    approved_at timestamptz,

    cancel_requested_at timestamptz,
    cancel_requested_by text,
    cancel_force boolean,

    failure_kind text,
    failure_message text,

    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    finished_at timestamptz,

    source text NOT NULL,
    event_id text NOT NULL,
    idempotency_key text,
    replay_of text,
    traceparent text,

    CONSTRAINT step_is_one_of_the_steps CHECK (step >= 0 AND step < step_count),
    -- Incidents 1, 3, 42: in hand means a named agent, pod, session and lease, all or none.
    CONSTRAINT assignee_exactly_in_hand CHECK (
        (status IN ('assigned', 'running', 'uncertain')) = (agent_id IS NOT NULL)
        AND (agent_id IS NULL) = (pod_name IS NULL)
        AND (agent_id IS NULL) = (session IS NULL)
        AND (agent_id IS NULL) = (lease_token IS NULL)),
    -- Incident 38.
    CONSTRAINT finished_at_exactly_when_terminal CHECK (
        (status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT terminal_holds_nothing CHECK (NOT (holds AND status IN ('succeeded', 'failed', 'cancelled'))),
    -- Incidents 9, 46: no approval wait, and no run, without the workspace.
    CONSTRAINT in_progress_holds_its_workspace CHECK (
        holds OR NOT exclusive OR status NOT IN ('assigned', 'running', 'uncertain', 'awaiting_approval')),
    -- Incident 10.
    CONSTRAINT shared_kinds_take_no_workspace CHECK (
        exclusive OR (NOT holds AND position IS NULL AND status <> 'blocked')),
    CONSTRAINT approval_is_whole CHECK (
        (approved_step IS NULL) = (approved_by IS NULL)
        AND (approved_step IS NULL) = (approved_at IS NULL)
        AND (approved_step IS NULL) = (approved_digest IS NULL)),
    -- Incidents 20 to 22, protocol F1: no approval record, then no assignment can exist.
    CONSTRAINT gated_step_is_approved CHECK (
        NOT step_gated OR status NOT IN ('pending', 'assigned', 'running', 'uncertain')
        OR (approved_step IS NOT NULL AND approved_step = step
            AND approved_digest IS NOT NULL AND artifact_digest IS NOT NULL AND approved_digest = artifact_digest)),
    CONSTRAINT awaiting_has_something_to_approve CHECK (
        status <> 'awaiting_approval' OR (step_gated AND approved_step IS NULL AND artifact_digest IS NOT NULL)),
    -- Incident 73.
    CONSTRAINT uncertain_only_after_a_start CHECK (status <> 'uncertain' OR (step_started AND NOT step_repeatable)),
    CONSTRAINT cancel_is_whole CHECK (
        (cancel_requested_at IS NULL) = (cancel_requested_by IS NULL)
        AND (cancel_requested_at IS NULL) = (cancel_force IS NULL))
);
-- Incident 9: at most one holder per workspace.
CREATE UNIQUE INDEX tasks_one_holder ON tasks (workspace_id) WHERE holds;
-- At most one exclusive task per workspace may be past blocked; the others wait strictly behind it (incident 7).
CREATE UNIQUE INDEX tasks_one_head ON tasks (workspace_id)
    WHERE exclusive AND position IS NOT NULL AND status NOT IN ('blocked', 'succeeded', 'failed', 'cancelled');
CREATE UNIQUE INDEX tasks_position ON tasks (workspace_id, position) WHERE position IS NOT NULL;
CREATE INDEX tasks_waiters ON tasks (workspace_id, position) WHERE status = 'blocked';
-- What may run now: grows neither with what is blocked nor with what is done.
CREATE INDEX tasks_runnable ON tasks (pool_id, handler, exclusive, step_repeatable, rank, priority DESC, seq)
    WHERE status = 'pending' AND run_after IS NULL AND NOT workspace_paused;
CREATE INDEX tasks_not_due ON tasks (run_after) WHERE status = 'pending' AND run_after IS NOT NULL;
CREATE INDEX tasks_deadlines ON tasks (deadline) WHERE deadline IS NOT NULL AND finished_at IS NULL;
CREATE INDEX tasks_queue_timeouts ON tasks (queue_until) WHERE queue_until IS NOT NULL AND status = 'pending';
CREATE INDEX tasks_approval_timeouts ON tasks (approve_until) WHERE approve_until IS NOT NULL AND status = 'awaiting_approval';
CREATE INDEX tasks_open_by_workspace ON tasks (workspace_id) WHERE finished_at IS NULL;
CREATE INDEX tasks_of_paused_workspaces ON tasks (workspace_id) WHERE workspace_paused AND finished_at IS NULL;
CREATE INDEX tasks_finished ON tasks (finished_at, task_id) WHERE finished_at IS NOT NULL;
CREATE UNIQUE INDEX tasks_idempotency ON tasks (source, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX tasks_replays ON tasks (replay_of) WHERE replay_of IS NOT NULL;

CREATE TABLE attempts (
    task_id text NOT NULL REFERENCES tasks ON DELETE CASCADE,
    attempt integer NOT NULL CHECK (attempt >= 1),
    step smallint NOT NULL,
    step_name text NOT NULL,
    exclusive boolean NOT NULL,
    repeatable boolean NOT NULL,
    pool_id text NOT NULL,
    agent_id text NOT NULL,
    pod_name text NOT NULL,
    node_name text,
    session uuid NOT NULL,
    lease_token uuid NOT NULL UNIQUE,
    publish_no integer NOT NULL DEFAULT 1 CHECK (publish_no >= 1),
    -- The replica that published last; others re-send only when its heartbeat row is stale (protocol B2).
    published_by uuid NOT NULL,
    published_at timestamptz NOT NULL,
    confirmed_at timestamptz,
    assigned_at timestamptz NOT NULL,
    started_at timestamptz,
    -- Times after which a sweep asks for its end.
    start_by timestamptz,
    run_timeout_ms bigint NOT NULL CHECK (run_timeout_ms > 0),
    nonce uuid,
    -- Heartbeats sent after the confirmation that did not list it (protocol C2).
    unlisted integer NOT NULL DEFAULT 0,
    revoke_requested_at timestamptz,
    revoke_reason text,
    revoke_force boolean,
    revoke_sent_at timestamptz,
    revoke_sends integer NOT NULL DEFAULT 0,
    outcome text CHECK (outcome IN ('succeeded', 'failed', 'panicked', 'timed_out', 'cancelled', 'not_started', 'lost', 'returned',
        'withdrawn', 'resolved')),
    ended_at timestamptz,
    -- What the agent reported beside the outcome.
    result jsonb,
    log_lines bigint,
    handler_started_at timestamptz,
    handler_ended_at timestamptz,
    PRIMARY KEY (task_id, attempt),
    CONSTRAINT end_has_an_outcome CHECK ((outcome IS NULL) = (ended_at IS NULL)),
    CONSTRAINT nonce_only_when_not_repeatable CHECK (nonce IS NULL OR (NOT repeatable AND started_at IS NOT NULL)),
    CONSTRAINT revoke_is_whole CHECK (
        (revoke_requested_at IS NULL) = (revoke_reason IS NULL)
        AND (revoke_requested_at IS NULL) = (revoke_force IS NULL))
);
-- One open attempt per task.
CREATE UNIQUE INDEX attempts_one_open ON attempts (task_id) WHERE ended_at IS NULL;
-- Slots are derived from here, never counted separately (incidents 27, 71).
CREATE INDEX attempts_open_by_agent ON attempts (pool_id, agent_id) INCLUDE (session, exclusive) WHERE ended_at IS NULL;
CREATE INDEX attempts_unconfirmed ON attempts (published_at) WHERE ended_at IS NULL AND confirmed_at IS NULL;
CREATE INDEX attempts_revoking ON attempts (revoke_sent_at) WHERE ended_at IS NULL AND revoke_requested_at IS NOT NULL;
CREATE INDEX attempts_unlisted ON attempts (task_id) WHERE ended_at IS NULL AND unlisted >= 2;
CREATE INDEX attempts_running ON attempts (started_at) WHERE ended_at IS NULL AND started_at IS NOT NULL;
CREATE INDEX attempts_start_by ON attempts (start_by) WHERE ended_at IS NULL AND started_at IS NULL AND start_by IS NOT NULL;

-- What an attempt leaves. Parts arrive before their outcome; the manifest and its digest come with the outcome.
CREATE TABLE artifact_parts (
    task_id text NOT NULL,
    attempt integer NOT NULL,
    name text NOT NULL,
    part integer NOT NULL CHECK (part >= 0),
    bytes bytea NOT NULL CHECK (octet_length(bytes) <= 524288),
    PRIMARY KEY (task_id, attempt, name, part),
    FOREIGN KEY (task_id, attempt) REFERENCES attempts ON DELETE CASCADE
);
CREATE TABLE artifacts (
    task_id text NOT NULL,
    attempt integer NOT NULL,
    manifest jsonb NOT NULL,
    digest text NOT NULL CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
    total_bytes bigint NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (task_id, attempt),
    FOREIGN KEY (task_id, attempt) REFERENCES attempts ON DELETE CASCADE
);

-- Append-only; never touches a task row (incident 75).
CREATE TABLE logs (
    task_id text NOT NULL,
    attempt integer NOT NULL,
    sequence bigint NOT NULL,
    at timestamptz NOT NULL,
    stream text NOT NULL CHECK (stream IN ('stdout', 'stderr', 'agent')),
    line text NOT NULL,
    PRIMARY KEY (task_id, attempt, sequence),
    FOREIGN KEY (task_id, attempt) REFERENCES attempts ON DELETE CASCADE
);

-- Everything in the life of a task that its columns and attempts do not tell: approvals, cancels, revokes, losses, refusals.
CREATE TABLE task_notes (
    note_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id text NOT NULL REFERENCES tasks ON DELETE CASCADE,
    at timestamptz NOT NULL,
    attempt integer,
    what text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX task_notes_by_task ON task_notes (task_id, note_id);

-- A failure joined with the broker's copy of the message: whichever comes first makes the row, the other completes it.
CREATE TABLE dead_letters (
    letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- 'attempt:<task>#<n>', 'task:<task>', 'event:<source>#<id>' or 'message:<hash>': one record each (protocol D2).
    letter_key text NOT NULL UNIQUE,
    origin text NOT NULL CHECK (origin IN ('attempt', 'task', 'event', 'message')),
    task_id text,
    attempt integer,
    workspace_id text,
    pool_id text,
    kind text,
    step_name text,
    agent_id text,
    pod_name text,
    node_name text,
    session uuid,
    event_source text,
    event_id text,
    traceparent text,
    failure_kind text,
    failure_message text,
    failure jsonb,
    fingerprint text,
    failed_at timestamptz,
    -- The broker's half.
    broker_copy_expected boolean NOT NULL,
    broker_at timestamptz,
    queue text,
    exchange text,
    routing_key text,
    message_id text,
    x_death jsonb,
    headers jsonb,
    -- The payload, up to a limit: as text where PostgreSQL takes it, else as bytes (protocol D5). The size is that of the whole.
    payload text,
    payload_bytes bytea,
    payload_size bigint,
    timeline jsonb,
    -- Later evidence, appended up to a limit; the count goes on.
    evidence jsonb NOT NULL DEFAULT '[]',
    evidence_count integer NOT NULL DEFAULT 0,
    remark text,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Both halves are here, or the missing one was waited for long enough.
    completed_at timestamptz,
    -- A replica is about to write the log line; taken over by another one when it does not say that it did.
    log_claimed_at timestamptz,
    logged_at timestamptz,
    resolved_at timestamptz,
    resolution text CHECK (resolution IN ('replayed', 'discarded', 'task_succeeded')),
    resolved_by text,
    resolution_note text,
    -- The event of the newest replay, written before it is published, so that a repeated replay is the same event.
    replay_event text,
    replay_event_id text,
    replay_task_id text,
    replays integer NOT NULL DEFAULT 0,
    CONSTRAINT resolution_is_whole CHECK (
        (resolved_at IS NULL) = (resolution IS NULL) AND (resolved_at IS NULL) = (resolved_by IS NULL)),
    CONSTRAINT payload_has_one_form CHECK (payload IS NULL OR payload_bytes IS NULL),
    CONSTRAINT a_letter_has_a_half CHECK (failed_at IS NOT NULL OR broker_at IS NOT NULL),
    CONSTRAINT failures_are_whole CHECK (
        (failure_kind IS NULL) = (failure IS NULL) AND (failure_kind IS NULL) = (failed_at IS NULL)
        AND (failure_kind IS NULL) = (fingerprint IS NULL)),
    CONSTRAINT replay_is_whole CHECK ((replay_event IS NULL) = (replay_event_id IS NULL)),
    CONSTRAINT complete_letters_say_why CHECK (completed_at IS NULL OR failure_kind IS NOT NULL),
    CONSTRAINT only_complete_letters_are_logged CHECK (logged_at IS NULL OR completed_at IS NOT NULL)
);
-- By the time of the half that is here.
CREATE INDEX dead_letters_incomplete ON dead_letters ((coalesce(failed_at, broker_at))) WHERE completed_at IS NULL;
CREATE INDEX dead_letters_unlogged ON dead_letters (completed_at) WHERE logged_at IS NULL AND completed_at IS NOT NULL;
CREATE INDEX dead_letters_open ON dead_letters (letter_id) WHERE resolved_at IS NULL;
CREATE INDEX dead_letters_by_task ON dead_letters (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX dead_letters_by_fingerprint ON dead_letters (fingerprint, letter_id);
CREATE INDEX dead_letters_resolved ON dead_letters (resolved_at, letter_id) WHERE resolved_at IS NOT NULL;

-- Dispatcher replicas: a fresh row means that the replica looks after what it published (protocol B2).
CREATE TABLE replicas (
    replica_id uuid PRIMARY KEY,
    host text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);

-- Who did what by hand; kept for a year.
CREATE TABLE audit_log (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_by_age ON audit_log (at);

-- What upstream is told: written with the change, published in order per task after it, then deleted.
CREATE TABLE notifications (
    notification_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The id of its CloudEvent: the same for every copy, and not drawn anew after a restore.
    event_id uuid NOT NULL DEFAULT gen_random_uuid(),
    task_id text,
    event_type text NOT NULL,
    body jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One row: the replica that publishes notifications now. A lease, because no lock is held across the network.
CREATE TABLE notifier (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    replica_id uuid,
    until timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO notifier DEFAULT VALUES;
