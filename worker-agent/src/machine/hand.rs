//! The attempts that an agent has in hand, from delivery to the confirm of the outcome, and the slots that they occupy.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use switchyard_common::contract::assignment::Assignment;
use switchyard_common::contract::ids::{Nonce, WorkspaceId};
use switchyard_common::contract::report::{Claim, InHand, LeftPart, Outcome, StoppedBy};

use super::attempt_id::AttemptId;
use super::message::{ReportId, Tag};
use super::time::BootTime;

/// The files of an attempt's inputs, by name.
pub(super) type Inputs = Arc<BTreeMap<String, Vec<u8>>>;

/// One attempt in hand.
#[derive(Debug)]
pub(super) struct Held {
    /// What its reports show. Keeps the session that it was assigned to, also when that one has ended.
    pub(super) claim: Claim,
    pub(super) workspace: Option<WorkspaceId>,
    /// The one delivery that is acked or nacked at the end; none while the broker has it back.
    pub(super) tag: Option<Tag>,
    /// Which publish that delivery is; 0 when none was ever seen.
    pub(super) publish_no: u32,
    pub(super) stage: Stage,
}

/// How far an attempt has come. It moves down this list only.
#[derive(Debug)]
pub(super) enum Stage {
    /// For its inputs, or for a slot.
    Waiting(Waiting),
    /// For the dispatcher's go; has a slot.
    Asking(Asking),
    /// Its handler runs; has a slot.
    Running(Running),
    /// Its artifacts are on their way.
    Leaving(Leaving),
    /// Its outcome is on its way.
    Reporting(Reporting),
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) work: Arc<Assignment>,
    /// None while parts are missing.
    pub(super) inputs: Option<Inputs>,
    pub(super) since: BootTime,
}

#[derive(Debug)]
pub(super) struct Asking {
    pub(super) work: Arc<Assignment>,
    pub(super) inputs: Inputs,
    pub(super) nonce: Nonce,
    /// Of the first ask: repeating it does not prolong the window.
    pub(super) asked_at: BootTime,
    pub(super) repeat: Again,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) work: Arc<Assignment>,
    pub(super) since: BootTime,
    pub(super) started_at: DateTime<Utc>,
    /// The started report is confirmed, on its way, or not wanted.
    pub(super) reported: bool,
    /// The first reason to stop it; later ones change nothing.
    pub(super) stop: Option<StoppedBy>,
}

#[derive(Debug)]
pub(super) struct Leaving {
    /// Published, not yet confirmed.
    pub(super) open: BTreeMap<ReportId, Arc<LeftPart>>,
    /// Lost, to be published again.
    pub(super) lost: Vec<Arc<LeftPart>>,
    pub(super) again: Again,
    /// Sent once every part is confirmed.
    pub(super) outcome: Arc<Outcome>,
}

#[derive(Debug)]
pub(super) struct Reporting {
    pub(super) outcome: Arc<Outcome>,
    /// The publish whose confirm is awaited; none while it waits to be published again.
    pub(super) open: Option<ReportId>,
    pub(super) again: Again,
}

/// When something is repeated, and how often it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Again {
    pub(super) at: BootTime,
    tries: u32,
    initial_ms: u64,
    max_ms: u64,
}

impl Again {
    /// First repetition after `initial_ms`; the wait doubles up to `max_ms`.
    pub(super) fn from(now: BootTime, initial_ms: u64, max_ms: u64) -> Self {
        let mut again = Self { at: now, tries: 0, initial_ms, max_ms };
        again.put_off(now);
        again
    }

    /// The next repetition, counted from now.
    pub(super) fn put_off(&mut self, now: BootTime) {
        let factor = 1_u64.checked_shl(self.tries).unwrap_or(u64::MAX);
        let wait_ms = self.initial_ms.saturating_mul(factor).min(self.max_ms);
        self.at = now.plus(std::time::Duration::from_millis(wait_ms));
        self.tries = self.tries.saturating_add(1);
    }
}

impl Stage {
    /// What this stage takes up.
    fn place(&self) -> Place {
        match self {
            Self::Waiting(waiting) => Place {
                ready: waiting.inputs.is_some().then_some(waiting.work.exclusive),
                ..Place::default()
            },
            Self::Asking(asking) => {
                Place { slot: Some(asking.work.exclusive), nonce: Some(asking.nonce), ..Place::default() }
            }
            Self::Running(running) => Place { slot: Some(running.work.exclusive), ..Place::default() },
            Self::Leaving(_) | Self::Reporting(_) => Place::default(),
        }
    }
}

/// What an attempt takes up in the bookkeeping of the hand.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// A slot; true when it is an exclusive one.
    slot: Option<bool>,
    /// A place in a queue for a slot; true in the exclusive one.
    ready: Option<bool>,
    /// It waits for an answer to this nonce.
    nonce: Option<Nonce>,
}

/// All attempts in hand. Ordered, so that equal histories give
/// equal effects.
#[derive(Debug, Default)]
pub(super) struct Hand {
    held: BTreeMap<AttemptId, Held>,
    /// Ready for a slot, oldest first, with their number of arrival; exclusive ones apart, so that they never block the others.
    ready: VecDeque<(u64, AttemptId)>,
    ready_exclusive: VecDeque<(u64, AttemptId)>,
    arrivals: u64,
    asking: BTreeMap<Nonce, AttemptId>,
    slots_used: u32,
    exclusive_used: u32,
}

impl Hand {
    pub(super) fn get(&self, attempt: AttemptId) -> Option<&Held> {
        self.held.get(&attempt)
    }

    pub(super) fn get_mut(&mut self, attempt: AttemptId) -> Option<&mut Held> {
        self.held.get_mut(&attempt)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&AttemptId, &mut Held)> {
        self.held.iter_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&AttemptId, &Held)> {
        self.held.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) const fn slots_used(&self) -> u32 {
        self.slots_used
    }

    /// The attempt that asks with this nonce.
    pub(super) fn asking(&self, nonce: Nonce) -> Option<AttemptId> {
        self.asking.get(&nonce).copied()
    }

    /// Takes an attempt in hand.
    pub(super) fn insert(&mut self, held: Held) {
        let attempt = AttemptId::from(held.claim.lease);
        self.occupy(held.stage.place(), attempt);
        self.held.insert(attempt, held);
    }

    /// Moves an attempt to another stage; returns the one that it leaves.
    pub(super) fn advance(&mut self, attempt: AttemptId, stage: Stage) -> Option<Stage> {
        let held = self.held.get_mut(&attempt)?;
        let next = stage.place();
        let left = std::mem::replace(&mut held.stage, stage);
        self.vacate(left.place(), attempt);
        self.occupy(next, attempt);
        Some(left)
    }

    /// Puts an attempt down.
    pub(super) fn remove(&mut self, attempt: AttemptId) -> Option<Held> {
        let held = self.held.remove(&attempt)?;
        self.vacate(held.stage.place(), attempt);
        Some(held)
    }

    /// The oldest attempt that is ready and that the free slots allow.
    pub(super) fn next_ready(&self, slots: u32, max_exclusive: u32) -> Option<AttemptId> {
        if self.slots_used >= slots {
            return None;
        }
        let shared = self.ready.front();
        let exclusive = self.ready_exclusive.front().filter(|_| self.exclusive_used < max_exclusive);
        match (shared, exclusive) {
            (Some(one), Some(other)) => Some(one.min(other).1),
            (one, other) => one.or(other).map(|(_, attempt)| *attempt),
        }
    }

    /// The broker has every delivery back.
    pub(super) fn drop_tags(&mut self) {
        for held in self.held.values_mut() {
            held.tag = None;
        }
    }

    /// What a heartbeat lists.
    pub(super) fn list(&self) -> Vec<InHand> {
        let listed = self.held.values().map(|held| InHand {
            key: held.claim.key(),
            session: held.claim.session,
            running: matches!(held.stage, Stage::Running(_)),
        });
        listed.collect()
    }

    fn occupy(&mut self, place: Place, attempt: AttemptId) {
        if let Some(exclusive) = place.slot {
            self.slots_used += 1;
            self.exclusive_used += u32::from(exclusive);
        }
        if let Some(exclusive) = place.ready {
            self.arrivals += 1;
            let arrival = (self.arrivals, attempt);
            self.ready_queue(exclusive).push_back(arrival);
        }
        if let Some(nonce) = place.nonce {
            self.asking.insert(nonce, attempt);
        }
    }

    fn vacate(&mut self, place: Place, attempt: AttemptId) {
        if let Some(exclusive) = place.slot {
            self.slots_used = self.slots_used.saturating_sub(1);
            self.exclusive_used = self.exclusive_used.saturating_sub(u32::from(exclusive));
        }
        if let Some(exclusive) = place.ready {
            let queue = self.ready_queue(exclusive);
            // Nearly always the front: only a refused attempt leaves from the middle.
            if queue.front().is_some_and(|(_, front)| *front == attempt) {
                queue.pop_front();
            } else {
                queue.retain(|(_, other)| *other != attempt);
            }
        }
        if let Some(nonce) = place.nonce {
            self.asking.remove(&nonce);
        }
    }

    fn ready_queue(&mut self, exclusive: bool) -> &mut VecDeque<(u64, AttemptId)> {
        if exclusive { &mut self.ready_exclusive } else { &mut self.ready }
    }
}
