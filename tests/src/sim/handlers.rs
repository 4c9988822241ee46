//! What handlers do, and what becomes of them when they are asked to stop.

use std::collections::BTreeMap;

use switchyard_common::contract::assignment::Assignment;
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_worker_agent::machine::{AttemptId, HandlerEnd};

use super::agenda::Millis;
use super::ledger::RunEvent;
use super::scenario::KILL_GRACE_MS;
use super::world::{Event, World};

/// What a handler is going to come to.
#[derive(Debug, Clone, Copy)]
enum Lot {
    Succeeds,
    ChangesNothing,
    Fails,
    Panics,
    Overruns,
    KillsAgent,
}

/// Longest run of most handlers, in milliseconds.
const RUN_MAX_MS: u64 = 3_000;

impl World {
    /// Draws how and when a handler ends, if nobody stops it.
    pub(super) fn handler_plan(&mut self, work: &Assignment) -> (Millis, RunEvent) {
        let ends = self.scenario.ends;
        let lots = [
            (ends.succeeds, Lot::Succeeds),
            (ends.changes_nothing, Lot::ChangesNothing),
            (ends.fails, Lot::Fails),
            (ends.panics, Lot::Panics),
            (ends.overruns, Lot::Overruns),
            (if self.calm { 0 } else { ends.kills_agent }, Lot::KillsAgent),
        ];
        let lot = self.dice.weighted(&lots).unwrap_or(Lot::Succeeds);
        let is_long = self.dice.chance(self.scenario.long_per_mille);
        let most = if is_long { self.scenario.long_max_ms } else { RUN_MAX_MS };
        let wait = self.dice.between(5, most);
        let failure = |kind, message: &str| Failure::new(kind, message);
        match lot {
            Lot::Succeeds => (wait, RunEvent::Ends(self.success(work, true))),
            Lot::ChangesNothing => (wait, RunEvent::Ends(self.success(work, false))),
            Lot::Fails => {
                (wait, RunEvent::Ends(HandlerEnd::Failed(failure(FailureKind::HandlerFailed, "it failed"))))
            }
            Lot::Panics => {
                let end = HandlerEnd::Panicked(failure(FailureKind::HandlerPanicked, "it panicked"));
                (wait, RunEvent::Ends(end))
            }
            Lot::Overruns => {
                let end = HandlerEnd::TimedOut(failure(FailureKind::RunTimeout, "it ran too long"));
                let killed = self.dice.below(KILL_GRACE_MS);
                // Some handlers cannot be killed by their agent in time.
                let stuck = if self.dice.chance(200) { 30_000 } else { 0 };
                (work.run_timeout_ms + killed + stuck, RunEvent::Ends(end))
            }
            Lot::KillsAgent => (wait, RunEvent::KillsAgent),
        }
    }

    /// A plan leaves bytes that tell its attempt; what is last leaves nothing.
    fn success(&mut self, work: &Assignment, changes: bool) -> HandlerEnd {
        let mut artifacts = BTreeMap::new();
        if work.handler.as_str() == "plan" {
            artifacts.insert("plan".to_owned(), format!("planned by {}", work.key()).into_bytes());
            if self.dice.chance(300) {
                artifacts.insert("summary".to_owned(), b"1 to change".to_vec());
            }
        }
        HandlerEnd::Succeeded { changes, artifacts, result: None }
    }

    /// TERM, then KILL. The handler may come to its own end first.
    pub(super) fn stop_run(&mut self, agent: usize, attempt: AttemptId) {
        let life = self.agents[agent].life;
        let Some(run) = self.ledger.alive_of(agent, life, attempt) else { return };
        self.ledger.runs[run].stop_asked = true;
        let wait = self.dice.below(KILL_GRACE_MS);
        self.plan(wait, Event::Run { run, event: RunEvent::Ends(HandlerEnd::Stopped) });
    }
}
