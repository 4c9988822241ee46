//! What a replica does by itself: it runs passes, watches agents, and sweeps.

use std::time::Duration;

use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::control::Control;
use switchyard_common::contract::ids::{AgentRef, LeaseToken, PoolId};
use switchyard_common::contract::routing::canary_key;
use switchyard_common::task::{AssignTo, Input, RevokeReason};
use switchyard_dispatcher::control::{Told, stop_order};
use switchyard_dispatcher::presence::drained::{EmptyLook, OtherReplica};
use switchyard_dispatcher::schedule::{Detail, Placement, plan};
use switchyard_dispatcher::settle::held::oldest_that_holds_back;
use switchyard_dispatcher::store::Named;
use switchyard_dispatcher::store::route::Publish;

use uuid::Uuid;

use super::broker::{Body, Message};
use super::replica::Action;
use super::routing::Job;
use super::scenario::{LOST_AFTER_MS, RUN_TIMEOUT_GRACE_MS};
use super::store::clock;
use super::world::World;

/// How long one half of a dead letter waits for the other, in milliseconds (protocol D3).
const LETTER_WAIT_MS: u64 = 30_000;

impl World {
    /// Everything periodic.
    pub(super) fn tick(&mut self, replica: usize) {
        let (now, number, life) = (self.now(), self.replicas[replica].number, self.replicas[replica].life);
        if self.has_database(replica) {
            self.store.replicas.insert(number, now);
        }
        self.route_tick(replica);
        self.replicas[replica].ticks += 1;
        let duties: [fn(&mut Self, usize); 3] = [Self::watch, Self::sweep, Self::pass];
        if self.replicas[replica].ticks.is_multiple_of(2) {
            for duty in duties {
                if self.replicas[replica].life == life {
                    duty(self, replica);
                }
            }
        }
    }

    /// Asks everything that the judge wants to know, then declares losses if it may (protocol C1).
    fn watch(&mut self, replica: usize) {
        let (now, at) = (self.now(), Duration::from_millis(self.now()));
        let canary = self.replicas[replica].judge.canary_sent(at);
        if let Some(conn) = self.replicas[replica].publish {
            let key = canary_key(&self.replicas[replica].name);
            let message = Message::new(&self.exchanges.reports, &key, Body::Canary(canary));
            self.publish(conn, message);
        }
        let has_database = self.has_database(replica);
        let one = &mut self.replicas[replica];
        if has_database {
            one.judge.database_answered(at)
        } else {
            one.judge.database_failed()
        }
        if one.consume.is_some() && self.broker.ready(&self.namespace.outcomes_queue()) == 0 {
            let by_database = clock(now);
            one.judge.outcomes_looked(EmptyLook { asked_at: at, answered_at: at, by_database });
        }
        self.tell_settled(replica, has_database);
        if has_database && self.replicas[replica].judge.may_declare(at).is_ok() {
            for (agent, session) in self.store.declare_lost(now, LOST_AFTER_MS) {
                self.log(|| format!("replica {replica} declares {agent} lost"));
                self.check_lost(&agent, session);
            }
        }
    }

    /// Says up to when this replica has settled what it was handed, and asks the others.
    fn tell_settled(&mut self, replica: usize, has_database: bool) {
        let at = Duration::from_millis(self.now());
        let held = |waits| {
            let held = self.replicas[replica].held.iter().filter(move |held| held.waits == waits);
            held.map(|held| Duration::from_millis(held.since))
        };
        let kept = held(false).chain(oldest_that_holds_back(at, held(true))).min();
        let one = &mut self.replicas[replica];
        one.settled.emptied(at, kept);
        let (own, number) = (one.settled.through(), one.number);
        if !has_database {
            return;
        }
        if let Some(through) = own {
            let through = u64::try_from(through.as_millis()).unwrap_or(u64::MAX);
            self.store.settled.insert(number, clock(through));
        }
        let others: Vec<OtherReplica> = self
            .store
            .replicas
            .keys()
            .filter(|other| **other != number)
            .map(|other| {
                let lives = self.replicas.iter().find(|one| one.number == *other);
                let has_queue = lives.is_some_and(|one| {
                    self.broker.depth(&self.namespace.presence_queue(&one.name)).is_some()
                });
                OtherReplica {
                    replica: Uuid::from_u128(*other as u128),
                    settled_through: self.store.settled.get(other).copied(),
                    is_gone: !has_queue,
                }
            })
            .collect();
        self.replicas[replica].judge.outcomes_told(at, own, &others);
    }

    /// What time, and what nobody answered, asks for.
    fn sweep(&mut self, replica: usize) {
        if !self.has_database(replica) {
            return;
        }
        let (now, life) = (self.now(), self.replicas[replica].life);
        self.store.end_revoked(now);
        let letters = self.store.complete_letters(now, LETTER_WAIT_MS);
        let revoked = letters.iter().filter_map(|key| self.revoked_for_letter(key)).collect();
        let families: [Vec<Named>; 4] = [
            self.store.due(now, RUN_TIMEOUT_GRACE_MS),
            self.store.left_behind(),
            self.store.unlisted(),
            revoked,
        ];
        for inputs in families {
            if self.replicas[replica].life != life {
                return;
            }
            if !inputs.is_empty() && self.apply(replica, &inputs) {
                self.wake(replica);
            }
        }
        if self.replicas[replica].life != life {
            return;
        }
        self.store.check_unlisted();
        let due = self.store.revokes_due(now);
        let actions = due
            .into_iter()
            .filter_map(|due| {
                let to = self.store.attempts.get(&due.key)?.attempt.assignee.agent.clone();
                let order = stop_order(due.claim, due.revoke.reason, due.revoke.force);
                Some(Action::Tell(Box::new(Told { to, control: Control { epoch: self.store.epoch, order } })))
            })
            .collect();
        self.after_commit(replica, actions);
    }

    /// A letter without a failure revokes its attempt (protocol D3).
    fn revoked_for_letter(&self, key: &str) -> Option<Named> {
        let (task, attempt) = key.strip_prefix("attempt:")?.rsplit_once('#')?;
        let row = self
            .store
            .open_attempts()
            .find(|((id, number), _)| id.as_str() == task && number.to_string() == attempt);
        let ((task_id, number), _) = row?;
        let input = Input::Revoke { reason: RevokeReason::BrokerLetter };
        Some(Named { task_id: task_id.clone(), attempt: Some(*number), input })
    }

    /// One pass over every pool.
    pub(super) fn pass(&mut self, replica: usize) {
        if !self.has_database(replica) {
            return;
        }
        let life = self.replicas[replica].life;
        for pool in self.store.pools() {
            if self.replicas[replica].life == life {
                self.pass_over(replica, &pool);
            }
        }
    }

    fn pass_over(&mut self, replica: usize, pool: &PoolId) {
        let snapshot = self.store.snapshot(self.now(), pool);
        let planned = plan(&snapshot, Detail::ExclusiveOnly);
        if planned.placements.is_empty() {
            return;
        }
        let inputs: Vec<Named> =
            planned.placements.iter().map(|placement| self.named(pool, placement)).collect();
        let (now, number) = (self.now(), self.replicas[replica].number);
        let applied = self.store.apply(now, number, &mut self.dice, &inputs);
        if let Some(served) = planned.served_rank() {
            self.store.advance_rank(pool, served);
        }
        self.applied(&applied);
        for placement in &planned.placements {
            self.store.check_load(&AgentRef { pool: pool.clone(), agent: placement.agent.clone() });
        }
        let assigned = applied.iter().filter_map(|applied| {
            let after = applied.after()?;
            Some(AttemptKey { task_id: after.task.id.clone(), attempt: after.attempt.as_ref()?.number })
        });
        let jobs: Vec<Job> = assigned.map(|key| Job { publish: Publish::first(key), tries: 1 }).collect();
        if !jobs.is_empty() && self.commit_is_told() {
            self.after_commit(replica, vec![Action::Route(jobs)]);
        }
    }

    fn named(&mut self, pool: &PoolId, placement: &Placement) -> Named {
        let to = AssignTo {
            agent: AgentRef { pool: pool.clone(), agent: placement.agent.clone() },
            pod: placement.pod.clone(),
            session: placement.session,
            lease: LeaseToken(self.dice.uuid()),
        };
        Named { task_id: placement.task_id.clone(), attempt: None, input: Input::Assign(to) }
    }
}
