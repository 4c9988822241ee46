//! What is due when time passes.

use std::time::Duration;

use switchyard_common::contract::ids::Nonce;
use switchyard_common::contract::report::{Claim, NotStarted};

use super::attempt_id::AttemptId;
use super::core::{Machine, Purpose};
use super::hand::{Held, Stage};
use super::limits::{INPUT_WAIT_MAX_MS, STARTED_AFTER_MS};
use super::message::Body;
use super::note::What;
use super::time::{BootTime, Now};

/// What is due for one attempt.
enum Due {
    InputsMissing,
    AskAgain(Nonce),
    AskOver,
    Started(Claim),
    PublishAgain,
}

impl Machine {
    pub(super) fn tick(&mut self, now: Now) {
        let window = self.settings.start_window;
        let due: Vec<(AttemptId, Due)> = self
            .hand
            .iter_mut()
            .filter_map(|(attempt, held)| due(held, now.boot, window).map(|due| (*attempt, due)))
            .collect();
        let (mut attempts, mut claims) = (Vec::new(), Vec::new());
        for (attempt, due) in due {
            match due {
                Due::InputsMissing => {
                    let reason = format!("parts are missing after {INPUT_WAIT_MAX_MS} ms");
                    self.refuse_inputs(now, attempt, reason);
                }
                Due::AskAgain(nonce) => self.publish_ask(attempt, nonce),
                Due::AskOver => self.refuse(now, attempt, NotStarted::NoGo),
                Due::Started(claim) => {
                    attempts.push(attempt);
                    claims.push(claim);
                }
                Due::PublishAgain => self.publish_again(attempt),
            }
        }
        if !claims.is_empty() {
            self.publish(Body::Started(claims), Some(Purpose::Started(attempts)));
        }
        for key in self.parts.expire(now.boot) {
            self.note_key(key, None, What::PartDropped { reason: "its assignment did not come" });
        }
        self.presence_due(now);
    }
}

/// What is due for an attempt, which is marked so that it is not due again at once.
fn due(held: &mut Held, now: BootTime, start_window: Duration) -> Option<Due> {
    match &mut held.stage {
        Stage::Waiting(waiting) => {
            let over = now.since(waiting.since) >= Duration::from_millis(INPUT_WAIT_MAX_MS);
            (waiting.inputs.is_none() && over).then_some(Due::InputsMissing)
        }
        Stage::Asking(asking) => {
            if now.since(asking.asked_at) > start_window {
                return Some(Due::AskOver);
            }
            (now >= asking.repeat.at).then(|| {
                asking.repeat.put_off(now);
                Due::AskAgain(asking.nonce)
            })
        }
        Stage::Running(running) => {
            let long = now.since(running.since) > Duration::from_millis(STARTED_AFTER_MS);
            (long && !running.reported).then(|| {
                running.reported = true;
                Due::Started(held.claim.clone())
            })
        }
        Stage::Leaving(leaving) => {
            (!leaving.lost.is_empty() && now >= leaving.again.at).then_some(Due::PublishAgain)
        }
        Stage::Reporting(reporting) => {
            (reporting.open.is_none() && now >= reporting.again.at).then_some(Due::PublishAgain)
        }
    }
}
