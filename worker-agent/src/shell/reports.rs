//! Reports as messages.

use switchyard_common::broker::{Outgoing, OutgoingError, Properties};
use switchyard_common::contract::ids::AgentRef;
use switchyard_common::contract::report::{Report, ReportBody};
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::contract::topology::Namespace;

use super::traces::Traces;

/// Makes messages of reports.
#[derive(Debug, Clone)]
pub(super) struct ReportWriter {
    exchange: String,
    agent: AgentRef,
    traces: Traces,
}

/// Why a report cannot be sent. It never can be, so it is logged and given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportError {
    #[error("a report cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a report cannot be sent: {0}")]
    Message(#[from] OutgoingError),
}

impl ReportWriter {
    pub(super) fn new(namespace: &Namespace, agent: AgentRef, traces: Traces) -> Self {
        Self { exchange: namespace.reports_exchange(), agent, traces }
    }

    /// Where reports go.
    pub(super) fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The message of a report. Signs of life may find no listener and are worthless later; everything else must reach a queue.
    pub(super) fn message(&self, epoch: i64, body: ReportBody) -> Result<Outgoing, ReportError> {
        let (kind, matters) = match &body {
            ReportBody::Hello(_) => (ReportKind::Hello, false),
            ReportBody::Heartbeat(_) => (ReportKind::Heartbeat, false),
            ReportBody::Ask(_) => (ReportKind::Ask, true),
            ReportBody::Started(_) => (ReportKind::Started, true),
            ReportBody::Outcome(_) => (ReportKind::Outcome, true),
            ReportBody::Artifact(_) => (ReportKind::Artifact, true),
            ReportBody::Log(_) => (ReportKind::Log, true),
        };
        let mut properties = Properties {
            content_type: Some("application/json".to_owned()),
            kind: Some(kind.as_str().to_owned()),
            persistent: matters,
            ..Properties::default()
        };
        if let Some(trace) = self.traces.of(&body) {
            trace.put_into(&mut properties.headers);
        }
        let bytes = serde_json::to_vec(&Report { epoch, body })?;
        Ok(Outgoing::new(&self.exchange, &kind.key(&self.agent), properties, bytes, matters)?)
    }
}
