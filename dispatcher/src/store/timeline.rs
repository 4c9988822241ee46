//! The life of a task as one list, derived from its row, its attempts, its notes and its letters: for dead letters, for
//! `tasks show`, and for whoever watches.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::db::{Db, Transaction};
use super::error::StoreError;

/// Most moments of one timeline; the oldest ones and the newest ones are kept.
pub const TIMELINE_MAX_COUNT: usize = 200;
/// Oldest moments that are kept of a longer timeline: how it began.
const TIMELINE_FIRST_COUNT: usize = 20;

/// One thing that happened to a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// When, by the database clock.
    pub at: DateTime<Utc>,
    /// What: `submitted`, `assigned`, `started`, an outcome, an approval, a status at the end, or the word of a note.
    pub what: String,
    /// The attempt that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// More about it.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

impl Moment {
    /// A note may tell what a column tells as well.
    fn is_same(&self, other: &Self) -> bool {
        self.at == other.at && self.what == other.what && self.attempt == other.attempt
    }

    fn learn(&mut self, more: Value) {
        if let (Value::Object(known), Value::Object(more)) = (&mut self.detail, more) {
            known.extend(more);
        }
    }
}

/// The rank orders what happened in one transaction, and so at one time.
const TIMELINE: &str = "SELECT task_id, at, attempt, what, jsonb_strip_nulls(detail) AS detail FROM (
    SELECT task_id, created_at AS at, NULL::integer AS attempt, 'submitted' AS what, 0 AS rank, 0::bigint AS place,
        jsonb_build_object('source', source, 'event_id', event_id, 'workspace', workspace_id, 'kind', kind, 'priority', priority,
            'replay_of', replay_of) AS detail
        FROM tasks WHERE task_id = ANY($1)
    UNION ALL SELECT task_id, approved_at, NULL, 'approved', 1, 0, jsonb_build_object('by', approved_by, 'digest', approved_digest)
        FROM tasks WHERE task_id = ANY($1) AND approved_at IS NOT NULL
    UNION ALL SELECT task_id, cancel_requested_at, NULL,
        CASE WHEN cancel_force THEN 'cancel requested with force' ELSE 'cancel requested' END, 2, 0,
        jsonb_build_object('by', cancel_requested_by)
        FROM tasks c WHERE task_id = ANY($1) AND cancel_requested_at IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM task_notes n WHERE n.task_id = c.task_id AND n.at = c.cancel_requested_at AND n.what = 'discarded')
    UNION ALL SELECT task_id, assigned_at, attempt, 'assigned', 5, 0,
        jsonb_build_object('step', step_name, 'agent', agent_id, 'pool', pool_id, 'pod', pod_name, 'node', node_name)
        FROM attempts WHERE task_id = ANY($1)
    UNION ALL SELECT task_id, confirmed_at, attempt, 'published', 6, 0, jsonb_build_object('copies', publish_no)
        FROM attempts WHERE task_id = ANY($1) AND confirmed_at IS NOT NULL
    UNION ALL SELECT task_id, started_at, attempt, 'started', 7, 0, jsonb_build_object('step', step_name)
        FROM attempts WHERE task_id = ANY($1) AND started_at IS NOT NULL
    UNION ALL SELECT task_id, revoke_requested_at, attempt, 'revoke_requested', 8, 0,
        jsonb_build_object('reason', revoke_reason, 'force', revoke_force)
        FROM attempts WHERE task_id = ANY($1) AND revoke_requested_at IS NOT NULL
    UNION ALL SELECT task_id, at, attempt, what, 3, note_id, detail FROM task_notes WHERE task_id = ANY($1)
    UNION ALL SELECT task_id, ended_at, attempt, outcome, 10, 0,
        jsonb_build_object('step', step_name, 'handler_started_at', handler_started_at, 'handler_ended_at', handler_ended_at)
        FROM attempts WHERE task_id = ANY($1) AND ended_at IS NOT NULL
    UNION ALL SELECT task_id, failed_at, attempt, 'dead_letter', 11, letter_id,
        jsonb_build_object('letter', letter_id, 'failure', failure_kind, 'message', left(failure_message, 200))
        FROM dead_letters WHERE task_id = ANY($1) AND origin IN ('attempt', 'task') AND failed_at IS NOT NULL
    UNION ALL SELECT task_id, finished_at, NULL, status, 12, 0, jsonb_build_object('failure', failure_kind)
        FROM tasks WHERE task_id = ANY($1) AND finished_at IS NOT NULL
) moments ORDER BY task_id, at, rank, attempt, place";

/// The timeline of one task; empty when there is none.
pub async fn timeline(db: &Db, task_id: &str) -> Result<Vec<Moment>, StoreError> {
    let ids = [task_id];
    let ids = &ids[..];
    let mut all = db.transaction(|transaction| async move { timelines(&transaction, ids).await }).await?;
    Ok(all.remove(task_id).unwrap_or_default())
}

/// The timelines of several tasks.
pub(crate) async fn timelines(
    transaction: &Transaction,
    task_ids: &[&str],
) -> Result<HashMap<String, Vec<Moment>>, StoreError> {
    let mut timelines: HashMap<String, Vec<Moment>> = HashMap::new();
    if task_ids.is_empty() {
        return Ok(timelines);
    }
    for row in transaction.query(TIMELINE, &[&task_ids]).await? {
        let moments = timelines.entry(row.get("task_id")).or_default();
        let moment = Moment {
            at: row.get("at"),
            what: row.get::<_, Option<String>>("what").unwrap_or_default(),
            attempt: row.get("attempt"),
            detail: row.get::<_, Option<Value>>("detail").unwrap_or_default(),
        };
        let at_once = moments.iter_mut().rev().take_while(|earlier| earlier.at == moment.at);
        match at_once.into_iter().find(|earlier| earlier.is_same(&moment)) {
            Some(same) => same.learn(moment.detail),
            None => moments.push(moment),
        }
    }
    timelines.values_mut().for_each(shorten);
    Ok(timelines)
}

/// Leaves out the middle of a timeline that is too long, and says how much.
fn shorten(moments: &mut Vec<Moment>) {
    if moments.len() <= TIMELINE_MAX_COUNT {
        return;
    }
    let newest_from = moments.len() - (TIMELINE_MAX_COUNT - TIMELINE_FIRST_COUNT - 1);
    let left_out = newest_from - TIMELINE_FIRST_COUNT;
    let gap = Moment {
        at: moments[TIMELINE_FIRST_COUNT].at,
        what: "left_out".to_owned(),
        attempt: None,
        detail: json!({ "moments": left_out }),
    };
    moments.splice(TIMELINE_FIRST_COUNT..newest_from, [gap]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(count: usize) -> Vec<Moment> {
        let at = DateTime::UNIX_EPOCH;
        (0..count).map(|n| Moment { at, what: n.to_string(), attempt: None, detail: Value::Null }).collect()
    }

    #[test]
    fn a_timeline_at_the_limit_is_whole_and_a_longer_one_says_what_it_left_out() {
        let mut exact = moments(TIMELINE_MAX_COUNT);
        shorten(&mut exact);
        assert_eq!(exact, moments(TIMELINE_MAX_COUNT));
        let mut long = moments(TIMELINE_MAX_COUNT + 1);
        shorten(&mut long);
        assert_eq!(long.len(), TIMELINE_MAX_COUNT);
        assert_eq!(long[TIMELINE_FIRST_COUNT].detail, json!({ "moments": 2 }));
        assert_eq!(long[TIMELINE_FIRST_COUNT - 1].what, "19");
        assert_eq!(long[TIMELINE_FIRST_COUNT + 1].what, "22");
        assert_eq!(long.last().map(|m| m.what.as_str()), Some("200"));
    }
}
