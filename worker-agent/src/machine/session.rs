//! Ends: of a session, by silence or by order, and of the agent's work, by draining (protocol C3, C5, C6).

use switchyard_common::contract::ids::SessionId;
use switchyard_common::contract::report::{NotStarted, StoppedBy};

use super::attempt_id::AttemptId;
use super::core::Machine;
use super::hand::Stage;
use super::message::Effect;
use super::note::{SessionEnd, What};
use super::presence::PresenceState;
use super::time::Now;

impl Machine {
    /// Ends the session and takes a new one. What was not started never will be; what may run on keeps its old claim.
    pub(super) fn end_session(&mut self, now: Now, why: SessionEnd) {
        let ended = self.session;
        self.note(What::SessionEnded { session: ended, why });
        let reason = match why {
            SessionEnd::Silence => NotStarted::Silence,
            SessionEnd::Ordered => NotStarted::Revoked,
        };
        self.refuse_unstarted(now, reason);
        match why {
            SessionEnd::Silence => self.stop_exclusive(),
            SessionEnd::Ordered => self.stop_repeatable_of(ended),
        }
        self.parts.clear();
        self.session = self.ids.session();
        self.presence = PresenceState::default();
        self.note(What::SessionStarted { session: self.session });
        self.emit(Effect::SessionStarted(self.session));
        self.send_presence(now);
    }

    /// The dispatcher has declared a session lost (protocol C5).
    pub(super) fn session_ended_by_order(&mut self, now: Now, session: SessionId) {
        if session == self.session {
            self.end_session(now, SessionEnd::Ordered);
        } else {
            self.stop_repeatable_of(session);
        }
    }

    /// A newer restore epoch: what was given to this agent before it, and has not started, never will (protocol G).
    pub(super) fn learn_epoch(&mut self, now: Now, epoch: i64) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.refuse_unstarted(now, NotStarted::OtherSession);
        }
    }

    /// Their work is given to others; only a step that is not repeatable runs on, because half of it would be worse.
    fn stop_repeatable_of(&mut self, session: SessionId) {
        for attempt in self.running(|work| work.repeatable && work.session == session) {
            self.stop(attempt, StoppedBy::Dispatcher);
        }
    }

    /// Takes no more work and hands back what was not started.
    pub(super) fn drain(&mut self, now: Now) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.note(What::Draining);
        self.emit(Effect::StopConsuming);
        self.refuse_unstarted(now, NotStarted::Draining);
        self.parts.clear();
        self.send_presence(now);
    }

    pub(super) fn drain_grace_over(&mut self) {
        for attempt in self.running(|_| true) {
            self.stop(attempt, StoppedBy::Drain);
        }
    }

    fn refuse_unstarted(&mut self, now: Now, reason: NotStarted) {
        let unstarted = self.hand.iter().filter(|(_, held)| match held.stage {
            Stage::Waiting(_) | Stage::Asking(_) => true,
            Stage::Running(_) | Stage::Leaving(_) | Stage::Reporting(_) => false,
        });
        let unstarted: Vec<AttemptId> = unstarted.map(|(attempt, _)| *attempt).collect();
        for attempt in unstarted {
            self.refuse(now, attempt, reason);
        }
    }
}
