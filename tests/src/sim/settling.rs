//! What a replica does with what arrives: events, reports, signs of life, dead letters. Each matter is settled in a transaction of its
//! own, with what follows only after the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use switchyard_common::contract::answer::Answer;
use switchyard_common::contract::assignment::AgentMessage;
use switchyard_common::contract::report::{Claim, Outcome, OutcomeBatch, Report, ReportBody};
use switchyard_common::contract::routing::parse_report_key;
use switchyard_common::failure::FailureKind;
use switchyard_common::task::{Input, Reporter};
use switchyard_dispatcher::control::{answer_to_beat, orders_of};
use switchyard_dispatcher::intake::command::{Admitted, Rejection, Verdict};
use switchyard_dispatcher::intake::deliveries::{in_turn, is_alone, is_poison};
use switchyard_dispatcher::presence::beat::{Beat, newest};
use switchyard_dispatcher::presence::sessions;
use switchyard_dispatcher::route::decide::REPLICA_STALE_AFTER;
use switchyard_dispatcher::settle::held::HELD_MAX;
use switchyard_dispatcher::settle::manifest::{Verified, verify};
use switchyard_dispatcher::settle::outcome::{admitted, manifest};
use switchyard_dispatcher::store::{Applied, Named};

use super::broker::{Body, Message, Tag};
use super::people::DEADLY_SOURCE;
use super::replica::{Action, Held, STORE_WAIT_MS};
use super::scenario::LOST_AFTER_MS;
use super::wire::ConnId;
use super::world::World;

/// How long an event waits for what may be about to arrive, in milliseconds.
const HELD_MAX_MS: u64 = 5_000;
/// The part of the lost-timeout that an assignment may be on its way before its absence from a heartbeat counts.
const MARGINS_PER_LOST_TIMEOUT: u64 = 4;
/// Largest total of artifacts, in bytes.
const ARTIFACTS_MAX_BYTES: u64 = 1_000_000;

/// What a delivery is about, and so which transaction it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Matter {
    Event,
    Outcome,
    Start,
    Letter,
}

fn matter(message: &Message) -> Matter {
    match &message.body {
        _ if message.died_in.is_some() => Matter::Letter,
        Body::Agent(_) | Body::Control(_) | Body::Canary(_) => Matter::Letter,
        Body::Event(_) => Matter::Event,
        Body::Report(report) => match report.body {
            ReportBody::Ask(_) | ReportBody::Started(_) => Matter::Start,
            ReportBody::Outcome(_)
            | ReportBody::Artifact(_)
            | ReportBody::Hello(_)
            | ReportBody::Heartbeat(_)
            | ReportBody::Log(_) => Matter::Outcome,
        },
    }
}

impl World {
    /// Applies inputs in one transaction of a replica and tells agents what follows. False when nobody was told of the commit, or
    /// there was none.
    pub(super) fn apply(&mut self, replica: usize, inputs: &[Named]) -> bool {
        let (now, number) = (self.now(), self.replicas[replica].number);
        let applied = self.store.apply(now, number, &mut self.dice, inputs);
        self.applied(&applied);
        if !self.commit_is_told() {
            return false;
        }
        let orders = self.orders(&applied);
        self.after_commit(replica, orders);
        true
    }

    fn orders(&self, applied: &[Applied]) -> Vec<Action> {
        let told = applied.iter().flat_map(|applied| orders_of(applied, self.store.epoch));
        told.map(|told| Action::Tell(Box::new(told))).collect()
    }

    /// Takes a delivery in hand.
    pub(super) fn take(&mut self, replica: usize, conn: ConnId, tag: Tag, message: Message) {
        let beat = match (&message.body, &message.died_in) {
            (Body::Report(report), None) => beat(&message.key, report),
            _ => None,
        };
        let since = self.now();
        match beat {
            Some(beat) => self.replicas[replica].beats.push(beat),
            None => self.replicas[replica].held.push(Held { conn, tag, message, since, waits: false }),
        }
    }

    /// Deals with everything in hand.
    pub(super) fn flush(&mut self, replica: usize) {
        if !self.has_database(replica) {
            // Signs of life are not repeated: the next one says the same again.
            self.replicas[replica].beats.clear();
            self.replicas[replica].judge.database_failed();
            self.plan_flush(replica, STORE_WAIT_MS);
            return;
        }
        let beats = std::mem::take(&mut self.replicas[replica].beats);
        self.hear(replica, beats);
        let life = self.replicas[replica].life;
        let mut matters: BTreeMap<Matter, Vec<Held>> = BTreeMap::new();
        for held in std::mem::take(&mut self.replicas[replica].held) {
            if Some(held.conn) == self.replicas[replica].consume {
                matters.entry(matter(&held.message)).or_default().push(held);
            }
        }
        let (now, later) = self.now_and_later(replica, matters.remove(&Matter::Event).unwrap_or_default());
        matters.insert(Matter::Event, now);
        self.replicas[replica].held.extend(later);
        for (matter, held) in matters {
            // The process may have ended in the transaction before.
            if self.replicas[replica].life != life {
                return;
            }
            self.deal(replica, matter, held);
        }
        if !self.replicas[replica].held.is_empty() {
            self.plan_flush(replica, STORE_WAIT_MS);
        }
    }

    fn deal(&mut self, replica: usize, matter: Matter, held: Vec<Held>) {
        self.begin_trial(replica, &held);
        if held.iter().any(|held| self.is_deadly(replica, &held.message)) {
            self.log(|| format!("replica {replica} dies of an event"));
            self.crash_replica(replica);
            return;
        }
        let mut follow = Vec::new();
        let (applied, waits) = match matter {
            Matter::Event => self.store_events(replica, &held, &mut follow),
            Matter::Outcome => self.settle_outcomes(replica, &held),
            Matter::Start => (self.settle_starts(replica, &held), BTreeSet::new()),
            Matter::Letter => {
                self.store_letters(&held);
                (Vec::new(), BTreeSet::new())
            }
        };
        self.applied(&applied);
        let is_told = self.commit_is_told();
        let changed = applied.iter().any(|applied| applied.after().is_some());
        if is_told && matter == Matter::Event && !held.iter().any(|one| self.is_poison(replica, &one.message))
        {
            self.end_trial(&held);
        }
        let (mut waiting, done): (Vec<Held>, Vec<Held>) =
            held.into_iter().partition(|held| !is_told || waits.contains(&held.tag));
        waiting.iter_mut().for_each(|held| held.waits = is_told);
        self.replicas[replica].held.extend(waiting);
        if !is_told {
            return;
        }
        let mut actions = self.orders(&applied);
        let refused: BTreeSet<Tag> = follow.iter().filter_map(refused_tag).collect();
        let acked = done.into_iter().filter(|held| !refused.contains(&held.tag));
        actions.extend(acked.map(|held| Action::Ack(held.conn, held.tag)));
        actions.append(&mut follow);
        if changed || matter == Matter::Event {
            self.wake(replica);
        }
        self.after_commit(replica, actions);
    }

    /// Events, each with its effect once. What names a task that may be about to appear waits for a while.
    fn store_events(
        &mut self,
        replica: usize,
        held: &[Held],
        follow: &mut Vec<Action>,
    ) -> (Vec<Applied>, BTreeSet<Tag>) {
        let (now, number) = (self.now(), self.replicas[replica].number);
        let (mut applied, mut waits) = (Vec::new(), BTreeSet::new());
        for one in held {
            let Body::Event(event) = &one.message.body else { continue };
            if self.is_poison(replica, &one.message) {
                let rejection = Rejection::new(FailureKind::Poison, "it came back too often", "look at it");
                self.reject(one, event, &rejection, follow);
                continue;
            }
            let (outcomes, verdict) = self.store.admit(now, number, &mut self.dice, event);
            applied.extend(outcomes);
            match verdict {
                Verdict::Accepted(answer) => {
                    // In the same transaction: what has taken effect is never poison.
                    self.store.trials.remove(&event.key);
                    self.decide(event, Answer::Accepted(answer), follow);
                }
                Verdict::Hold(_) if now < one.since + HELD_MAX_MS => drop(waits.insert(one.tag)),
                Verdict::Hold(rejection) | Verdict::Rejected(rejection) => {
                    self.reject(one, event, &rejection, follow);
                }
            }
        }
        (applied, waits)
    }

    /// The failure is recorded with the commit; the answer and the nack follow it.
    fn reject(&mut self, held: &Held, event: &Admitted, rejection: &Rejection, follow: &mut Vec<Action>) {
        let now = self.now();
        self.store.record_rejection(now, &event.key, rejection);
        self.decide(event, Answer::Rejected(rejection.answer(Some(&event.key.id))), follow);
        follow.push(Action::Nack(held.conn, held.tag));
    }

    fn decide(&mut self, event: &Admitted, answer: Answer, follow: &mut Vec<Action>) {
        self.check_event_verdict(&event.key, &answer);
        follow.push(Action::Answer(event.key.clone(), Box::new(answer)));
    }

    fn settle_starts(&mut self, replica: usize, held: &[Held]) -> Vec<Applied> {
        let mut inputs = Vec::new();
        for one in held {
            let Some((reporter, report)) = self.reporter(&one.message) else { continue };
            let named = |claim: &Claim, input| Named {
                task_id: claim.task_id.clone(),
                attempt: Some(claim.attempt),
                input,
            };
            match &report.body {
                ReportBody::Ask(ask) => {
                    let (reporter, claim) = (reporter, ask.claim.clone());
                    inputs.push(named(&ask.claim, Input::Ask { reporter, claim, nonce: ask.nonce }));
                }
                ReportBody::Started(batch) => inputs.extend(batch.claims.iter().map(|claim| {
                    named(claim, Input::Started { reporter: reporter.clone(), claim: claim.clone() })
                })),
                ReportBody::Hello(_)
                | ReportBody::Heartbeat(_)
                | ReportBody::Outcome(_)
                | ReportBody::Artifact(_)
                | ReportBody::Log(_) => {}
            }
        }
        let (now, number) = (self.now(), self.replicas[replica].number);
        self.store.apply(now, number, &mut self.dice, &inputs)
    }

    /// Parts first, then outcomes whose artifacts are complete; others wait.
    fn settle_outcomes(&mut self, replica: usize, held: &[Held]) -> (Vec<Applied>, BTreeSet<Tag>) {
        let now = self.now();
        let reports: Vec<(&Held, Reporter, &Report)> = held
            .iter()
            .filter_map(|one| self.reporter(&one.message).map(|(reporter, report)| (one, reporter, report)))
            .collect();
        for (_, _, report) in &reports {
            if let ReportBody::Artifact(left) = &report.body {
                self.store.keep_part(left);
            }
        }
        let (mut ready, mut waits) = (Vec::new(), BTreeSet::new());
        for (one, reporter, report) in &reports {
            let ReportBody::Outcome(OutcomeBatch { outcomes }) = &report.body else { continue };
            for outcome in outcomes {
                let waited = Duration::from_millis(now.saturating_sub(one.since)) >= HELD_MAX;
                let verified = self.verified(outcome);
                match admitted(&reporter.agent, report.epoch, outcome, verified, waited) {
                    Some(settling) => ready.push((settling, reporter.clone())),
                    None => drop(waits.insert(one.tag)),
                }
            }
        }
        let inputs: Vec<Named> = ready.iter().map(|(one, reporter)| one.named(reporter.clone())).collect();
        let number = self.replicas[replica].number;
        let applied = self.store.apply(now, number, &mut self.dice, &inputs);
        for ((settling, _), applied) in ready.iter().zip(&applied) {
            if let (Some(_), Some(manifest)) = (applied.after(), manifest(&settling.end)) {
                let key = settling.outcome.claim.key();
                self.store.keep_manifest(&key.task_id, key.attempt, manifest);
            }
        }
        (applied, waits)
    }

    /// Who reports, as the routing key says.
    fn reporter<'a>(&self, message: &'a Message) -> Option<(Reporter, &'a Report)> {
        let Body::Report(report) = &message.body else { return None };
        let (_, agent) = parse_report_key(&message.key).ok()?;
        let epoch_is_current = report.epoch == self.store.epoch;
        Some((Reporter { agent, granted: !self.store.revoked, epoch_is_current }, report))
    }

    fn verified(&self, outcome: &Outcome) -> Verified {
        let claim = &outcome.claim;
        let row = self.store.attempts.get(&(claim.task_id.clone(), claim.attempt));
        let proven =
            row.is_some_and(|row| row.attempt.end.is_none() && row.attempt.assignee.lease == claim.lease);
        match manifest(&outcome.end).filter(|_| proven) {
            Some(manifest) => {
                let stored = self.store.stored_files(&claim.task_id, claim.attempt);
                verify(manifest, &stored, ARTIFACTS_MAX_BYTES)
            }
            None => Verified::Complete,
        }
    }

    fn store_letters(&mut self, held: &[Held]) {
        let now = self.now();
        for one in held {
            if let Body::Agent(body) = &one.message.body
                && let AgentMessage::Assignment(work) = &**body
            {
                self.store.record_copy(now, &work.task_id, work.attempt);
            }
            if let Body::Event(event) = &one.message.body {
                self.store.record_event_copy(now, &event.key);
            }
        }
    }

    /// Signs of life.
    fn hear(&mut self, replica: usize, beats: Vec<Beat>) {
        let (now, at) = (self.now(), Duration::from_millis(self.now()));
        let beats = newest(beats);
        if beats.is_empty() {
            return;
        }
        let verdicts = self.store.record_beats(now, &beats);
        let accepted: Vec<&Beat> = beats
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| verdict.is_accepted())
            .map(|(beat, _)| beat)
            .collect();
        let drained = self.replicas[replica].judge.is_drained(at);
        self.store.compare_in_hand(now, &accepted, LOST_AFTER_MS / MARGINS_PER_LOST_TIMEOUT, drained);
        self.replicas[replica].judge.database_answered(at);
        let mut actions = Vec::new();
        for (beat, verdict) in beats.iter().zip(verdicts) {
            self.log(|| {
                format!("replica {replica} hears {} of {}: {verdict:?}", beat.presence.sequence, beat.agent)
            });
            if matches!(verdict, sessions::Verdict::NewSession { .. }) {
                self.wake(replica);
            }
            let told = answer_to_beat(beat, verdict, self.store.epoch);
            actions.extend(told.map(|told| Action::Tell(Box::new(told))));
        }
        self.after_commit(replica, actions);
    }
}

/// What an event must not do to the others in hand (protocol D4).
impl World {
    /// Of the events in hand, those that are handled now, in one transaction; the others have theirs when these are acked.
    fn now_and_later(&self, replica: usize, held: Vec<Held>) -> (Vec<Held>, Vec<Held>) {
        let (alone, together): (Vec<Held>, Vec<Held>) =
            held.into_iter().partition(|held| is_alone(held.message.deliveries));
        let mut later = in_turn(alone, |held| self.left_behind(replica, &held.message));
        if together.is_empty() && !later.is_empty() {
            let first = later.remove(0);
            return (vec![first], later);
        }
        (together, later)
    }

    /// Committed before the event is handled.
    fn begin_trial(&mut self, replica: usize, held: &[Held]) {
        let [Held { message, .. }] = held else { return };
        let Body::Event(event) = &message.body else { return };
        let is_tried =
            message.died_in.is_none() && is_alone(message.deliveries) && !self.is_poison(replica, message);
        if is_tried {
            let number = self.replicas[replica].number;
            self.store.trials.entry(event.key.clone()).or_default().insert(number);
        }
    }

    fn end_trial(&mut self, held: &[Held]) {
        let [Held { message: Message { body: Body::Event(event), .. }, .. }] = held else { return };
        self.store.trials.remove(&event.key);
    }

    /// Trials of an event that were begun by other processes which give no sign of life.
    fn left_behind(&self, replica: usize, message: &Message) -> u32 {
        let Body::Event(event) = &message.body else { return 0 };
        let (own, now) = (self.replicas[replica].number, self.now());
        let is_stale = |number: &usize| {
            let beat = self.store.replicas.get(number);
            beat.is_none_or(|at| Duration::from_millis(now - *at) > REPLICA_STALE_AFTER)
        };
        let begun = self.store.trials.get(&event.key).into_iter().flatten();
        begun.filter(|number| **number != own && is_stale(number)).fold(0, |count, _| count + 1)
    }

    fn is_poison(&self, replica: usize, message: &Message) -> bool {
        is_poison(message.deliveries, self.left_behind(replica, message))
    }

    /// Whether whoever handles a message dies of it.
    fn is_deadly(&self, replica: usize, message: &Message) -> bool {
        let Body::Event(event) = &message.body else { return false };
        message.died_in.is_none() && event.key.source == DEADLY_SOURCE && !self.is_poison(replica, message)
    }
}

fn refused_tag(action: &Action) -> Option<Tag> {
    match action {
        Action::Nack(_, tag) => Some(*tag),
        Action::Ack(..) | Action::Answer(..) | Action::Tell(_) | Action::Route(_) => None,
    }
}

fn beat(key: &str, report: &Report) -> Option<Beat> {
    let (_, agent) = parse_report_key(key).ok()?;
    match &report.body {
        ReportBody::Hello(presence) | ReportBody::Heartbeat(presence) => {
            Some(Beat { agent, epoch: report.epoch, presence: presence.clone() })
        }
        ReportBody::Ask(_)
        | ReportBody::Started(_)
        | ReportBody::Outcome(_)
        | ReportBody::Artifact(_)
        | ReportBody::Log(_) => None,
    }
}
