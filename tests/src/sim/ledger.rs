//! What handlers did, written down outside of the system: every start and every end, with the attempt and its secret. And the
//! model of the process between an agent and a handler (protocol C4): a handler never outlives its agent, and one that only one
//! agent may run is dead by the moment that its agent named last.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_common::contract::assignment::{AgentMessage, AttemptKey};
use switchyard_common::contract::ids::{AgentRef, Digest, SessionId, StepName, TaskId, WorkspaceId};
use switchyard_common::contract::report::ReportBody;
use switchyard_common::contract::routing::parse_report_key;
use switchyard_worker_agent::machine::{AttemptId, HandlerEnd, Start};

use super::agenda::Millis;
use super::agent::AgentEvent;
use super::broker::{Body, Message};
use super::world::{Event, World};

/// One run of one handler.
pub type RunId = usize;

/// What happens to a handler's process.
#[derive(Debug)]
pub enum RunEvent {
    /// It comes to its own end, or to the end of what was asked.
    Ends(HandlerEnd),
    /// The moment that the agent named as the last may have come.
    KeepAliveOver,
    /// Its agent is gone, and the supervisor kills it.
    Orphaned,
    /// It takes its agent with it.
    KillsAgent,
}

/// A handler's process.
#[derive(Debug)]
pub struct Run {
    /// The agent, by index, and its life.
    pub agent: (usize, u32),
    /// The attempt.
    pub key: AttemptKey,
    /// Its secret.
    pub id: AttemptId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its step.
    pub step: StepName,
    /// One at a time in its workspace.
    pub exclusive: bool,
    /// May run again.
    pub repeatable: bool,
    /// What it was given.
    pub inputs: Digest,
    /// When it started.
    pub started_at: Millis,
    /// When nothing of it was left.
    pub ended_at: Option<Millis>,
    /// The session that it was assigned to.
    pub session: SessionId,
    /// The restore epoch that its assignment carried.
    pub epoch: i64,
    /// Its agent has asked it to stop.
    pub stop_asked: bool,
    /// Dead by then, as far as its supervisor knows.
    pub dead_by: Option<Millis>,
}

/// Everything that handlers did.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Every run, in order of start.
    pub runs: Vec<Run>,
    /// Those that have not ended.
    pub alive: BTreeSet<RunId>,
    /// Attempts whose delivery was nacked, with how often.
    pub nacked: BTreeMap<AttemptKey, u32>,
    /// Attempts that ended with a failure report, with the life of the agent that reported.
    pub failed: BTreeMap<AttemptKey, (usize, u32)>,
    /// Workspaces that an operator released while a handler might still run in them, and said so.
    pub overridden: BTreeSet<WorkspaceId>,
    /// Agents whose queue was deleted with what was in it.
    pub queues_deleted: BTreeSet<usize>,
    /// Approvals that somebody gave: task and digest.
    pub approved: BTreeSet<(TaskId, Digest)>,
    /// When each attempt's start was first asked for.
    pub asked: BTreeMap<AttemptId, Millis>,
    /// Attempts of which the broker has put a copy into their agent's queue.
    pub arrived: BTreeSet<AttemptKey>,
    /// The newest sign of life of each agent that the broker has handed to some replica's queue: session and time.
    pub signs: BTreeMap<AgentRef, (SessionId, Millis)>,
    /// Attempts whose outcome somebody threw away.
    pub purged: BTreeSet<AttemptKey>,
    /// Tasks that an operator resolved.
    pub resolved: BTreeSet<TaskId>,
    /// Attempts with an outcome that was refused because its sender may not speak any more.
    pub unheard: BTreeSet<AttemptKey>,
}

/// Longest time from the death of an agent to that of its handlers, in milliseconds.
const ORPHAN_MAX_MS: u64 = 40;

impl Ledger {
    /// A delivery was nacked.
    pub fn nacked(&mut self, message: &Message) {
        if let Body::Agent(body) = &message.body
            && let AgentMessage::Assignment(work) = &**body
        {
            *self.nacked.entry(work.key()).or_default() += 1;
        }
    }

    /// The broker has put a message from a client's own connection into a queue.
    pub(super) fn taken(&mut self, message: &Message, now: Millis) {
        match &message.body {
            Body::Agent(body) => {
                if let AgentMessage::Assignment(work) = &**body {
                    self.arrived.insert(work.key());
                }
            }
            Body::Report(report) => {
                if let ReportBody::Hello(presence) | ReportBody::Heartbeat(presence) = &report.body
                    && let Ok((_, agent)) = parse_report_key(&message.key)
                {
                    self.signs.insert(agent, (presence.session, now));
                }
            }
            Body::Control(_) | Body::Event(_) | Body::Canary(_) => {}
        }
    }

    /// Live runs of one life of an agent.
    #[must_use]
    pub fn alive_at(&self, agent: usize, life: u32) -> Vec<RunId> {
        self.alive.iter().copied().filter(|run| self.runs[*run].agent == (agent, life)).collect()
    }

    /// The live run of an attempt in one life of an agent.
    #[must_use]
    pub fn alive_of(&self, agent: usize, life: u32, id: AttemptId) -> Option<RunId> {
        self.alive
            .iter()
            .copied()
            .find(|run| self.runs[*run].agent == (agent, life) && self.runs[*run].id == id)
    }
}

impl World {
    /// A handler starts.
    pub(super) fn start_run(&mut self, agent: usize, start: &Start) {
        let work = &start.work;
        let (life, now) = (self.agents[agent].life, self.now());
        let run = Run {
            agent: (agent, life),
            key: work.key(),
            id: AttemptId::from(work.lease),
            workspace: work.workspace_id.clone(),
            step: work.step.clone(),
            exclusive: work.exclusive,
            repeatable: work.repeatable,
            inputs: work.inputs.digest(),
            started_at: now,
            ended_at: None,
            session: work.session,
            epoch: work.epoch,
            stop_asked: false,
            dead_by: start.dead_by.map(|at| self.agents[agent].sim_time(at)),
        };
        self.log(|| format!("run     {} {} starts at agent {agent}.{life}", run.key, run.step));
        self.check_start(agent, &run);
        let id = self.ledger.runs.len();
        if let Some(at) = run.dead_by {
            self.agenda.plan_at(at, Event::Run { run: id, event: RunEvent::KeepAliveOver });
        }
        let (wait, event) = self.handler_plan(work);
        self.plan(wait, Event::Run { run: id, event });
        self.ledger.runs.push(run);
        self.ledger.alive.insert(id);
    }

    pub(super) fn run_event(&mut self, run: RunId, event: RunEvent) {
        if !self.ledger.alive.contains(&run) {
            return;
        }
        match event {
            RunEvent::Ends(end) => self.end_run(run, end),
            RunEvent::KeepAliveOver => {
                if self.ledger.runs[run].dead_by.is_some_and(|at| at <= self.now()) {
                    self.check_keep_alive(run);
                    self.end_run(run, HandlerEnd::KeepAliveStopped);
                }
            }
            RunEvent::Orphaned => self.end_run(run, HandlerEnd::Stopped),
            RunEvent::KillsAgent => {
                let (agent, life) = self.ledger.runs[run].agent;
                if self.agents[agent].life == life {
                    self.crash_agent(agent);
                }
            }
        }
    }

    fn end_run(&mut self, run: RunId, end: HandlerEnd) {
        let now = self.now();
        self.ledger.alive.remove(&run);
        let ended = &mut self.ledger.runs[run];
        ended.ended_at = Some(now);
        let ((agent, life), attempt, key) = (ended.agent, ended.id, ended.key.clone());
        self.log(|| format!("run     {key} ends: {}", end_name(&end)));
        let wait = self.dice.between(1, 3);
        let event = AgentEvent::HandlerEnded(attempt, end);
        self.plan(wait, Event::Agent { agent, life, event });
    }

    /// The agent names a later moment to the supervisors of what only it may run.
    pub(super) fn keep_alive(&mut self, agent: usize, dead_by: Millis) {
        let life = self.agents[agent].life;
        for run in self.ledger.alive_at(agent, life) {
            if let Some(at) = &mut self.ledger.runs[run].dead_by {
                *at = dead_by;
                self.agenda.plan_at(dead_by, Event::Run { run, event: RunEvent::KeepAliveOver });
            }
        }
    }

    /// The agent's end of the pipe to its supervisors has closed.
    pub(super) fn orphan_runs(&mut self, agent: usize, life: u32) {
        for run in self.ledger.alive_at(agent, life) {
            let wait = self.dice.between(1, ORPHAN_MAX_MS);
            self.plan(wait, Event::Run { run, event: RunEvent::Orphaned });
        }
    }
}

fn end_name(end: &HandlerEnd) -> &'static str {
    match end {
        HandlerEnd::Succeeded { .. } => "succeeded",
        HandlerEnd::Failed(_) => "failed",
        HandlerEnd::Panicked(_) => "panicked",
        HandlerEnd::TimedOut(_) => "timed out",
        HandlerEnd::Stopped => "stopped",
        HandlerEnd::KeepAliveStopped => "stopped by its supervisor",
    }
}
