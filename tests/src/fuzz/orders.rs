//! What an agent is sent, in any order: one step per line, through its whole machine.
//!
//! ```text
//! D{...}  a message of its own queue, as bytes      C{...}  a message of its control queue, as bytes
//! g n     the oldest ask is granted, refused        + -     the oldest report is confirmed, lost
//! e f     the oldest handler succeeds, fails        tX      time passes: the byte X times 360 ms
//! k l     its connection is there, is lost          d o     it is to drain, its grace is over
//! ```
//!
//! Each delivery is settled once at most, nothing runs beside itself or beyond the slots, what is not repeatable starts by a granted ask
//! alone, and whatever the agent says is a report that the dispatcher reads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::DateTime;
use serde_json::json;
use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::control::{Control, Order};
use switchyard_common::contract::ids::{AgentId, AgentRef, HandlerName, Nonce, PoolId, SessionId};
use switchyard_common::contract::report::{OutcomeBatch, Report, ReportBody, StartedBatch};
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_dispatcher::presence::beat::read_beat;
use switchyard_dispatcher::settle::read::read;
use switchyard_worker_agent::machine::{
    AttemptId, Body, BootTime, Effect, HandlerEnd, IdSource, Input, Machine, Now, Publish, ReportId,
    Settings, Start, Tag,
};
use uuid::Uuid;

use super::fields::line;

/// Steps of one input that are looked at: more of them find nothing that fewer do not.
const STEPS_MAX_COUNT: usize = 64;
/// What one `t` counts, in milliseconds.
const TIME_UNIT_MS: u64 = 360;

/// Gives the machine one step after the other.
pub fn check(data: &[u8]) {
    let mut bench = Bench::new();
    let mut rest = data;
    for _ in 0..STEPS_MAX_COUNT {
        if rest.is_empty() {
            break;
        }
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let step = &rest[..end];
        rest = line(rest).1;
        if let Some((word, message)) = step.split_first() {
            bench.step(*word, message);
        }
    }
}

/// Ids in the order in which they are drawn, so that seeds can name them: sessions from 1, nonces from 1001.
struct Counting {
    sessions: u128,
    nonces: u128,
}

impl IdSource for Counting {
    fn session(&mut self) -> SessionId {
        self.sessions += 1;
        SessionId(Uuid::from_u128(self.sessions))
    }

    fn nonce(&mut self) -> Nonce {
        self.nonces += 1;
        Nonce(Uuid::from_u128(self.nonces))
    }
}

/// A machine, and what is open between it and the world.
struct Bench {
    machine: Machine,
    now: Now,
    channel: u64,
    tags: u64,
    settled: BTreeSet<Tag>,
    unanswered: Vec<ReportId>,
    asks: Vec<(AttemptKey, Nonce)>,
    asked: BTreeSet<(AttemptId, Nonce)>,
    started_once: BTreeSet<AttemptId>,
    running: BTreeMap<AttemptId, bool>,
    order: Vec<AttemptId>,
}

impl Bench {
    fn new() -> Self {
        Self {
            machine: Machine::new(settings(), Box::new(Counting { sessions: 0, nonces: 1_000 })),
            now: Now { boot: BootTime(Duration::from_secs(1_000)), wall: DateTime::UNIX_EPOCH },
            channel: 1,
            tags: 0,
            settled: BTreeSet::new(),
            unanswered: Vec::new(),
            asks: Vec::new(),
            asked: BTreeSet::new(),
            started_once: BTreeSet::new(),
            running: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    fn step(&mut self, word: u8, message: &[u8]) {
        if let Some(input) = self.input(word, message) {
            let granted = granted(&input);
            for effect in self.machine.handle(self.now, input) {
                self.effect(effect, granted);
            }
            assert!(self.machine.slots_used() <= self.machine.settings().slots);
        }
    }

    /// The input of a step, if it can come now.
    fn input(&mut self, word: u8, message: &[u8]) -> Option<Input> {
        Some(match word {
            b'D' => {
                self.tags += 1;
                let tag = Tag { channel: self.channel, number: self.tags };
                Input::Delivery { tag, message: serde_json::from_slice(message).ok()? }
            }
            b'C' => Input::Control(serde_json::from_slice(message).ok()?),
            b'g' | b'n' => {
                let (key, nonce) = remove_first(&mut self.asks)?;
                let reason = "no".to_owned();
                let order =
                    if word == b'g' { Order::Go { key, nonce } } else { Order::NoGo { key, nonce, reason } };
                Input::Control(Control { epoch: self.machine.epoch(), order })
            }
            b'+' => Input::Confirmed(remove_first(&mut self.unanswered)?),
            b'-' => Input::Lost(remove_first(&mut self.unanswered)?),
            b'e' | b'f' => {
                let attempt = remove_first(&mut self.order)?;
                self.running.remove(&attempt);
                Input::HandlerEnded { attempt, end: end(word == b'e'), log_lines: 1 }
            }
            b't' => {
                let units = message.first().copied().unwrap_or_default();
                self.now.boot = self.now.boot.plus(Duration::from_millis(u64::from(units) * TIME_UNIT_MS));
                Input::Tick
            }
            b'k' => Input::ConsumeReady,
            b'l' => {
                self.channel += 1;
                Input::ConsumeLost
            }
            b'd' => Input::DrainRequested,
            b'o' => Input::DrainGraceOver,
            _ => return None,
        })
    }

    fn effect(&mut self, effect: Effect, granted: Option<Nonce>) {
        match effect {
            Effect::Publish(publish) => self.said(publish),
            Effect::Ack(tag) | Effect::Nack(tag) => {
                assert!(tag.number <= self.tags, "{tag:?} was never delivered");
                assert!(self.settled.insert(tag), "{tag:?} is settled twice");
            }
            Effect::Start(start) => self.started(&start, granted),
            Effect::Stop { .. }
            | Effect::KeepAlive { .. }
            | Effect::SessionStarted(_)
            | Effect::StopConsuming
            | Effect::Note(_) => {}
            Effect::Drained => assert_eq!(self.machine.in_hand(), 0, "it goes with work in hand"),
        }
    }

    fn started(&mut self, start: &Start, granted: Option<Nonce>) {
        let (work, attempt) = (&start.work, AttemptId::from(start.work.lease));
        assert!(self.running.insert(attempt, work.exclusive).is_none(), "{attempt:?} runs beside itself");
        self.order.push(attempt);
        let settings = self.machine.settings();
        let exclusive = self.running.values().filter(|exclusive| **exclusive).count();
        assert!(
            self.running.len() <= settings.slots as usize && exclusive <= settings.max_exclusive as usize
        );
        assert!(settings.handlers.contains(&work.handler), "a handler that it does not have");
        assert_eq!(work.session, self.machine.session(), "work of another session");
        if !work.repeatable {
            let nonce = granted.expect("what is not repeatable starts by a go");
            assert!(self.asked.contains(&(attempt, nonce)), "by the go of another ask");
            assert!(self.started_once.insert(attempt), "and once");
        }
    }

    /// Whatever it says must be heard: as a report of its own routing key, by the queue that it belongs to.
    fn said(&mut self, publish: Publish) {
        self.unanswered.push(publish.id);
        let body = match publish.body {
            Body::Hello(presence) => ReportBody::Hello(presence),
            Body::Heartbeat(presence) => ReportBody::Heartbeat(presence),
            Body::Ask(ask) => {
                self.asked.insert((AttemptId::from(ask.claim.lease), ask.nonce));
                self.asks.push((ask.claim.key(), ask.nonce));
                ReportBody::Ask(ask)
            }
            Body::Started(claims) => ReportBody::Started(StartedBatch { claims }),
            Body::Outcome(outcome) => {
                ReportBody::Outcome(OutcomeBatch { outcomes: vec![(*outcome).clone()] })
            }
            Body::Artifact(part) => ReportBody::Artifact((*part).clone()),
        };
        let kind = body.kind();
        let is_sign_of_life = matches!(body, ReportBody::Hello(_) | ReportBody::Heartbeat(_));
        let key = kind.key(&self.machine.settings().agent);
        let sent =
            serde_json::to_vec(&Report { epoch: publish.epoch, body }).expect("a report can be written");
        let heard = if is_sign_of_life {
            read_beat(&key, &sent).map(drop)
        } else {
            read(&key, &sent, &[kind]).map(drop)
        };
        assert_eq!(heard, Ok(()), "the dispatcher cannot read what its agent says");
    }
}

/// The nonce that an input grants.
fn granted(input: &Input) -> Option<Nonce> {
    match input {
        Input::Control(Control { order: Order::Go { nonce, .. }, .. }) => Some(*nonce),
        Input::Control(_)
        | Input::ConsumeReady
        | Input::ConsumeLost
        | Input::Delivery { .. }
        | Input::HandlerEnded { .. }
        | Input::Confirmed(_)
        | Input::Lost(_)
        | Input::Tick
        | Input::DrainRequested
        | Input::DrainGraceOver => None,
    }
}

fn end(succeeds: bool) -> HandlerEnd {
    if succeeds {
        let artifacts = [("plan".to_owned(), b"change".to_vec())].into();
        HandlerEnd::Succeeded { changes: true, artifacts, result: Some(json!({ "added": 1 })) }
    } else {
        HandlerEnd::Failed(Failure::new(FailureKind::HandlerFailed, "no"))
    }
}

fn remove_first<T>(list: &mut Vec<T>) -> Option<T> {
    (!list.is_empty()).then(|| list.remove(0))
}

fn settings() -> Settings {
    let handler = |name: &str| HandlerName::new(name).expect("a name");
    Settings {
        agent: AgentRef {
            pool: PoolId::new("default").expect("an id"),
            agent: AgentId::new("worker-0").expect("an id"),
        },
        pod: "worker-0".to_owned(),
        node: None,
        version: "0".to_owned(),
        slots: 2,
        credit: 2,
        max_exclusive: 1,
        handlers: [handler("plan"), handler("apply")].into(),
        heartbeat: Duration::from_secs(5),
        lost_timeout: Duration::from_secs(20),
        silence_margin: Duration::from_secs(2),
        kill_grace: Duration::from_secs(5),
        start_window: Duration::from_secs(15),
    }
}
