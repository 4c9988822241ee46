//! The machine's notes as log lines, with the field names that operators search for.

use crate::machine::{Level, Note};

pub(super) fn log(note: &Note) {
    let task_id = note.key.as_ref().map(|key| key.task_id.as_str());
    let attempt = note.key.as_ref().map(|key| key.attempt);
    let workspace_id = note.workspace.as_ref().map(|workspace| workspace.as_str());
    match note.level() {
        Level::Debug => tracing::debug!(task_id, attempt, workspace_id, "{}", note.what),
        Level::Info => tracing::info!(task_id, attempt, workspace_id, "{}", note.what),
        Level::Warn => tracing::warn!(task_id, attempt, workspace_id, "{}", note.what),
    }
}
