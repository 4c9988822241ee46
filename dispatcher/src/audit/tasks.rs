//! Checks of tasks: state, workspaces, approvals.

use super::checks::Check;

/// Grace in which a sweep does what the clock asks for: after it, the sweep does not run.
macro_rules! overdue {
    () => {
        "interval '5 minutes'"
    };
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        invariant: 1,
        name: "task_without_its_event",
        explanation: "A task whose event is not stored: a second copy of the event would make it again.",
        sql: "SELECT t.task_id AS offender FROM tasks t WHERE NOT EXISTS \
            (SELECT 1 FROM events e WHERE e.source = t.source AND e.event_id = t.event_id)",
    },
    Check {
        invariant: 2,
        name: "waiters_without_a_head",
        explanation: "A workspace where tasks are blocked, but nobody is ahead of them: they wait for ever.",
        sql: "SELECT w.workspace_id || ': ' || w.task_id AS offender FROM tasks w WHERE w.status = 'blocked' AND NOT EXISTS \
            (SELECT 1 FROM tasks h WHERE h.workspace_id = w.workspace_id AND h.exclusive AND h.position IS NOT NULL \
                AND h.finished_at IS NULL AND h.status <> 'blocked')",
    },
    Check {
        invariant: 2,
        name: "due_task_left_waiting",
        explanation: "A task whose time came more than 5 minutes ago and that still waits for it: the sweep does not run.",
        sql: concat!(
            "SELECT task_id AS offender FROM tasks WHERE status = 'pending' AND run_after < now() - ",
            overdue!()
        ),
    },
    Check {
        invariant: 2,
        name: "timeout_not_applied",
        explanation: "A deadline, queue timeout or approval timeout that passed more than 5 minutes ago without effect.",
        sql: concat!(
            "SELECT task_id AS offender FROM tasks WHERE (deadline < now() - ",
            overdue!(),
            " AND status IN ('blocked', 'pending', 'awaiting_approval')) OR (queue_until < now() - ",
            overdue!(),
            " AND status = 'pending') OR (approve_until < now() - ",
            overdue!(),
            " AND status = 'awaiting_approval')"
        ),
    },
    Check {
        invariant: 2,
        name: "cancelled_task_left_waiting",
        explanation: "A task that nobody has in hand, that somebody cancelled, and that has not ended.",
        sql: "SELECT task_id AS offender FROM tasks \
            WHERE cancel_requested_at IS NOT NULL AND status IN ('blocked', 'pending', 'awaiting_approval')",
    },
    Check {
        invariant: 2,
        name: "end_without_a_time",
        explanation: "finished_at is set in other states than the terminal ones, or missing in one of them (incident 38).",
        sql: "SELECT task_id AS offender FROM tasks \
            WHERE (status IN ('succeeded', 'failed', 'cancelled')) <> (finished_at IS NOT NULL)",
    },
    Check {
        invariant: 3,
        name: "in_hand_without_assignee",
        explanation: "assigned, running or uncertain without agent, pod, session and lease, or any of them in another state.",
        sql: "SELECT task_id AS offender FROM tasks WHERE (status IN ('assigned', 'running', 'uncertain')) \
            <> (agent_id IS NOT NULL AND pod_name IS NOT NULL AND session IS NOT NULL AND lease_token IS NOT NULL) \
            OR (status NOT IN ('assigned', 'running', 'uncertain') \
                AND (agent_id IS NOT NULL OR pod_name IS NOT NULL OR session IS NOT NULL OR lease_token IS NOT NULL))",
    },
    Check {
        invariant: 3,
        name: "in_hand_without_its_attempt",
        explanation: "A task in hand whose newest attempt is not open, or is another agent's, session's or lease's.",
        sql: "SELECT t.task_id AS offender FROM tasks t WHERE t.status IN ('assigned', 'running', 'uncertain') AND NOT EXISTS \
            (SELECT 1 FROM attempts a WHERE a.task_id = t.task_id AND a.attempt = t.attempts AND a.ended_at IS NULL \
                AND a.step = t.step AND a.pool_id = t.pool_id AND a.agent_id = t.agent_id AND a.session = t.session \
                AND a.lease_token = t.lease_token)",
    },
    Check {
        invariant: 3,
        name: "open_attempt_of_a_task_not_in_hand",
        explanation: "An attempt that has not ended, of a task that waits or has ended: it takes a slot for nothing.",
        sql: "SELECT a.task_id || '#' || a.attempt AS offender FROM attempts a JOIN tasks t ON t.task_id = a.task_id \
            WHERE a.ended_at IS NULL AND t.status NOT IN ('assigned', 'running', 'uncertain')",
    },
    Check {
        invariant: 3,
        name: "uncertain_without_a_start",
        explanation: "An uncertain task whose step may be repeated, or was never allowed to start (incident 73).",
        sql: "SELECT task_id AS offender FROM tasks WHERE status = 'uncertain' AND (NOT step_started OR step_repeatable)",
    },
    Check {
        invariant: 4,
        name: "two_holders",
        explanation: "A workspace that more than one task holds (incident 9).",
        sql: "SELECT workspace_id || ': ' || string_agg(task_id, ', ' ORDER BY task_id) AS offender FROM tasks WHERE holds \
            GROUP BY workspace_id HAVING count(*) > 1",
    },
    Check {
        invariant: 4,
        name: "two_heads",
        explanation: "A workspace where more than one exclusive task is past blocked.",
        sql: "SELECT workspace_id || ': ' || string_agg(task_id, ', ' ORDER BY task_id) AS offender FROM tasks \
            WHERE exclusive AND position IS NOT NULL AND status NOT IN ('blocked', 'succeeded', 'failed', 'cancelled') \
            GROUP BY workspace_id HAVING count(*) > 1",
    },
    Check {
        invariant: 4,
        name: "in_progress_without_its_workspace",
        explanation: "An exclusive task in progress, or waiting for approval, that does not hold its workspace (incident 46).",
        sql: "SELECT task_id AS offender FROM tasks WHERE exclusive AND NOT holds \
            AND status IN ('assigned', 'running', 'uncertain', 'awaiting_approval')",
    },
    Check {
        invariant: 4,
        name: "holds_wrongly",
        explanation: "A task that has ended, or whose kind is not exclusive, and that holds a workspace or stands in its line.",
        sql: "SELECT task_id AS offender FROM tasks \
            WHERE (holds AND (NOT exclusive OR finished_at IS NOT NULL)) OR (NOT exclusive AND (position IS NOT NULL OR status = 'blocked'))",
    },
    Check {
        invariant: 4,
        name: "blocked_by_nobody_earlier",
        explanation: "A blocked task without an earlier one of its workspace that has not ended: blockers are strictly earlier (incident 7).",
        sql: "SELECT w.task_id AS offender FROM tasks w WHERE w.status = 'blocked' AND NOT EXISTS \
            (SELECT 1 FROM tasks b WHERE b.workspace_id = w.workspace_id AND b.exclusive AND b.position < w.position \
                AND b.finished_at IS NULL)",
    },
    Check {
        invariant: 4,
        name: "head_overtook_a_waiter",
        explanation: "A task that goes although an earlier one of its workspace is still blocked.",
        sql: "SELECT h.task_id || ' before ' || w.task_id AS offender FROM tasks h JOIN tasks w ON w.workspace_id = h.workspace_id \
            AND w.status = 'blocked' AND w.position < h.position \
            WHERE h.exclusive AND h.status NOT IN ('blocked', 'succeeded', 'failed', 'cancelled')",
    },
    Check {
        invariant: 4,
        name: "position_not_given",
        explanation: "A position that its workspace has not given out, or given out twice.",
        sql: "SELECT t.task_id AS offender FROM tasks t JOIN workspaces w ON w.workspace_id = t.workspace_id \
            WHERE t.position >= w.next_position OR (t.position IS NOT NULL AND EXISTS (SELECT 1 FROM tasks o \
                WHERE o.workspace_id = t.workspace_id AND o.position = t.position AND o.task_id <> t.task_id))",
    },
    Check {
        invariant: 5,
        name: "applied_without_approver",
        explanation: "A step that needs an approval went on without a record of who approved what (incidents 20 to 22).",
        sql: "SELECT task_id AS offender FROM tasks WHERE step_gated \
            AND (status IN ('pending', 'assigned', 'running', 'uncertain') OR (status = 'succeeded')) \
            AND (approved_step IS DISTINCT FROM step OR approved_by IS NULL OR approved_by = '' OR approved_at IS NULL \
                OR approved_digest IS NULL)",
    },
    Check {
        invariant: 5,
        name: "attempt_of_an_unapproved_step",
        explanation: "An attempt of the current step, which needs an approval, without one, or from before it was given.",
        sql: "SELECT a.task_id || '#' || a.attempt AS offender FROM tasks t JOIN attempts a ON a.task_id = t.task_id AND a.step = t.step \
            WHERE t.step_gated AND (t.approved_step IS DISTINCT FROM t.step OR t.approved_by IS NULL OR t.approved_at IS NULL \
                OR t.approved_at > a.assigned_at)",
    },
    Check {
        invariant: 10,
        name: "approved_other_bytes",
        explanation: "A step that needs an approval is about to run, runs or ran with other artifacts than those approved.",
        sql: "SELECT task_id AS offender FROM tasks WHERE step_gated AND approved_digest IS NOT NULL \
            AND approved_digest IS DISTINCT FROM artifact_digest \
            AND status IN ('pending', 'assigned', 'running', 'uncertain')",
    },
    Check {
        invariant: 10,
        name: "approved_artifacts_are_gone",
        // A step that left nothing has the digest of nothing, and no row.
        explanation: "The artifacts that a task names, or their manifest with that digest, are not stored (incidents 16, 26).",
        sql: "SELECT t.task_id AS offender FROM tasks t WHERE t.finished_at IS NULL AND t.artifact_attempt IS NOT NULL AND NOT EXISTS \
            (SELECT 1 FROM artifacts f WHERE f.task_id = t.task_id AND f.attempt = t.artifact_attempt AND f.digest = t.artifact_digest) \
            AND t.artifact_digest <> 'sha256:' || encode(sha256(''::bytea), 'hex')",
    },
    Check {
        invariant: 10,
        name: "artifact_parts_are_missing",
        explanation: "An artifact that waits to be approved or applied, of which stored bytes are missing or changed.",
        sql: "SELECT t.task_id || ': ' || (e.entry->>'name') AS offender FROM tasks t \
            JOIN artifacts f ON f.task_id = t.task_id AND f.attempt = t.artifact_attempt \
            CROSS JOIN LATERAL jsonb_array_elements(f.manifest) e(entry) \
            WHERE t.finished_at IS NULL AND (e.entry->>'sha256') IS DISTINCT FROM (SELECT 'sha256:' || encode(sha256( \
                coalesce(string_agg(p.bytes, ''::bytea ORDER BY p.part), ''::bytea)), 'hex') FROM artifact_parts p \
                WHERE p.task_id = f.task_id AND p.attempt = f.attempt AND p.name = e.entry->>'name')",
    },
];
