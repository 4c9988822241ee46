//! What arrives on the control queue.

use std::sync::Arc;

use switchyard_common::contract::control::{Control, Order};
use switchyard_common::contract::report::{Claim, NotStarted, StoppedBy};

use super::attempt_id::AttemptId;
use super::core::Machine;
use super::finish::not_started;
use super::hand::Stage;
use super::message::{Body, Effect};
use super::note::What;
use super::time::Now;

impl Machine {
    pub(super) fn control(&mut self, now: Now, control: Control) {
        if control.epoch < self.epoch {
            self.note(What::StaleEpoch { epoch: control.epoch });
            return;
        }
        self.learn_epoch(now, control.epoch);
        match control.order {
            Order::Go { key, nonce } => self.go(now, key, nonce),
            Order::NoGo { key, nonce, reason } => self.no_go(now, &key, nonce, reason),
            Order::Cancel { claim, force } | Order::Revoke { claim, force, reason: _ } => {
                self.unwanted(now, claim, force);
            }
            Order::Drain => self.drain(now),
            Order::EndSession { session } => self.session_ended_by_order(now, session),
        }
    }

    /// Somebody wants the attempt no longer: it is stopped, or never started, and answered for in either case (protocol B4).
    fn unwanted(&mut self, now: Now, claim: Claim, force: bool) {
        let attempt = AttemptId::from(claim.lease);
        if let Some(held) = self.hand.get(attempt) {
            match &held.stage {
                Stage::Waiting(_) | Stage::Asking(_) => self.refuse(now, attempt, NotStarted::Revoked),
                Stage::Running(running) if running.work.repeatable || force => {
                    self.stop(attempt, StoppedBy::Dispatcher);
                }
                Stage::Running(_) => self.note_held(attempt, What::NotStopped),
                // The answer is on its way.
                Stage::Leaving(_) | Stage::Reporting(_) => {}
            }
        } else if let Some(stone) = self.tombstones.get(attempt) {
            match stone.outcome.as_ref().map(Arc::clone) {
                Some(outcome) => {
                    // Asked for again until it is settled, so its confirm need not be awaited.
                    self.publish(Body::Outcome(outcome), None);
                    self.note_key(claim.key(), None, What::OutcomeAgain);
                }
                None => {
                    // It was confirmed long ago and never arrived. Silence would leave the dispatcher asking for ever.
                    self.note_key(claim.key(), None, What::OutcomeForgotten);
                    self.publish(Body::Outcome(not_started(claim, now, NotStarted::OutcomeForgotten)), None);
                }
            }
        } else if claim.session == self.session {
            // Everything that this session was given is in hand or a tombstone, so this was never given, and now never will be.
            self.refuse_unseen(now, claim, NotStarted::Revoked);
        } else {
            // An earlier process may have run it: only the end of its session is an answer, and the dispatcher has that.
            self.note_key(claim.key(), None, What::NotOurs);
        }
    }

    /// Stops a handler, once.
    pub(super) fn stop(&mut self, attempt: AttemptId, why: StoppedBy) {
        let Some(held) = self.hand.get_mut(attempt) else { return };
        if let Stage::Running(running) = &mut held.stage
            && running.stop.is_none()
        {
            running.stop = Some(why);
            self.note_held(attempt, What::Stopping(why));
            self.emit(Effect::Stop { attempt, why });
        }
    }
}
