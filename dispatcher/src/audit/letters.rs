//! Checks of dead letters.

use super::checks::Check;

pub(super) const CHECKS: &[Check] = &[
    Check {
        invariant: 9,
        name: "nack_without_letter",
        explanation: "An attempt that failed, panicked or timed out, and so was nacked, without a dead letter that has its failure.",
        sql: "SELECT a.task_id || '#' || a.attempt AS offender FROM attempts a WHERE a.outcome IN ('failed', 'panicked', 'timed_out') \
            AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.letter_key = 'attempt:' || a.task_id || '#' || a.attempt \
                AND d.failure_kind IS NOT NULL)",
    },
    Check {
        invariant: 9,
        name: "failed_task_without_letter",
        explanation: "A task that failed, without any dead letter that says why.",
        sql: "SELECT t.task_id AS offender FROM tasks t WHERE t.status = 'failed' AND NOT EXISTS \
            (SELECT 1 FROM dead_letters d WHERE d.task_id = t.task_id AND d.origin IN ('attempt', 'task') \
                AND d.failure_kind IS NOT NULL)",
    },
    Check {
        invariant: 9,
        name: "letter_without_its_half",
        explanation: "A dead letter that has waited for more than 2 minutes for its other half: the sweep that completes it does not run.",
        sql: "SELECT letter_id::text AS offender FROM dead_letters WHERE completed_at IS NULL \
            AND coalesce(failed_at, broker_at) < now() - interval '2 minutes'",
    },
    Check {
        invariant: 9,
        name: "letter_never_logged",
        explanation: "A dead letter that has been complete for more than a minute without its log line.",
        sql: "SELECT letter_id::text AS offender FROM dead_letters WHERE logged_at IS NULL \
            AND completed_at < now() - interval '1 minute'",
    },
    Check {
        invariant: 9,
        name: "letter_without_failure",
        explanation: "A dead letter that is called complete and does not say why.",
        sql: "SELECT letter_id::text AS offender FROM dead_letters WHERE completed_at IS NOT NULL \
            AND (failure_kind IS NULL OR failure IS NULL)",
    },
    Check {
        invariant: 9,
        name: "open_letter_of_a_succeeded_task",
        explanation: "A dead letter of a task that has succeeded more than a minute ago, still open: it should have resolved itself.",
        sql: "SELECT d.letter_id::text AS offender FROM dead_letters d JOIN tasks t ON t.task_id = d.task_id \
            WHERE d.origin IN ('attempt', 'task') AND d.resolved_at IS NULL AND d.logged_at < now() - interval '1 minute' \
                AND t.status = 'succeeded' AND t.finished_at < now() - interval '1 minute'",
    },
];
