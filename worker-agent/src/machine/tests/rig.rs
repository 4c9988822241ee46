//! A machine with a clock in hand, and short ways to say what happens to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use switchyard_common::contract::artifact::{Manifest, split};
use switchyard_common::contract::assignment::{AgentMessage, AssignedApproval, Assignment, InputPart};
use switchyard_common::contract::control::{Control, Order};
use switchyard_common::contract::ids::{
    AgentId, AgentRef, HandlerName, KindName, LeaseToken, Nonce, PoolId, SessionId, StepName, TaskId,
    WorkspaceId,
};
use switchyard_common::contract::report::{Claim, NotStarted, OutcomeEnd, Presence, StoppedBy};
use switchyard_common::failure::{Failure, FailureKind};
use uuid::Uuid;

use crate::machine::{
    AttemptId, Body, BootTime, Effect, HandlerEnd, IdSource, Input, Machine, Now, ReportId, Settings, Tag,
    What,
};

pub(super) fn settings() -> Settings {
    Settings {
        agent: AgentRef { pool: PoolId::new("default").unwrap(), agent: AgentId::new("worker-0").unwrap() },
        pod: "worker-0".to_owned(),
        node: None,
        version: "0".to_owned(),
        slots: 2,
        credit: 2,
        max_exclusive: 1,
        handlers: [HandlerName::new("plan").unwrap()].into(),
        heartbeat: Duration::from_secs(5),
        lost_timeout: Duration::from_secs(20),
        silence_margin: Duration::from_secs(2),
        kill_grace: Duration::from_secs(5),
        start_window: Duration::from_secs(15),
    }
}

/// Ids in the order in which they are drawn: sessions from 1, nonces from 1001.
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

/// The first nonce that a rig draws.
pub(super) fn first_nonce() -> Nonce {
    Nonce(Uuid::from_u128(1001))
}

/// A machine, its clock, and every effect that was not looked at yet.
pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) now: Now,
    channel: u64,
    tags: u64,
}

/// What came of one input.
#[derive(Debug, Default)]
pub(super) struct Came(pub(super) Vec<Effect>);

impl Rig {
    pub(super) fn new(settings: Settings) -> Self {
        let machine = Machine::new(settings, Box::new(Counting { sessions: 0, nonces: 1000 }));
        let now = Now { boot: BootTime(Duration::from_secs(1000)), wall: DateTime::<Utc>::UNIX_EPOCH };
        Self { machine, now, channel: 1, tags: 0 }
    }

    /// A machine that has said hello and was heard.
    pub(super) fn heard() -> Self {
        Self::heard_with(settings())
    }

    pub(super) fn heard_with(settings: Settings) -> Self {
        let mut rig = Self::new(settings);
        let hello = rig.give(Input::ConsumeReady).presence_id();
        rig.give(Input::Confirmed(hello));
        rig
    }

    pub(super) fn give(&mut self, input: Input) -> Came {
        Came(self.machine.handle(self.now, input))
    }

    /// Time passes, and the machine is told at the end of it.
    pub(super) fn pass(&mut self, ms: u64) -> Came {
        self.skip(ms);
        self.give(Input::Tick)
    }

    /// Time passes, and the machine is not told: the process was paused.
    pub(super) fn skip(&mut self, ms: u64) {
        self.now.boot = self.now.boot.plus(Duration::from_millis(ms));
    }

    /// Time passes with heartbeats that are all confirmed. Returns everything that came.
    pub(super) fn pass_heard(&mut self, ms: u64) -> Came {
        let mut came = Came::default();
        for _ in 0..ms / 100 {
            let mut now = self.pass(100);
            for id in now.presences().into_iter().map(|(id, _)| id) {
                now.0.extend(self.give(Input::Confirmed(id)).0);
            }
            came.0.extend(now.0);
        }
        came
    }

    pub(super) fn tag(&mut self) -> Tag {
        self.tags += 1;
        Tag { channel: self.channel, number: self.tags }
    }

    pub(super) fn deliver(&mut self, work: &Assignment) -> (Tag, Came) {
        let tag = self.tag();
        let message = AgentMessage::Assignment(Box::new(work.clone()));
        (tag, self.give(Input::Delivery { tag, message }))
    }

    pub(super) fn deliver_part(&mut self, part: InputPart) -> (Tag, Came) {
        let tag = self.tag();
        (tag, self.give(Input::Delivery { tag, message: AgentMessage::InputPart(part) }))
    }

    /// The consume connection is lost and comes back.
    pub(super) fn reconnect(&mut self) -> Came {
        self.give(Input::ConsumeLost);
        self.channel += 1;
        self.give(Input::ConsumeReady)
    }

    pub(super) fn order(&mut self, order: Order) -> Came {
        self.give(Input::Control(Control { epoch: 0, order }))
    }

    pub(super) fn end(&mut self, work: &Assignment, end: HandlerEnd) -> Came {
        self.give(Input::HandlerEnded { attempt: AttemptId::from(work.lease), end, log_lines: 0 })
    }

    pub(super) fn confirm_outcome(&mut self, came: &Came) -> Came {
        let id = came.outcome_id();
        self.give(Input::Confirmed(id))
    }

    /// A repeatable, shared step for this machine's session; `n` makes its ids.
    pub(super) fn work(&self, n: u32) -> Assignment {
        Assignment {
            epoch: 0,
            task_id: TaskId::new(format!("task-{n}")).unwrap(),
            attempt: 1,
            lease: LeaseToken(Uuid::from_u128(u128::from(n) + 1_000_000)),
            session: self.machine.session(),
            pool: PoolId::new("default").unwrap(),
            agent: AgentId::new("worker-0").unwrap(),
            workspace_id: WorkspaceId::new("w").unwrap(),
            kind: KindName::new("plan").unwrap(),
            step: StepName::new("plan").unwrap(),
            handler: HandlerName::new("plan").unwrap(),
            exclusive: false,
            repeatable: true,
            run_timeout_ms: 60_000,
            parameters: json!({}),
            payload: json!({}),
            approval: None,
            inputs: Manifest::default(),
            publish_no: 1,
            traceparent: None,
        }
    }

    /// A step of an exclusive kind.
    pub(super) fn exclusive(&self, n: u32) -> Assignment {
        Assignment { exclusive: true, ..self.work(n) }
    }

    /// A step that is not repeatable.
    pub(super) fn once(&self, n: u32) -> Assignment {
        Assignment { exclusive: true, repeatable: false, ..self.work(n) }
    }

    /// A step that is not repeatable, has been asked for, and was allowed to run.
    pub(super) fn run_once(&mut self, n: u32) -> Assignment {
        let work = self.once(n);
        let nonce = self.deliver(&work).1.asks()[0];
        let came = self.order(Order::Go { key: work.key(), nonce });
        assert_eq!(came.started(), [work.task_id.as_str()]);
        work
    }
}

impl Came {
    pub(super) fn started(&self) -> Vec<&str> {
        let of = |effect: &'_ Effect| matches!(effect, Effect::Start(_));
        let starts = self.0.iter().filter(|effect| of(effect));
        starts
            .filter_map(|effect| {
                if let Effect::Start(start) = effect { Some(start.work.task_id.as_str()) } else { None }
            })
            .collect()
    }

    pub(super) fn dead_by(&self) -> Vec<Option<BootTime>> {
        let starts = self.0.iter();
        starts
            .filter_map(|effect| if let Effect::Start(start) = effect { Some(start.dead_by) } else { None })
            .collect()
    }

    pub(super) fn keep_alive(&self) -> Option<BootTime> {
        self.0
            .iter()
            .find_map(|effect| if let Effect::KeepAlive { dead_by } = effect { Some(*dead_by) } else { None })
    }

    pub(super) fn stopped(&self) -> Vec<StoppedBy> {
        self.0
            .iter()
            .filter_map(|e| if let Effect::Stop { why, .. } = e { Some(*why) } else { None })
            .collect()
    }

    pub(super) fn acks(&self) -> Vec<Tag> {
        self.0.iter().filter_map(|e| if let Effect::Ack(tag) = e { Some(*tag) } else { None }).collect()
    }

    pub(super) fn nacks(&self) -> Vec<Tag> {
        self.0.iter().filter_map(|e| if let Effect::Nack(tag) = e { Some(*tag) } else { None }).collect()
    }

    fn published(&self) -> impl Iterator<Item = (ReportId, &Body)> {
        self.0.iter().filter_map(|e| if let Effect::Publish(p) = e { Some((p.id, &p.body)) } else { None })
    }

    pub(super) fn asks(&self) -> Vec<Nonce> {
        self.published()
            .filter_map(|(_, b)| if let Body::Ask(ask) = b { Some(ask.nonce) } else { None })
            .collect()
    }

    /// Started reports: their ids and how many attempts they name.
    pub(super) fn started_reports(&self) -> Vec<(ReportId, usize)> {
        self.published()
            .filter_map(|(id, b)| if let Body::Started(c) = b { Some((id, c.len())) } else { None })
            .collect()
    }

    pub(super) fn parts(&self) -> Vec<ReportId> {
        self.published().filter_map(|(id, b)| matches!(b, Body::Artifact(_)).then_some(id)).collect()
    }

    pub(super) fn outcomes(&self) -> Vec<OutcomeEnd> {
        self.published()
            .filter_map(|(_, b)| if let Body::Outcome(o) = b { Some(o.end.clone()) } else { None })
            .collect()
    }

    pub(super) fn claims(&self) -> Vec<Claim> {
        self.published()
            .filter_map(|(_, b)| if let Body::Outcome(o) = b { Some(o.claim.clone()) } else { None })
            .collect()
    }

    pub(super) fn refusals(&self) -> Vec<NotStarted> {
        let reason =
            |end: OutcomeEnd| if let OutcomeEnd::NotStarted { reason } = end { Some(reason) } else { None };
        self.outcomes().into_iter().filter_map(reason).collect()
    }

    pub(super) fn outcome_id(&self) -> ReportId {
        let found = self.published().find_map(|(id, b)| matches!(b, Body::Outcome(_)).then_some(id));
        found.unwrap_or_else(|| panic!("no outcome in {self:?}"))
    }

    /// Hellos and heartbeats; true for a hello.
    pub(super) fn presences(&self) -> Vec<(ReportId, (bool, Presence))> {
        let presence = |(id, body): (ReportId, &Body)| match body {
            Body::Hello(presence) => Some((id, (true, presence.clone()))),
            Body::Heartbeat(presence) => Some((id, (false, presence.clone()))),
            Body::Ask(_) | Body::Started(_) | Body::Outcome(_) | Body::Artifact(_) => None,
        };
        self.published().filter_map(presence).collect()
    }

    pub(super) fn presence_id(&self) -> ReportId {
        self.presences()[0].0
    }

    pub(super) fn noted(&self, what: &What) -> bool {
        self.0.iter().any(|e| matches!(e, Effect::Note(note) if note.what == *what))
    }

    pub(super) fn has(&self, effect: &Effect) -> bool {
        self.0.contains(effect)
    }
}

pub(super) fn claim(work: &Assignment) -> Claim {
    Claim { task_id: work.task_id.clone(), attempt: work.attempt, session: work.session, lease: work.lease }
}

pub(super) fn succeeded() -> HandlerEnd {
    HandlerEnd::Succeeded { changes: true, artifacts: BTreeMap::new(), result: None }
}

pub(super) fn failure() -> Failure {
    Failure::new(FailureKind::HandlerFailed, "no")
}

pub(super) fn failed() -> HandlerEnd {
    HandlerEnd::Failed(failure())
}

pub(super) fn revoke(work: &Assignment, force: bool) -> Order {
    Order::Revoke { claim: claim(work), reason: "test".to_owned(), force }
}

/// Files of the given sizes.
pub(super) fn files(sizes: &[(&str, usize)]) -> BTreeMap<String, Vec<u8>> {
    sizes.iter().map(|(name, size)| ((*name).to_owned(), vec![7; *size])).collect()
}

/// Work that needs `inputs`, and the parts that bring them.
pub(super) fn with_inputs(
    mut work: Assignment,
    inputs: &BTreeMap<String, Vec<u8>>,
) -> (Assignment, Vec<InputPart>) {
    work.inputs = Manifest::of(inputs).unwrap();
    let parts = split(inputs).map(|part| InputPart { key: work.key(), session: work.session, part });
    let parts = parts.collect();
    (work, parts)
}

/// The approval of exactly these inputs.
pub(super) fn approval_of(inputs: &Manifest) -> Option<AssignedApproval> {
    let approved_by = "somebody".to_owned();
    Some(AssignedApproval { approved_by, approved_at: DateTime::<Utc>::UNIX_EPOCH, digest: inputs.digest() })
}

/// The inputs that a start hands to its handler.
pub(super) fn inputs_of(came: &Came) -> Option<Arc<BTreeMap<String, Vec<u8>>>> {
    came.0
        .iter()
        .find_map(|e| if let Effect::Start(start) = e { Some(Arc::clone(&start.inputs)) } else { None })
}
