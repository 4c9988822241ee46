//! An agent's connections, and what its machine wants done.

use std::rc::Rc;

use switchyard_common::contract::report::{OutcomeBatch, Report, ReportBody, StartedBatch};
use switchyard_dispatcher::route::Delivery;
use switchyard_worker_agent::machine::{AttemptId, Body as Said, Effect, Input, Publish, Tag};

use super::agent::AgentEvent;
use super::broker::{Body, Message};
use super::faults::Fault;
use super::wire::{ConnId, Process, Role, ToBroker, ToClient};
use super::world::{Event, World};

/// Longest wait before a connection is tried again, in milliseconds.
const RECONNECT_MAX_MS: u64 = 1_500;

impl World {
    /// Opens a connection; the control queue is the lock on the agent's id (protocol A3).
    pub(super) fn agent_connects(&mut self, agent: usize, role: Role) {
        let (life, id) = (self.agents[agent].life, self.agents[agent].id.clone());
        let Some(conn) = self.open(Process::Agent(agent), life, role) else {
            self.plan_agent(agent, RECONNECT_MAX_MS, AgentEvent::Connect(role));
            return;
        };
        if role == Role::Publish {
            self.agents[agent].publish = Some(conn);
            return;
        }
        let control = self.namespace.control_queue_topology(&id.pool, &id.agent);
        if self.broker.declare(conn, &control).is_err() {
            self.log(|| format!("agent {agent} finds its id in use"));
            self.wires.forget(conn);
            self.plan_agent(agent, RECONNECT_MAX_MS, AgentEvent::Connect(role));
            return;
        }
        let own = self.namespace.agent_queue_topology(&id.pool, &id.agent);
        // It is not exclusive: it cannot be in use.
        let _declared = self.broker.declare(conn, &own);
        self.agents[agent].consume = Some(conn);
        self.broker.consume(conn, &self.namespace.control_queue(&id.pool, &id.agent), None);
        self.agent_consumes(agent, conn);
    }

    /// Consumes its own queue, unless it takes no more.
    pub(super) fn agent_consumes(&mut self, agent: usize, conn: ConnId) {
        // One that the broker has closed cannot consume; what is left of it comes with its end.
        let closed = self.wires.get(conn).is_none_or(|one| one.closed_at_broker);
        if self.agents[agent].consume != Some(conn) || closed {
            return;
        }
        let id = self.agents[agent].id.clone();
        if self.agents[agent].consuming {
            let prefetch = usize::from(self.agents[agent].settings.prefetch());
            self.broker.consume(conn, &self.namespace.agent_queue(&id.pool, &id.agent), Some(prefetch));
        }
        self.log(|| format!("agent {agent} consumes"));
        self.tell_agent(agent, Input::ConsumeReady);
        self.deliver();
    }

    pub(super) fn agent_loses(&mut self, agent: usize, conn: ConnId, role: Role) {
        self.log(|| format!("agent {agent} loses its connection for {role:?}"));
        self.plan_agent(agent, RECONNECT_MAX_MS, AgentEvent::Connect(role));
        match role {
            Role::Consume => {
                self.agents[agent].consume = None;
                self.tell_agent(agent, Input::ConsumeLost);
            }
            Role::Publish => {
                self.agents[agent].publish = None;
                let unanswered = std::mem::take(&mut self.agents[agent].unanswered);
                for ((on, _), (report, _)) in unanswered {
                    if on == conn {
                        self.tell_agent(agent, Input::Lost(report));
                    }
                }
            }
        }
    }

    pub(super) fn agent_hears(&mut self, agent: usize, conn: ConnId, frame: ToClient) {
        match frame {
            ToClient::Answer { number, delivery } => {
                let answered = self.agents[agent].unanswered.remove(&(conn, number));
                if let Some((report, must_arrive)) = answered {
                    let arrived = match delivery {
                        Delivery::Acked => true,
                        Delivery::Returned => !must_arrive,
                        Delivery::Nacked | Delivery::Unknown => false,
                    };
                    let input = if arrived { Input::Confirmed(report) } else { Input::Lost(report) };
                    self.tell_agent(agent, input);
                }
            }
            ToClient::ChannelClosed => {
                self.log(|| format!("agent {agent} loses the channel of its queue"));
                self.tell_agent(agent, Input::ConsumeLost);
                self.plan_agent(agent, RECONNECT_MAX_MS, AgentEvent::Consume(conn));
            }
            ToClient::Delivery { tag, message, .. } => match message.body {
                Body::Agent(body) => {
                    let tag = Tag { channel: conn, number: tag };
                    self.tell_agent(agent, Input::Delivery { tag, message: (*body).clone() });
                }
                Body::Control(control) => self.tell_agent(agent, Input::Control((*control).clone())),
                Body::Report(_) | Body::Event(_) | Body::Canary(_) => {}
            },
        }
    }

    /// One input for the machine, and whatever it wants done.
    pub(super) fn tell_agent(&mut self, agent: usize, input: Input) {
        let at = self.now();
        let one = &mut self.agents[agent];
        let now = one.now(at);
        let heard = one.witness.hears(&input);
        let Some(machine) = one.machine.as_mut() else { return };
        for effect in machine.handle(now, input) {
            self.check_effect(agent, &heard, &effect);
            self.agent_effect(agent, effect);
        }
        self.check_agent(agent, &heard);
    }

    fn agent_effect(&mut self, agent: usize, effect: Effect) {
        match effect {
            Effect::Publish(publish) => self.agent_says(agent, publish),
            Effect::Ack(tag) => self.agent_settles(agent, tag, ToBroker::Ack),
            Effect::Nack(tag) => self.agent_settles(agent, tag, ToBroker::Nack),
            Effect::Start(start) => self.start_run(agent, &start),
            Effect::Stop { attempt, why } => {
                self.log(|| format!("agent {agent} stops a handler: {why:?}"));
                self.stop_run(agent, attempt);
            }
            Effect::KeepAlive { dead_by } => {
                let at = self.agents[agent].sim_time(dead_by);
                self.keep_alive(agent, at);
            }
            Effect::SessionStarted(session) => self.log(|| format!("agent {agent} takes session {session}")),
            Effect::StopConsuming => {
                let id = self.agents[agent].id.clone();
                self.agents[agent].consuming = false;
                if let Some(conn) = self.agents[agent].consume {
                    self.broker.cancel(conn, &self.namespace.agent_queue(&id.pool, &id.agent));
                }
            }
            Effect::Drained => self.agent_exits(agent),
            Effect::Note(note) => {
                self.log(|| {
                    let key = note.key.as_ref().map(ToString::to_string).unwrap_or_default();
                    format!("agent {agent} notes {key} {}", note.what)
                });
            }
        }
    }

    fn agent_settles(&mut self, agent: usize, tag: Tag, frame: fn(u64) -> ToBroker) {
        // A tag of a channel that is gone means nothing.
        if self.agents[agent].consume != Some(tag.channel) {
            return;
        }
        // Now and then the connection is gone just then.
        if !self.calm && self.dice.chance(self.scenario.lost_settle_per_mille) {
            let (broker, client) = (self.dice.below(30), self.dice.below(30));
            self.cut(tag.channel, broker, client);
        }
        self.send(tag.channel, frame(tag.number));
    }

    fn agent_says(&mut self, agent: usize, publish: Publish) {
        let now = self.now();
        let (body, must_arrive) = match publish.body {
            Said::Hello(presence) => {
                self.agents[agent].witness.says(publish.id, presence.session, now);
                (ReportBody::Hello(presence), false)
            }
            Said::Heartbeat(presence) => {
                self.agents[agent].witness.says(publish.id, presence.session, now);
                (ReportBody::Heartbeat(presence), false)
            }
            Said::Ask(ask) => {
                self.ledger.asked.entry(AttemptId::from(ask.claim.lease)).or_insert(now);
                // Now and then it is stopped while the answer is on its way.
                if !self.calm && self.dice.chance(self.scenario.stop_after_ask_per_mille) {
                    self.plan(1, Event::Fault(Fault::AgentStops(agent)));
                }
                (ReportBody::Ask(ask), true)
            }
            Said::Started(claims) => (ReportBody::Started(StartedBatch { claims }), true),
            Said::Outcome(outcome) => {
                self.reported(agent, &outcome);
                (ReportBody::Outcome(OutcomeBatch { outcomes: vec![(*outcome).clone()] }), true)
            }
            Said::Artifact(part) => (ReportBody::Artifact((*part).clone()), true),
        };
        let Some(conn) = self.agents[agent].publish else {
            self.plan_agent(agent, 300, AgentEvent::Unsent(publish.id));
            return;
        };
        let key = body.kind().key(&self.agents[agent].id);
        let report = Rc::new(Report { epoch: publish.epoch, body });
        let message = Message::new(&self.exchanges.reports, &key, Body::Report(report));
        self.overhear(&message);
        let number = self.publish(conn, message);
        self.agents[agent].unanswered.insert((conn, number), (publish.id, must_arrive));
    }
}
