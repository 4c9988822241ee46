//! What travels: typed values in place of bytes, since the wire form has tests of its own.

use std::fmt;
use std::rc::Rc;

use switchyard_common::contract::assignment::AgentMessage;
use switchyard_common::contract::control::{Control, Order};
use switchyard_common::contract::report::{Report, ReportBody};
use switchyard_dispatcher::intake::command::{Admitted, Command};

/// What a message carries.
#[derive(Debug, Clone)]
pub enum Body {
    /// To an agent's own queue.
    Agent(Rc<AgentMessage>),
    /// To an agent's control queue.
    Control(Rc<Control>),
    /// From an agent.
    Report(Rc<Report>),
    /// From upstream.
    Event(Rc<Admitted>),
    /// From a replica to itself.
    Canary(u64),
}

/// One message.
#[derive(Debug, Clone)]
pub struct Message {
    /// The exchange that it was published to.
    pub exchange: Rc<str>,
    /// Its routing key.
    pub key: Rc<str>,
    /// What it carries.
    pub body: Body,
    /// The queue that it was dead-lettered from.
    pub died_in: Option<Rc<str>>,
    /// How often it was handed out before, and came back.
    pub deliveries: u64,
}

impl Message {
    /// A message on its way to `exchange`.
    #[must_use]
    pub fn new(exchange: &Rc<str>, key: &str, body: Body) -> Self {
        Self { exchange: Rc::clone(exchange), key: key.into(), body, died_in: None, deliveries: 0 }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Agent(message) => match &**message {
                AgentMessage::Assignment(work) => {
                    write!(f, "assignment {} publish {} to {}", work.key(), work.publish_no, self.key)
                }
                AgentMessage::InputPart(part) => write!(f, "input part for {} to {}", part.key, self.key),
            },
            Body::Control(control) => write!(f, "{} to {}", order(&control.order), self.key),
            Body::Report(report) => write!(f, "{} {}", self.key, report_text(&report.body)),
            Body::Event(event) => write!(f, "event {} {}", event.key.id, command(&event.command)),
            Body::Canary(number) => write!(f, "canary {number}"),
        }
    }
}

fn order(order: &Order) -> String {
    match order {
        Order::Go { key, .. } => format!("go {key}"),
        Order::NoGo { key, reason, .. } => format!("no-go {key} ({reason})"),
        Order::Cancel { claim, force } => format!("cancel {} force={force}", claim.key()),
        Order::Revoke { claim, reason, force } => format!("revoke {} ({reason}) force={force}", claim.key()),
        Order::Drain => "drain".to_owned(),
        Order::EndSession { session } => format!("end of session {session}"),
    }
}

fn report_text(body: &ReportBody) -> String {
    match body {
        ReportBody::Hello(presence) | ReportBody::Heartbeat(presence) => {
            let hand: Vec<String> = presence.in_hand.iter().map(|held| held.key.to_string()).collect();
            format!("session {} #{} in hand [{}]", presence.session, presence.sequence, hand.join(" "))
        }
        ReportBody::Ask(ask) => format!("{}", ask.claim.key()),
        ReportBody::Started(batch) => {
            batch.claims.iter().map(|claim| claim.key().to_string()).collect::<Vec<_>>().join(" ")
        }
        ReportBody::Outcome(batch) => {
            let ends = batch.outcomes.iter().map(|one| format!("{} {}", one.claim.key(), one.end.name()));
            ends.collect::<Vec<_>>().join(" ")
        }
        ReportBody::Artifact(part) => format!("{} {}", part.claim.key(), part.part.name),
        ReportBody::Log(lines) => format!("{} {} lines", lines.claim.key(), lines.lines.len()),
    }
}

fn command(command: &Command) -> String {
    match command {
        Command::Register(registered) => format!("registers {}", registered.workspace_id),
        Command::Submit(new) => format!("submits {} ({}) in {}", new.task_id, new.kind.name, new.workspace),
        Command::Approve(asked) => format!("approves {}", asked.task_id),
        Command::Discard(asked) => format!("discards {}", asked.task_id),
        Command::Cancel(asked) => {
            format!("cancels {} force={}", asked.task_id, asked.force.unwrap_or_default())
        }
    }
}
