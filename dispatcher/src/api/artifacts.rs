//! What a task's steps have left, for whoever approves without a shell: the list, and the bytes.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use switchyard_common::contract::ids::TaskId;

use super::server::Api;
use crate::store::StoreError;
use crate::store::left_files::{left_files_of_known, read_file};

/// Of which step.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    step: Option<String>,
}

/// `GET /api/v1/tasks/{task}/artifacts`
pub(super) async fn list(State(api): State<Api>, Path(task): Path<String>) -> Response {
    let Ok(task_id) = TaskId::new(task) else { return no_task() };
    match left_files_of_known(&api.db, &task_id).await {
        Ok(Some(files)) => Json(files).into_response(),
        Ok(None) => no_task(),
        Err(error) => failed(&error),
    }
}

/// `GET /api/v1/tasks/{task}/artifacts/{name}?step=`: the very bytes, never as something that a browser would run.
pub(super) async fn bytes(
    State(api): State<Api>,
    Path((task, name)): Path<(String, String)>,
    Query(choice): Query<Choice>,
) -> Response {
    let Ok(task_id) = TaskId::new(task) else { return not_found() };
    match read_file(&api.db, &task_id, choice.step.as_deref(), &name).await {
        Ok(Some((file, bytes))) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_DISPOSITION, "attachment".to_owned()),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
                (header::ETAG, format!("\"{}\"", file.sha256)),
            ];
            (headers, bytes).into_response()
        }
        Ok(None) => not_found(),
        Err(error) => failed(&error),
    }
}

fn no_task() -> Response {
    (StatusCode::NOT_FOUND, "there is no such task\n").into_response()
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "there is no such artifact\n").into_response()
}

/// The reason goes to the log, where it is seen; the client learns whether to come again.
fn failed(error: &StoreError) -> Response {
    tracing::warn!(%error, "an artifact cannot be read");
    let status = if error.is_transient() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    (status, "the artifact cannot be read; the dispatcher's log says why\n").into_response()
}
