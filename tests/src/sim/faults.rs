//! What breaks, and when it is mended.

use std::collections::BTreeMap;
use std::rc::Rc;

use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::ids::{LeaseToken, Nonce};
use switchyard_common::contract::report::{
    Ask, Claim, Outcome, OutcomeBatch, OutcomeEnd, Report, ReportBody, StartedBatch,
};
use switchyard_common::contract::routing::ReportKind;

use super::agenda::Millis;
use super::agent::AgentEvent;
use super::broker::{Body, Message};
use super::store::clock;
use super::wire::{ConnId, Process, Role};
use super::world::{Event, World};

/// Something that breaks, or is mended.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// An agent's process is killed.
    AgentDies(usize),
    /// An agent's process is stopped for a while.
    AgentStops(usize),
    /// It goes on.
    AgentResumes(usize, u32),
    /// An agent gets SIGTERM.
    AgentDrains(usize),
    /// A replica is killed.
    ReplicaDies(usize),
    /// A replica is stopped for a while.
    ReplicaStops(usize),
    /// It goes on.
    ReplicaResumes(usize, u32),
    /// A process loses one of its connections, and may connect again at once.
    Blip(Process, Role),
    /// A process cannot reach the broker for a while.
    Parted(Process),
    /// A replica, or all of them, cannot reach the database for a while.
    NoDatabase(usize),
    /// The broker restarts.
    BrokerRestarts,
    /// An agent's queue is deleted, with what is in it.
    QueueDeleted(usize),
    /// Somebody who is no such agent reports.
    Impostor,
    /// A report comes again that was sent before.
    Echo,
    /// Nothing reaches a replica on its consume connection any more, and nobody notices for long.
    Deaf(usize),
    /// An administrator throws away reports that nobody has read yet.
    OutcomesPurged,
    /// An operator fences, as after a restore.
    Fence,
    /// An operator pauses the pool, an agent, or a workspace, for a while.
    Paused(usize),
    /// The pool's grant is revoked, for a while.
    Revoked,
    /// Everything is resumed, and granted.
    Resumed,
    /// The broker gives up on a process that does not answer.
    Silent(ConnId),
    /// Nothing breaks any more, and everything is mended.
    Calm,
}

/// What is broken now.
#[derive(Debug, Default)]
pub struct Weather {
    /// Nobody reaches the broker before.
    pub broker_away_until: Millis,
    /// These do not reach it before.
    pub parted_until: BTreeMap<Process, Millis>,
    /// These replicas do not reach the database before.
    pub no_database_until: BTreeMap<usize, Millis>,
    /// Reports that were sent, to be sent again.
    overheard: Vec<Message>,
}

/// Reports that are remembered to be sent again.
const OVERHEARD_MAX_COUNT: usize = 64;
/// Longest time until a peer that is gone is noticed by the heartbeat of its connection, in milliseconds.
const NOTICE_MAX_MS: u64 = 30_000;
/// Longest short stop of an agent, in milliseconds: its session lives on.
const SHORT_STOP_MAX_MS: u64 = 16_000;
/// Longest stop of a process, in milliseconds: well over the lost-timeout.
const STOP_MAX_MS: u64 = 50_000;

impl World {
    /// Draws when what breaks.
    pub(super) fn plan_faults(&mut self) {
        let until = self.scenario.calm_at;
        self.plan(until, Event::Fault(Fault::Calm));
        for _ in 0..self.scenario.faults {
            let wait = self.dice.below(until);
            if let Some(fault) = self.draw_fault() {
                self.plan(wait, Event::Fault(fault));
            }
        }
    }

    fn draw_fault(&mut self) -> Option<Fault> {
        let agent = self.dice.index(self.agents.len())?;
        let replica = self.dice.index(self.replicas.len())?;
        let process = if self.dice.chance(500) { Process::Agent(agent) } else { Process::Replica(replica) };
        let role = if self.dice.chance(500) { Role::Consume } else { Role::Publish };
        self.dice.weighted(&[
            (14, Fault::AgentDies(agent)),
            (12, Fault::AgentStops(agent)),
            (10, Fault::AgentDrains(agent)),
            (10, Fault::ReplicaDies(replica)),
            (6, Fault::ReplicaStops(replica)),
            (16, Fault::Blip(process, role)),
            (10, Fault::Parted(process)),
            (6, Fault::NoDatabase(replica)),
            (3, Fault::BrokerRestarts),
            (9, Fault::QueueDeleted(agent)),
            (4, Fault::OutcomesPurged),
            (5, Fault::Deaf(replica)),
            (10, Fault::Impostor),
            (8, Fault::Echo),
            (4, Fault::Fence),
            (5, Fault::Paused(agent)),
            (3, Fault::Revoked),
        ])
    }

    /// Whether a process cannot reach the broker.
    pub(super) fn is_parted(&self, process: Process) -> bool {
        let now = self.now();
        self.weather.broker_away_until > now
            || self.weather.parted_until.get(&process).is_some_and(|at| *at > now)
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        if self.calm
            && !matches!(fault, Fault::AgentResumes(..) | Fault::ReplicaResumes(..) | Fault::Silent(_))
        {
            return;
        }
        self.log(|| format!("fault   {fault:?}"));
        match fault {
            Fault::AgentDies(agent) => self.crash_agent(agent),
            Fault::AgentStops(agent) => self.agent_stops(agent),
            Fault::AgentResumes(agent, life) => {
                if self.agents[agent].life == life {
                    self.resume_agent(agent);
                }
            }
            Fault::AgentDrains(agent) => {
                let life = self.agents[agent].life;
                self.agent_event(agent, life, AgentEvent::Drain);
            }
            Fault::ReplicaDies(replica) => self.crash_replica(replica),
            Fault::ReplicaStops(replica) => {
                let (wait, life) = (self.dice.between(500, STOP_MAX_MS), self.replicas[replica].life);
                self.stop_replica(replica);
                self.plan(wait, Event::Fault(Fault::ReplicaResumes(replica, life)));
                self.plan_silence(Process::Replica(replica), wait);
            }
            Fault::ReplicaResumes(replica, life) => {
                if self.replicas[replica].life == life {
                    self.resume_replica(replica);
                }
            }
            Fault::Blip(process, role) => self.blip(process, role),
            Fault::Parted(process) => self.part(process),
            Fault::NoDatabase(replica) => {
                let until = self.now() + self.dice.between(200, 40_000);
                let away_for_all = self.dice.chance(400);
                for other in 0..self.replicas.len() {
                    if away_for_all || other == replica {
                        self.weather.no_database_until.insert(other, until);
                    }
                }
            }
            Fault::BrokerRestarts => self.broker_restarts(),
            Fault::QueueDeleted(agent) => self.delete_queue(agent),
            Fault::Impostor => self.impostor(),
            Fault::OutcomesPurged => self.purge_outcomes(),
            Fault::Deaf(replica) => {
                for conn in self.wires.whole(Process::Replica(replica)) {
                    if self.wires.get(conn).is_some_and(|one| one.role == Role::Consume) {
                        let (broker, client) =
                            (self.dice.between(20_000, 40_000), self.dice.between(20_000, 40_000));
                        self.cut(conn, broker, client);
                    }
                }
            }
            Fault::Echo => self.echo(),
            Fault::Fence => {
                let now = self.now();
                let applied = self.store.fence(now, &mut self.dice);
                self.applied(&applied);
            }
            Fault::Paused(agent) => self.pause(agent),
            Fault::Revoked => {
                self.store.revoked = true;
                self.plan_resume();
            }
            Fault::Resumed => self.store.resume_all(),
            Fault::Silent(conn) => self.cut(conn, 0, 1),
            Fault::Calm => self.calm_down(),
        }
    }

    fn pause(&mut self, agent: usize) {
        match self.dice.below(3) {
            0 => self.store.pause_pool(true),
            1 => self.store.pause_agent(&self.agents[agent].id.clone()),
            _ => {
                if let Some(workspace) = self.some_workspace() {
                    self.store.pause_workspace(&workspace);
                }
            }
        }
        self.plan_resume();
    }

    fn plan_resume(&mut self) {
        let wait = self.dice.between(1_000, 30_000);
        self.plan(wait, Event::Fault(Fault::Resumed));
    }

    fn agent_stops(&mut self, agent: usize) {
        let most = if self.dice.chance(500) { SHORT_STOP_MAX_MS } else { STOP_MAX_MS };
        let (wait, life) = (self.dice.between(200, most), self.agents[agent].life);
        self.stop_agent(agent);
        self.plan(wait, Event::Fault(Fault::AgentResumes(agent, life)));
        self.plan_silence(Process::Agent(agent), wait);
    }

    /// A stopped process does not answer the broker, which gives up on it after a while.
    fn plan_silence(&mut self, process: Process, stopped_for: Millis) {
        for conn in self.wires.whole(process) {
            let notice = self.dice.between(8_000, NOTICE_MAX_MS);
            if notice < stopped_for {
                self.plan(notice, Event::Fault(Fault::Silent(conn)));
            }
        }
    }

    fn blip(&mut self, process: Process, role: Role) {
        for conn in self.wires.whole(process) {
            if self.wires.get(conn).is_some_and(|one| one.role == role) {
                let (broker, client) = (self.dice.below(30), self.dice.below(30));
                self.cut(conn, broker, client);
            }
        }
    }

    /// Each side notices when its heartbeats fail, which takes a while.
    fn part(&mut self, process: Process) {
        let until = self.now() + self.dice.between(300, 45_000);
        self.weather.parted_until.insert(process, until);
        for conn in self.wires.whole(process) {
            let (broker, client) = (self.dice.below(NOTICE_MAX_MS), self.dice.below(NOTICE_MAX_MS));
            self.cut(conn, broker, client);
        }
    }

    fn broker_restarts(&mut self) {
        self.weather.broker_away_until = self.now() + self.dice.between(200, 30_000);
        for conn in self.wires.all_whole() {
            let client = self.dice.below(100);
            self.cut(conn, 0, client);
        }
    }

    fn purge_outcomes(&mut self) {
        for message in self.broker.purge(&self.namespace.outcomes_queue()) {
            self.log(|| format!("purged  {message}"));
            if let Body::Report(report) = &message.body
                && let ReportBody::Outcome(batch) = &report.body
            {
                self.ledger.purged.extend(batch.outcomes.iter().map(|outcome| outcome.claim.key()));
            }
        }
    }

    fn delete_queue(&mut self, agent: usize) {
        let id = self.agents[agent].id.clone();
        self.broker.delete(&self.namespace.agent_queue(&id.pool, &id.agent));
        self.ledger.queues_deleted.insert(agent);
        // The broker cancels the consumer, which is a fault for it. Until it has declared the queue again, assignments are returned.
        let notice = if self.dice.chance(500) { self.dice.below(200) } else { self.dice.below(6_000) };
        for conn in self.wires.whole(Process::Agent(agent)) {
            if self.wires.get(conn).is_some_and(|one| one.role == Role::Consume) {
                self.plan(notice, Event::Fault(Fault::Silent(conn)));
            }
        }
    }

    /// Remembers a report, to send it again.
    pub(super) fn overhear(&mut self, message: &Message) {
        if self.calm {
            return;
        }
        if self.weather.overheard.len() >= OVERHEARD_MAX_COUNT
            && let Some(index) = self.dice.index(OVERHEARD_MAX_COUNT)
        {
            self.weather.overheard.swap_remove(index);
        }
        self.weather.overheard.push(message.clone());
    }

    /// A publish whose confirm was lost is repeated, or a copy was long on its way.
    fn echo(&mut self) {
        if let Some(index) = self.dice.index(self.weather.overheard.len()) {
            let message = self.weather.overheard[index].clone();
            self.log(|| format!("echo    {message}"));
            self.broker.publish(&message);
            self.deliver();
        }
    }

    /// A report that is wrong in one thing: another agent's name, another token, another session, or an attempt that is over.
    fn impostor(&mut self) {
        let attempts: Vec<_> =
            self.store.attempts.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        let Some(index) = self.dice.index(attempts.len()) else { return };
        let ((task_id, attempt), row) = attempts[index].clone();
        let assignee = row.attempt.assignee;
        let mut claim = Claim { task_id, attempt, session: assignee.session, lease: assignee.lease };
        let mut sender = assignee.agent;
        let is_open = row.attempt.end.is_none();
        let wrong = self.dice.below(4);
        match wrong {
            0 => {
                let other = self.agents.iter().map(|agent| agent.id.clone()).find(|other| *other != sender);
                let Some(other) = other else { return };
                sender = other;
            }
            1 => claim.lease = LeaseToken(self.dice.uuid()),
            2 => claim.session.0 = self.dice.uuid(),
            _ => {}
        }
        let end = OutcomeEnd::Succeeded {
            changes: self.dice.chance(500),
            artifacts: Manifest::default(),
            result: None,
        };
        // Of an open attempt nobody but its agent knows everything; at most an ask comes that it never drew the nonce of.
        let (kind, body) = if is_open && wrong == 3 {
            let body = ReportBody::Ask(Ask { claim, nonce: Nonce(self.dice.uuid()) });
            (ReportKind::Ask, Report { epoch: self.store.epoch, body })
        } else {
            self.forged(claim, end)
        };
        let message = Message::new(&self.exchanges.reports, &kind.key(&sender), Body::Report(Rc::new(body)));
        self.log(|| format!("forged  {message}"));
        self.broker.publish(&message);
        self.deliver();
    }

    fn forged(&mut self, claim: Claim, end: OutcomeEnd) -> (ReportKind, Report) {
        let (kind, body) = match self.dice.below(4) {
            0 => (ReportKind::Started, ReportBody::Started(StartedBatch { claims: vec![claim] })),
            1 => (ReportKind::Ask, ReportBody::Ask(Ask { claim, nonce: Nonce(self.dice.uuid()) })),
            _ => {
                let ended_at = clock(self.now());
                let outcome = Outcome { claim, started_at: None, ended_at, log_lines: 0, end };
                (ReportKind::Outcome, ReportBody::Outcome(OutcomeBatch { outcomes: vec![outcome] }))
            }
        };
        (kind, Report { epoch: self.store.epoch, body })
    }

    /// Everything is mended, and stays so.
    fn calm_down(&mut self) {
        self.calm = true;
        self.troubles.end();
        self.weather.broker_away_until = 0;
        self.weather.parted_until.clear();
        self.weather.no_database_until.clear();
        self.store.resume_all();
        for agent in 0..self.agents.len() {
            self.resume_agent(agent);
        }
        for replica in 0..self.replicas.len() {
            self.resume_replica(replica);
        }
    }
}
