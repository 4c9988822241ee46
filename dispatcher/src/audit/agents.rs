//! Checks of attempts, agents and their sessions.

use super::checks::Check;

pub(super) const CHECKS: &[Check] = &[
    Check {
        invariant: 2,
        name: "attempt_of_an_ended_session",
        explanation: "An attempt whose session ended more than 5 minutes ago and that is still open without being uncertain.",
        sql: "SELECT a.task_id || '#' || a.attempt AS offender FROM attempts a JOIN tasks t ON t.task_id = a.task_id \
            JOIN agent_sessions s ON s.session = a.session \
            WHERE a.ended_at IS NULL AND s.ended_at < now() - interval '5 minutes' AND t.status <> 'uncertain'",
    },
    Check {
        invariant: 6,
        name: "started_twice",
        explanation: "A step that is not repeatable was allowed to start in more than one attempt. An attempt whose agent said that it \
            did not start does not count.",
        sql: "SELECT task_id || ', step ' || step AS offender FROM attempts \
            WHERE NOT repeatable AND (nonce IS NOT NULL OR started_at IS NOT NULL) AND outcome IS DISTINCT FROM 'not_started' \
            GROUP BY task_id, step HAVING count(*) > 1",
    },
    Check {
        invariant: 6,
        name: "attempt_after_a_start",
        explanation: "A step that is not repeatable has started, and a later attempt of it was made.",
        sql: "SELECT a.task_id || '#' || b.attempt AS offender FROM attempts a JOIN attempts b \
            ON b.task_id = a.task_id AND b.step = a.step AND b.attempt > a.attempt \
            WHERE NOT a.repeatable AND a.nonce IS NOT NULL AND a.outcome IS DISTINCT FROM 'not_started'",
    },
    Check {
        invariant: 7,
        name: "settled_twice",
        explanation: "A step that two attempts have brought to success: a stale one changed state.",
        sql: "SELECT task_id || ', step ' || step AS offender FROM attempts WHERE outcome = 'succeeded' \
            GROUP BY task_id, step HAVING count(*) > 1",
    },
    Check {
        invariant: 7,
        name: "attempt_of_another_pool",
        explanation: "An attempt given to an agent of another pool than its task's, or a task in another pool than its workspace.",
        sql: "SELECT a.task_id || '#' || a.attempt AS offender FROM attempts a JOIN tasks t ON t.task_id = a.task_id \
            WHERE a.pool_id <> t.pool_id \
            UNION ALL SELECT t.task_id FROM tasks t JOIN workspaces w ON w.workspace_id = t.workspace_id \
            WHERE t.finished_at IS NULL AND t.pool_id <> w.pool_id",
    },
    Check {
        invariant: 7,
        name: "two_open_attempts",
        explanation: "A task with more than one open attempt, or with more attempts than it has counted.",
        sql: "SELECT a.task_id AS offender FROM attempts a JOIN tasks t ON t.task_id = a.task_id GROUP BY a.task_id, t.attempts \
            HAVING count(*) FILTER (WHERE a.ended_at IS NULL) > 1 OR max(a.attempt) > t.attempts",
    },
    Check {
        invariant: 7,
        name: "two_current_sessions",
        explanation: "An agent with more than one session that has not ended, or whose own session has ended although it is live.",
        sql: "SELECT s.pool_id || '/' || s.agent_id AS offender FROM agent_sessions s WHERE s.ended_at IS NULL \
            GROUP BY s.pool_id, s.agent_id HAVING count(*) > 1 \
            UNION ALL SELECT g.pool_id || '/' || g.agent_id FROM agents g JOIN agent_sessions s ON s.session = g.session \
            WHERE g.live AND s.ended_at IS NOT NULL",
    },
    Check {
        invariant: 8,
        name: "over_capacity",
        explanation: "An agent with more open attempts of its current session than slots and credit, or more exclusive ones than it takes.",
        sql: "SELECT g.pool_id || '/' || g.agent_id || ': ' || count(*) || ' open, ' || count(*) FILTER (WHERE a.exclusive) \
                || ' exclusive' AS offender \
            FROM agents g JOIN attempts a ON a.pool_id = g.pool_id AND a.agent_id = g.agent_id AND a.session = g.session \
            WHERE a.ended_at IS NULL GROUP BY g.pool_id, g.agent_id, g.slots, g.credit, g.max_exclusive \
            HAVING count(*) > g.slots + g.credit OR count(*) FILTER (WHERE a.exclusive) > g.max_exclusive",
    },
];
