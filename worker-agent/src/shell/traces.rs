//! Which trace each attempt belongs to, so that whatever is reported of it carries the trace on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use switchyard_common::contract::assignment::Assignment;
use switchyard_common::contract::report::{Claim, ReportBody};
use switchyard_common::telemetry::TraceParent;

use crate::machine::AttemptId;

/// Most attempts that are remembered; the oldest are forgotten first. Far above what an agent has in hand.
const REMEMBERED_MAX_COUNT: usize = 4_096;

/// The traces of the newest attempts. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Traces(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    traces: HashMap<AttemptId, TraceParent>,
    oldest_first: VecDeque<AttemptId>,
}

impl Traces {
    /// Remembers the trace of an assignment.
    pub(super) fn remember(&self, work: &Assignment) {
        let Some(trace) = work.traceparent.as_deref().and_then(|text| text.parse().ok()) else { return };
        let attempt = AttemptId::from(work.lease);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.traces.insert(attempt, trace).is_none() {
            known.oldest_first.push_back(attempt);
        }
        while known.oldest_first.len() > REMEMBERED_MAX_COUNT {
            if let Some(oldest) = known.oldest_first.pop_front() {
                known.traces.remove(&oldest);
            }
        }
    }

    /// The trace of a report: of the first attempt that it is about, where it is about several.
    pub(super) fn of(&self, body: &ReportBody) -> Option<TraceParent> {
        let attempt = AttemptId::from(claim(body)?.lease);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).traces.get(&attempt).copied()
    }
}

fn claim(body: &ReportBody) -> Option<&Claim> {
    match body {
        ReportBody::Hello(_) | ReportBody::Heartbeat(_) => None,
        ReportBody::Ask(ask) => Some(&ask.claim),
        ReportBody::Started(batch) => batch.claims.first(),
        ReportBody::Outcome(batch) => batch.outcomes.first().map(|outcome| &outcome.claim),
        ReportBody::Artifact(left) => Some(&left.claim),
        ReportBody::Log(lines) => Some(&lines.claim),
    }
}
