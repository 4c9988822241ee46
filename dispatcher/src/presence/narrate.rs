//! The log lines and counters of presence.

use super::beat::Beat;
use super::judge::NotNow;
use super::sessions::Verdict;
use crate::store::presence::Lost;

pub(super) fn beat(beat: &Beat, verdict: Verdict) {
    metrics::counter!("switchyard_heartbeats_total", "verdict" => verdict.as_str()).increment(1);
    let (agent, said) = (&beat.agent, &beat.presence);
    let (session, pod) = (said.session, &said.pod);
    match verdict {
        Verdict::NewSession { supersedes } => {
            tracing::info!(%agent, %session, pod, slots = said.slots, credit = said.credit, version = said.version,
                supersedes = supersedes.map(tracing::field::display), "agent session begins");
        }
        Verdict::Fresh | Verdict::Stale => {}
        Verdict::SessionOver => {
            tracing::warn!(%agent, %session, pod, "an agent speaks for a session that has ended; it is told to take a new one");
        }
        Verdict::ForeignSession => {
            tracing::warn!(%agent, %session, pod, "an agent speaks for a session of another agent; it is not heard");
        }
        Verdict::PoolRevoked => {
            tracing::warn!(%agent, %session, pod, "an agent of a pool whose grant is revoked is not heard");
        }
        Verdict::UnknownPool => {
            tracing::warn!(%agent, %session, pod,
                "an agent of a pool that nobody has registered is not heard: register a workspace in the pool, or set allow_new_pools");
        }
    }
}

pub(super) fn malformed(routing_key: &str, why: &str) {
    metrics::counter!("switchyard_heartbeats_total", "verdict" => "malformed").increment(1);
    tracing::warn!(routing_key, why, "a sign of life cannot be read");
}

/// Each reason is told once, until it changes or goes.
pub(super) fn not_now(why: NotNow, told: &mut Option<NotNow>) {
    metrics::counter!("switchyard_losses_held_back_total", "reason" => why.as_str()).increment(1);
    if told.replace(why) != Some(why) {
        tracing::info!(reason = why.as_str(), "this replica declares no agent lost for now");
    }
}

pub(super) fn lost(lost: &Lost) {
    let (agent, session, silent_seconds) = (&lost.agent, lost.session, lost.silent_seconds);
    if lost.drained {
        tracing::info!(%agent, %session, silent_seconds, "agent is gone: it had drained");
        return;
    }
    metrics::counter!("switchyard_agents_lost_total").increment(1);
    tracing::warn!(%agent, %session, silent_seconds, "agent lost: nothing was heard of it");
}
