//! What the driver says of itself after every turn. Written by one task, read by the HTTP server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::machine::{BootTime, Machine};

/// Silence of the driver's loop after which the process counts as stuck. It turns many times a second.
pub const TURN_AGE_MAX: Duration = Duration::from_secs(30);

/// The newest of everything. Clones share it.
#[derive(Debug, Clone)]
pub struct Vitals {
    slots: u32,
    lost_timeout: Duration,
    newest: Arc<Mutex<Newest>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Newest {
    turned_at: BootTime,
    heard: Option<BootTime>,
    connected: bool,
    draining: bool,
    in_hand: usize,
}

/// What a probe is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Whether the agent can be given work.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<&'static str>,
    /// Whether the process does its work at all.
    #[serde(skip)]
    pub alive: bool,
    /// Attempts in hand, from delivery to the confirmed outcome.
    pub in_hand: usize,
    /// Handlers that run at the same time at most.
    pub slots: u32,
    /// Time since the newest confirmed heartbeat was sent, in seconds; none while this session was never heard.
    pub heartbeat_age_seconds: Option<f64>,
    /// The agent's own queue is consumed, and its id is locked.
    pub broker_connected: bool,
}

impl Vitals {
    /// Of an agent that has not begun.
    #[must_use]
    pub fn new(slots: u32, lost_timeout: Duration, now: BootTime) -> Self {
        let newest = Newest { turned_at: now, ..Newest::default() };
        Self { slots, lost_timeout, newest: Arc::new(Mutex::new(newest)) }
    }

    /// After a turn of the driver.
    pub(crate) fn turned(&self, now: BootTime, machine: &Machine) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Newest {
            turned_at: now,
            heard: machine.heard(),
            connected: machine.is_connected(),
            draining: machine.is_draining(),
            in_hand: machine.in_hand(),
        };
    }

    /// How the agent is at `now`.
    #[must_use]
    pub fn report(&self, now: BootTime) -> Report {
        let newest = *self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let age = newest.heard.map(|heard| now.since(heard));
        let faults = [
            (
                !newest.connected,
                "the agent's queues are not consumed: the broker is away, or its id is in use",
            ),
            (age.is_none(), "no heartbeat of this session is confirmed yet"),
            (
                age.is_some_and(|age| age >= self.lost_timeout),
                "no heartbeat was confirmed within the lost timeout",
            ),
            (newest.draining, "the agent drains: it takes no more work"),
        ];
        let because: Vec<&str> = faults.into_iter().filter_map(|(holds, why)| holds.then_some(why)).collect();
        Report {
            ready: because.is_empty(),
            because,
            alive: now.since(newest.turned_at) < TURN_AGE_MAX,
            in_hand: newest.in_hand,
            slots: self.slots,
            heartbeat_age_seconds: age.map(|age| age.as_secs_f64()),
            broker_connected: newest.connected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Duration = Duration::from_secs(20);

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    fn vitals(newest: Newest) -> Vitals {
        let vitals = Vitals::new(4, LOST, at(100));
        *vitals.newest.lock().unwrap() = newest;
        vitals
    }

    #[test]
    fn an_agent_is_ready_while_it_is_connected_heard_and_not_draining() {
        let sound =
            Newest { turned_at: at(100), heard: Some(at(99)), connected: true, draining: false, in_hand: 2 };
        let report = vitals(sound).report(at(100));
        assert!(report.ready && report.alive, "{report:?}");
        assert_eq!((report.in_hand, report.slots, report.heartbeat_age_seconds), (2, 4, Some(1.0)));
        for broken in [
            Newest { connected: false, ..sound },
            Newest { heard: None, ..sound },
            Newest { heard: Some(at(80)), ..sound },
            Newest { draining: true, ..sound },
        ] {
            let report = vitals(broken).report(at(100));
            assert!(!report.ready && report.alive && report.because.len() == 1, "{report:?}");
        }
    }

    #[test]
    fn a_loop_that_turns_no_more_is_not_alive() {
        let new = Vitals::new(4, LOST, at(100));
        assert!(new.report(at(129)).alive);
        assert!(!new.report(at(130)).alive);
    }
}
