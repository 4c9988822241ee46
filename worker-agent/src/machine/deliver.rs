//! What arrives on the agent's own queue: new work, copies and redeliveries of work in hand, input parts.

use std::sync::Arc;

use switchyard_common::contract::assignment::{Assignment, AttemptKey, InputPart};
use switchyard_common::contract::ids::SessionId;
use switchyard_common::contract::report::{Claim, NotStarted};

use super::attempt_id::AttemptId;
use super::core::Machine;
use super::hand::{Held, Inputs, Stage, Waiting};
use super::message::{Effect, Tag};
use super::note::What;
use super::time::Now;

/// What an assignment that is seen for the first time comes to.
enum Arrival {
    Drop(What),
    Refuse(NotStarted),
    Take,
}

impl Machine {
    /// An assignment: joined to what is known of it, refused, or taken in hand.
    pub(super) fn assignment(&mut self, now: Now, tag: Tag, work: Assignment) {
        let attempt = AttemptId::from(work.lease);
        if self.hand.get(attempt).is_some() {
            self.delivered_again(attempt, tag, work.publish_no);
            return;
        }
        if let Some(stone) = self.tombstones.get(attempt) {
            // Only the delivery that was nacked can be the one whose nack was lost; every other is a copy (protocol B5).
            let nack_again = stone.nack && stone.publish_no == work.publish_no;
            let what = if nack_again {
                What::NackedAgain
            } else {
                What::CopyDropped { publish_no: work.publish_no }
            };
            self.emit(if nack_again { Effect::Nack(tag) } else { Effect::Ack(tag) });
            self.note_key(work.key(), Some(work.workspace_id), what);
            return;
        }
        match self.judge(now, &work) {
            Arrival::Drop(what) => {
                self.emit(Effect::Ack(tag));
                self.note_key(work.key(), Some(work.workspace_id), what);
            }
            Arrival::Refuse(reason) => {
                self.take_in_hand(now, tag, Arc::new(work), None);
                self.refuse(now, attempt, reason);
            }
            Arrival::Take => self.take(now, tag, Arc::new(work)),
        }
    }

    fn judge(&mut self, now: Now, work: &Assignment) -> Arrival {
        if work.agent != self.settings.agent.agent || work.pool != self.settings.agent.pool {
            return Arrival::Drop(What::Misrouted);
        }
        if work.epoch < self.epoch {
            self.note_key(
                work.key(),
                Some(work.workspace_id.clone()),
                What::StaleEpoch { epoch: work.epoch },
            );
            return Arrival::Refuse(NotStarted::OtherSession);
        }
        self.learn_epoch(now, work.epoch);
        if work.session != self.session {
            return Arrival::Refuse(NotStarted::OtherSession);
        }
        if self.draining {
            return Arrival::Refuse(NotStarted::Draining);
        }
        if !self.settings.handlers.contains(&work.handler) {
            return Arrival::Refuse(NotStarted::NoHandler);
        }
        Arrival::Take
    }

    fn take(&mut self, now: Now, tag: Tag, work: Arc<Assignment>) {
        match self.inputs_of(&work) {
            Ok(inputs) => self.take_in_hand(now, tag, work, inputs),
            Err(reason) => {
                let attempt = AttemptId::from(work.lease);
                self.take_in_hand(now, tag, work, None);
                self.refuse_inputs(now, attempt, reason);
            }
        }
    }

    fn take_in_hand(&mut self, now: Now, tag: Tag, work: Arc<Assignment>, inputs: Option<Inputs>) {
        let claim = Claim {
            task_id: work.task_id.clone(),
            attempt: work.attempt,
            session: work.session,
            lease: work.lease,
        };
        self.hand.insert(Held {
            claim,
            workspace: Some(work.workspace_id.clone()),
            tag: Some(tag),
            publish_no: work.publish_no,
            stage: Stage::Waiting(Waiting { work, inputs, since: now.boot }),
        });
    }

    /// A delivery of what is in hand. After a connection loss the first one that comes is the one that counts; while one counts, every
    /// other is a copy and is acked, so that exactly one is left to be acked or nacked at the end (protocol B5).
    fn delivered_again(&mut self, attempt: AttemptId, tag: Tag, publish_no: u32) {
        let Some(held) = self.hand.get_mut(attempt) else { return };
        // A tag of another channel is void even when the loss of its channel was not told.
        let counts = held.tag.filter(|held| held.channel == tag.channel);
        if counts.is_some() {
            self.emit(Effect::Ack(tag));
            self.note_held(attempt, What::CopyDropped { publish_no });
            return;
        }
        held.tag = Some(tag);
        held.publish_no = publish_no;
        self.note_held(attempt, What::Reattached);
    }

    /// An input part: acked as soon as it is in memory. It is sent again with the next publish of its assignment when it is dropped.
    pub(super) fn input_part(&mut self, now: Now, tag: Tag, part: InputPart) {
        self.emit(Effect::Ack(tag));
        let (key, session) = (part.key.clone(), part.session);
        if session != self.session || self.draining {
            let reason = if self.draining { "the agent drains" } else { "it was sent to another session" };
            self.note_key(key, None, What::PartDropped { reason });
            return;
        }
        match self.parts.keep(now.boot, part) {
            Ok(()) => self.inputs_arrived(now, &key, session),
            Err(reason) => self.note_key(key, None, What::PartDropped { reason }),
        }
    }

    /// Looks whether an assignment waits for the part that has just come.
    fn inputs_arrived(&mut self, now: Now, key: &AttemptKey, session: SessionId) {
        let waits = self.hand.iter().find_map(|(attempt, held)| match &held.stage {
            Stage::Waiting(waiting)
                if waiting.inputs.is_none() && held.claim.session == session && held.claim.key() == *key =>
            {
                Some((*attempt, Arc::clone(&waiting.work), waiting.since))
            }
            Stage::Waiting(_)
            | Stage::Asking(_)
            | Stage::Running(_)
            | Stage::Leaving(_)
            | Stage::Reporting(_) => None,
        });
        let Some((attempt, work, since)) = waits else { return };
        match self.inputs_of(&work) {
            Ok(None) => {}
            Ok(inputs) => {
                self.hand.advance(attempt, Stage::Waiting(Waiting { work, inputs, since }));
            }
            Err(reason) => self.refuse_inputs(now, attempt, reason),
        }
    }

    /// The verified inputs of an attempt; none while parts are missing. What was approved is what is applied (protocol F1).
    fn inputs_of(&mut self, work: &Assignment) -> Result<Option<Inputs>, String> {
        if let Some(approval) = &work.approval {
            let digest = work.inputs.digest();
            if digest != approval.digest {
                return Err(format!("the manifest has {digest}, but {} was approved", approval.digest));
            }
        }
        match self.parts.take(&work.key(), work.session, &work.inputs) {
            None => Ok(None),
            Some(Ok(files)) => Ok(Some(Arc::new(files))),
            Some(Err(error)) => Err(error.to_string()),
        }
    }

    pub(super) fn refuse_inputs(&mut self, now: Now, attempt: AttemptId, reason: String) {
        self.note_held(attempt, What::BadInputs { reason });
        self.refuse(now, attempt, NotStarted::Inputs);
    }
}
