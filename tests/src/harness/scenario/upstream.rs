//! An upstream service: publishes events, and hears the answers.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use switchyard_common::broker::{Outgoing, Properties, RequestError, Requester, Session};
use switchyard_common::contract::answer::{Accepted, Answer, Rejected};
use switchyard_common::contract::cloudevent::{CloudEvent, STRUCTURED_CONTENT_TYPE};
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::topology::Namespace;
use uuid::Uuid;

use crate::harness::wait::{Look, until};

/// Longest wait for an answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// `source` of its events.
pub const SOURCE: &str = "/tests/upstream";

/// A publisher of events. One request at a time.
pub struct Upstream {
    namespace: Namespace,
    session: Session,
    requester: Requester,
}

impl Upstream {
    /// A publisher on a connection of its own.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn open(namespace: Namespace, session: Session) -> anyhow::Result<Self> {
        let requester = Requester::open(&session).await?;
        Ok(Self { namespace, session, requester })
    }

    /// Publishes any bytes with any properties, and waits for the answer. `reply_to` and `correlation_id` are set.
    ///
    /// # Errors
    /// When the broker refuses, or no answer comes in time.
    pub async fn request(
        &mut self,
        routing_key: &str,
        properties: Properties,
        body: impl Into<Vec<u8>>,
    ) -> anyhow::Result<Answer> {
        let exchange = self.namespace.events_exchange();
        let message = Outgoing::new(&exchange, routing_key, properties, body.into(), true)?;
        let requester = &mut self.requester;
        let answered = until("the queue of events", ANSWER_WITHIN, async || {
            match requester.request(&message, ANSWER_WITHIN).await {
                Ok(answered) => Ok(Look::There(answered)),
                // The first dispatcher of a scenario is about to declare it.
                Err(error @ RequestError::Returned { .. }) => Ok(Look::NotYet(error.to_string())),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
        serde_json::from_slice(&answered.body).context("the answer cannot be read")
    }

    /// Publishes an event and waits for the answer.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn publish(&mut self, event: &CloudEvent) -> anyhow::Result<Answer> {
        let mut properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
        properties.message_id = Some(event.id.clone());
        self.request(&event.event_type, properties, serde_json::to_vec(event)?).await
    }

    /// Publishes new data and waits for the answer.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn ask(&mut self, event_type: EventType, data: Value) -> anyhow::Result<Answer> {
        self.publish(&event(event_type, data)).await
    }

    /// Publishes new data that must be accepted.
    ///
    /// # Errors
    /// When it is rejected, or as [`request`](Self::request).
    pub async fn accepted(&mut self, event_type: EventType, data: Value) -> anyhow::Result<Accepted> {
        match self.ask(event_type, data.clone()).await? {
            Answer::Accepted(accepted) => Ok(accepted),
            Answer::Rejected(rejected) => bail!("{} {data} was rejected: {rejected:?}", event_type.as_str()),
        }
    }

    /// Publishes new data that must be rejected.
    ///
    /// # Errors
    /// When it is accepted, or as [`request`](Self::request).
    pub async fn rejected(&mut self, event_type: EventType, data: Value) -> anyhow::Result<Rejected> {
        match self.ask(event_type, data.clone()).await? {
            Answer::Rejected(rejected) => Ok(rejected),
            Answer::Accepted(accepted) => bail!("{} {data} was accepted: {accepted:?}", event_type.as_str()),
        }
    }

    /// Registers a workspace in the pool `default`.
    ///
    /// # Errors
    /// As [`accepted`](Self::accepted).
    pub async fn register(&mut self, workspace: &str) -> anyhow::Result<Accepted> {
        let data = json!({ "workspace_id": workspace, "pool": "default" });
        self.accepted(EventType::WorkspaceRegistered, data).await
    }

    /// Submits a task; an unknown workspace is registered in the pool `default`.
    ///
    /// # Errors
    /// As [`accepted`](Self::accepted).
    pub async fn submit(
        &mut self,
        task_id: &str,
        workspace: &str,
        kind: &str,
        payload: Value,
    ) -> anyhow::Result<Accepted> {
        self.accepted(EventType::TaskSubmitted, submission(task_id, workspace, kind, payload)).await
    }

    /// Approves what a task waits with.
    ///
    /// # Errors
    /// As [`accepted`](Self::accepted).
    pub async fn approve(&mut self, task_id: &str, by: &str) -> anyhow::Result<Accepted> {
        let data = json!({ "task_id": task_id, "approved_by": by });
        self.accepted(EventType::TaskApproved, data).await
    }

    /// Asks for a task to be cancelled.
    ///
    /// # Errors
    /// As [`accepted`](Self::accepted).
    pub async fn cancel(&mut self, task_id: &str, by: &str) -> anyhow::Result<Accepted> {
        let data = json!({ "task_id": task_id, "requested_by": by });
        self.accepted(EventType::TaskCancelRequested, data).await
    }

    /// The connection, for messages of other kinds.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }
}

/// A new event of [`SOURCE`] with a drawn id.
#[must_use]
pub fn event(event_type: EventType, data: Value) -> CloudEvent {
    CloudEvent::new(Uuid::now_v7().to_string(), SOURCE, event_type.as_str(), data)
}

/// The data of a submission to the pool `default`.
#[must_use]
pub fn submission(task_id: &str, workspace: &str, kind: &str, payload: Value) -> Value {
    json!({ "task_id": task_id, "workspace_id": workspace, "kind": kind, "payload": payload, "pool": "default" })
}
