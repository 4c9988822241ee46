//! Route: committed assignments to agents' queues, through the production rules of what follows a publish (protocol B1 to B3).

use std::rc::Rc;
use std::time::Duration;

use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::assignment::{AgentMessage, AttemptKey};
use switchyard_common::task::Input;
use switchyard_dispatcher::route::decide::{
    CONFIRM_RECORD_AFTER, FORGOTTEN_AFTER, REPLICA_STALE_AFTER, may_send_for,
};
use switchyard_dispatcher::route::{Delivery, Next, after_publish};
use switchyard_dispatcher::store::Named;
use switchyard_dispatcher::store::route::{Dispatch, Publish};

use super::agenda::Millis;
use super::broker::{Body, Message};
use super::replica::{Action, Replica, ReplicaEvent, STORE_WAIT_MS};
use super::wire::ConnId;
use super::world::World;

/// What is to be published, and how often this replica has published it.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which.
    pub publish: Publish,
    /// This is the publish with this number by this replica.
    pub tries: u32,
}

/// An assignment that was read and goes out now.
#[derive(Debug)]
pub struct Sending {
    dispatch: Dispatch,
    tries: u32,
    /// Not to be written later than this.
    write_by: Millis,
}

/// An assignment that is out, with the parts ahead of it.
#[derive(Debug)]
pub struct Sent {
    key: AttemptKey,
    publish_no: u32,
    tries: u32,
    /// The publishes, the assignment's own last, with what the broker said of each.
    publishes: Vec<((ConnId, u64), Option<Delivery>)>,
}

impl Replica {
    /// Whether it looks after the publish of an attempt.
    fn knows(&self, key: &AttemptKey) -> bool {
        self.in_flight.contains(key)
            || self.resends.iter().any(|(_, publish, _)| publish.key == *key)
            || self.confirmed.iter().any(|(_, confirmed)| confirmed == key)
            || self.returned.iter().any(|(returned, _)| returned == key)
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl World {
    /// Reads what is to be published; then publishes it.
    pub(super) fn route(&mut self, replica: usize, jobs: Vec<Job>) {
        if !self.has_database(replica) {
            self.plan_replica(replica, STORE_WAIT_MS, ReplicaEvent::Act(vec![Action::Route(jobs)]));
            return;
        }
        let (now, number) = (self.now(), self.replicas[replica].number);
        let (mut sendings, mut late) = (Vec::new(), Vec::new());
        for Job { publish, tries } in jobs {
            let Some(dispatch) = self.store.dispatch(now, number, &publish) else { continue };
            match may_send_for(dispatch.age) {
                Some(left) => sendings.push(Sending { dispatch, tries, write_by: now + millis(left) }),
                None => late.push((now, publish, tries.saturating_sub(1))),
            }
        }
        self.replicas[replica].resends.extend(late);
        self.replicas[replica].in_flight.extend(sendings.iter().map(|one| one.dispatch.assignment.key()));
        let wait_max = self.act_wait_max();
        self.plan_replica(replica, wait_max, ReplicaEvent::Send(sendings));
    }

    pub(super) fn send_assignments(&mut self, replica: usize, sendings: Vec<Sending>) {
        for Sending { dispatch, tries, write_by } in sendings {
            let mut work = dispatch.assignment;
            if work.approval.is_some() && !self.calm && self.dice.chance(self.scenario.wrong_inputs_per_mille)
            {
                work.inputs = Manifest::default();
            }
            let (key, publish_no) = (work.key(), work.publish_no);
            if self.now() >= write_by {
                let unsent = Sent { key, publish_no, tries, publishes: Vec::new() };
                self.publish_ended(replica, &unsent, Delivery::Unknown, &[]);
                continue;
            }
            self.check_publisher(replica, &Publish { key: key.clone(), publish_no });
            let to = self.namespace.agent_queue(&work.pool, &work.agent);
            let mut bodies: Vec<AgentMessage> =
                dispatch.parts.into_iter().map(AgentMessage::InputPart).collect();
            bodies.push(AgentMessage::Assignment(Box::new(work)));
            let mut sent = Sent { key, publish_no, tries, publishes: Vec::new() };
            let Some(conn) = self.replicas[replica].publish else {
                self.publish_ended(replica, &sent, Delivery::Unknown, &[]);
                continue;
            };
            self.replicas[replica].sends += 1;
            let id = self.replicas[replica].sends;
            for body in bodies {
                let message = Message::new(&self.exchanges.default, &to, Body::Agent(Rc::new(body)));
                let number = self.publish(conn, message);
                self.replicas[replica].answers.insert((conn, number), id);
                sent.publishes.push(((conn, number), None));
            }
            self.replicas[replica].sent.insert(id, sent);
        }
    }

    /// Who was taken over sends nothing (protocol B2).
    fn check_publisher(&mut self, replica: usize, publish: &Publish) {
        let number = self.replicas[replica].number;
        let row = self.store.attempts.get(&(publish.key.task_id.clone(), publish.key.attempt));
        let is_open = row.is_some_and(|row| row.attempt.end.is_none());
        if is_open && !self.store.is_publisher(number, publish) {
            let (key, no) = (&publish.key, publish.publish_no);
            self.store
                .violated(format!("B2: replica {replica} sends {key} under {no}, which is not its own"));
        }
    }

    pub(super) fn publish_answered(&mut self, replica: usize, conn: ConnId, number: u64, delivery: Delivery) {
        let one = &mut self.replicas[replica];
        let Some(id) = one.answers.remove(&(conn, number)) else { return };
        let Some(sent) = one.sent.get_mut(&id) else { return };
        for (publish, said) in &mut sent.publishes {
            if *publish == (conn, number) {
                *said = Some(delivery);
            }
        }
        let said: Option<Vec<Delivery>> = sent.publishes.iter().map(|(_, said)| *said).collect();
        let Some(mut parts) = said else { return };
        let Some(sent) = one.sent.remove(&id) else { return };
        let own = parts.pop().unwrap_or(Delivery::Unknown);
        self.publish_ended(replica, &sent, own, &parts);
    }

    /// The connection failed: what was not answered may have arrived or not.
    pub(super) fn publishes_unknown(&mut self, replica: usize, conn: ConnId) {
        let open: Vec<u64> = self.replicas[replica]
            .answers
            .keys()
            .filter(|(on, _)| *on == conn)
            .map(|(_, number)| *number)
            .collect();
        for number in open {
            self.publish_answered(replica, conn, number, Delivery::Unknown);
        }
    }

    fn publish_ended(&mut self, replica: usize, sent: &Sent, own: Delivery, parts: &[Delivery]) {
        let next = after_publish(own, parts, sent.tries, self.dice.unit());
        self.log(|| {
            format!("replica {replica} published {} #{}: {own:?}, {next:?}", sent.key, sent.publish_no)
        });
        let now = self.now();
        let one = &mut self.replicas[replica];
        one.in_flight.remove(&sent.key);
        match next {
            Next::Confirmed => one.confirmed.push((now, sent.key.clone())),
            Next::TellReturned => {
                one.returned.push((sent.key.clone(), sent.publish_no));
                self.tell_returned(replica);
            }
            Next::Resend { after } => {
                let publish = Publish { key: sent.key.clone(), publish_no: sent.publish_no };
                one.resends.push((now + millis(after), publish, sent.tries));
            }
        }
    }

    /// The agent's queue is gone: undo the assignment, or revoke it where another copy may have arrived (protocol B3).
    pub(super) fn tell_returned(&mut self, replica: usize) {
        if self.replicas[replica].returned.is_empty() || !self.has_database(replica) {
            return;
        }
        let returned = std::mem::take(&mut self.replicas[replica].returned);
        let named = |(key, publish_no): &(AttemptKey, u32)| Named {
            task_id: key.task_id.clone(),
            attempt: Some(key.attempt),
            input: Input::Returned { publish_no: *publish_no },
        };
        let inputs: Vec<Named> = returned.iter().map(named).collect();
        let told = self.apply(replica, &inputs);
        if told {
            self.wake(replica);
        } else {
            self.replicas[replica].returned = returned;
        }
    }

    /// Repeats whose time has come, and publishes of replicas that are gone. The number is raised before anything is sent.
    pub(super) fn route_tick(&mut self, replica: usize) {
        self.tell_returned(replica);
        if !self.has_database(replica) {
            return;
        }
        if self.replicas[replica].publish.is_none() {
            return;
        }
        let (now, number) = (self.now(), self.replicas[replica].number);
        let waiting = std::mem::take(&mut self.replicas[replica].resends);
        let (mut due, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(at, ..)| *at <= now);
        self.replicas[replica].resends = later;
        let orphans = self.store.orphaned(now, number, millis(REPLICA_STALE_AFTER));
        due.extend(orphans.into_iter().map(|publish| (now, publish, 0)));
        let mut forgotten = self.store.unconfirmed_own(now, number, millis(FORGOTTEN_AFTER));
        forgotten.retain(|publish| {
            !self.replicas[replica].knows(&publish.key)
                && !due.iter().any(|(_, one, _)| one.key == publish.key)
        });
        due.extend(forgotten.into_iter().map(|publish| (now, publish, 0)));
        let given_up: Vec<Publish> = due.iter().map(|(_, publish, _)| publish.clone()).collect();
        let claimed = self.store.claim_resends(now, number, &given_up);
        let tries = |key: &AttemptKey| {
            due.iter().find(|(_, publish, _)| publish.key == *key).map_or(1, |(_, _, tries)| tries + 1)
        };
        let jobs: Vec<Job> =
            claimed.into_iter().map(|publish| Job { tries: tries(&publish.key), publish }).collect();
        if !jobs.is_empty() {
            self.log(|| format!("replica {replica} publishes again: {jobs:?}"));
            self.after_commit(replica, vec![Action::Route(jobs)]);
        }
        self.record_confirms(replica);
    }

    fn record_confirms(&mut self, replica: usize) {
        let ripe_at = self.now().saturating_sub(millis(CONFIRM_RECORD_AFTER));
        let one = &mut self.replicas[replica];
        let (ripe, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut one.confirmed).into_iter().partition(|(at, _)| *at <= ripe_at);
        one.confirmed = later;
        let keys: Vec<AttemptKey> = ripe.into_iter().map(|(_, key)| key).collect();
        for key in keys.iter().filter(|key| !self.ledger.arrived.contains(*key)) {
            self.store.violated(format!("B2: a confirm of {key} is recorded that the broker never gave"));
        }
        self.store.record_confirms(self.agenda.now(), &keys);
    }
}
