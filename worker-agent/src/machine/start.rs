//! Starting: slots, and the two phases of a step that is not repeatable (protocol B7).

use std::sync::Arc;

use switchyard_common::contract::assignment::{Assignment, AttemptKey};
use switchyard_common::contract::ids::Nonce;
use switchyard_common::contract::report::{Ask, NotStarted};

use super::attempt_id::AttemptId;
use super::core::Machine;
use super::hand::{Again, Asking, Held, Inputs, Running, Stage, Waiting};
use super::limits::{ASK_REPEAT_INITIAL_MS, ASK_REPEAT_MAX_MS};
use super::message::{Body, Effect, Start};
use super::note::What;
use super::time::Now;

impl Machine {
    /// Fills the free slots, oldest first.
    pub(super) fn start_ready(&mut self, now: Now) {
        while self.may_start(now)
            && let Some(attempt) = self.hand.next_ready(self.settings.slots, self.settings.max_exclusive)
        {
            let Some(Held { stage: Stage::Waiting(Waiting { work, inputs: Some(inputs), .. }), .. }) =
                self.hand.get(attempt)
            else {
                return;
            };
            let (work, inputs) = (Arc::clone(work), Arc::clone(inputs));
            if work.repeatable {
                self.run(now, attempt, work, inputs);
            } else {
                self.ask(now, attempt, work, inputs);
            }
        }
    }

    fn run(&mut self, now: Now, attempt: AttemptId, work: Arc<Assignment>, inputs: Inputs) {
        let dead_by = if work.exclusive && work.repeatable { self.dead_by() } else { None };
        let running = Running {
            work: Arc::clone(&work),
            since: now.boot,
            started_at: now.wall,
            // A step that is not repeatable is running by the dispatcher's own word.
            reported: !work.repeatable,
            stop: None,
        };
        self.hand.advance(attempt, Stage::Running(running));
        self.note_held(attempt, What::Started);
        self.emit(Effect::Start(Box::new(Start { work, inputs, dead_by })));
    }

    fn ask(&mut self, now: Now, attempt: AttemptId, work: Arc<Assignment>, inputs: Inputs) {
        let nonce = self.ids.nonce();
        let repeat = Again::from(now.boot, ASK_REPEAT_INITIAL_MS, ASK_REPEAT_MAX_MS);
        let asking = Asking { work, inputs, nonce, asked_at: now.boot, repeat };
        self.hand.advance(attempt, Stage::Asking(asking));
        self.note_held(attempt, What::Asked);
        self.publish_ask(attempt, nonce);
    }

    /// The same ask with the same nonce, as often as it takes. Its loss needs no notice: it is repeated anyway.
    pub(super) fn publish_ask(&mut self, attempt: AttemptId, nonce: Nonce) {
        if let Some(held) = self.hand.get(attempt) {
            let claim = held.claim.clone();
            self.publish(Body::Ask(Ask { claim, nonce }), None);
        }
    }

    /// Go: acted on only while asking with that very nonce, and soon enough after the first ask.
    pub(super) fn go(&mut self, now: Now, key: AttemptKey, nonce: Nonce) {
        let Some((attempt, asking)) = self.asking_with(&key, nonce) else {
            self.note_key(key, None, What::GoIgnored);
            return;
        };
        if now.boot.since(asking.asked_at) > self.settings.start_window {
            self.refuse(now, attempt, NotStarted::NoGo);
            return;
        }
        let (work, inputs) = (Arc::clone(&asking.work), Arc::clone(&asking.inputs));
        self.run(now, attempt, work, inputs);
    }

    /// No-go: never started, now or later.
    pub(super) fn no_go(&mut self, now: Now, key: &AttemptKey, nonce: Nonce, reason: String) {
        if let Some((attempt, _)) = self.asking_with(key, nonce) {
            self.note_held(attempt, What::NoGo { reason });
            self.refuse(now, attempt, NotStarted::NoGo);
        }
    }

    fn asking_with(&self, key: &AttemptKey, nonce: Nonce) -> Option<(AttemptId, &Asking)> {
        let attempt = self.hand.asking(nonce)?;
        let held = self.hand.get(attempt)?;
        match &held.stage {
            Stage::Asking(asking) if held.claim.key() == *key => Some((attempt, asking)),
            Stage::Asking(_)
            | Stage::Waiting(_)
            | Stage::Running(_)
            | Stage::Leaving(_)
            | Stage::Reporting(_) => None,
        }
    }
}
