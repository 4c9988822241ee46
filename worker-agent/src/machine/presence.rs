//! Hello and heartbeats, and silence as the agent judges it on itself (protocol C2, C3).
//!
//! Silence counts from the *send* time of the newest confirmed sign of life. Signs of life are sent only while the control queue is
//! ours: an agent that cannot be told anything must not look alive.

use std::collections::VecDeque;
use std::time::Duration;

use switchyard_common::contract::report::{Presence, StoppedBy};

use super::attempt_id::AttemptId;
use super::core::Machine;
use super::hand::Stage;
use super::limits::{PRESENCE_OPEN_MAX_COUNT, PRESENCE_RETRY_MS};
use super::message::{Body, Effect, ReportId};
use super::note::SessionEnd;
use super::time::{BootTime, Now};

/// What is known of the session's signs of life.
#[derive(Debug, Default)]
pub(super) struct PresenceState {
    sequence: u64,
    /// A hello or heartbeat of this session is confirmed, so the next one is a heartbeat.
    greeted: bool,
    next_at: BootTime,
    /// Published, with their send times, oldest first.
    open: VecDeque<(ReportId, BootTime)>,
    /// Send time of the newest confirmed one; none = this session was never heard, and runs nothing.
    heard: Option<BootTime>,
}

impl PresenceState {
    pub(super) const fn heard(&self) -> Option<BootTime> {
        self.heard
    }
}

impl Machine {
    pub(super) fn consume_ready(&mut self, now: Now) {
        self.connected = true;
        self.send_presence(now);
    }

    /// The broker has every delivery back and will deliver it again.
    pub(super) fn consume_lost(&mut self) {
        self.connected = false;
        self.hand.drop_tags();
    }

    /// A hello until one is confirmed, heartbeats from then on. Lists everything in hand, also of ended sessions.
    pub(super) fn send_presence(&mut self, now: Now) {
        if !self.connected {
            return;
        }
        self.presence.sequence += 1;
        self.presence.next_at = now.boot.plus(self.settings.heartbeat);
        let presence = Presence {
            session: self.session,
            sequence: self.presence.sequence,
            pod: self.settings.pod.clone(),
            node: self.settings.node.clone(),
            version: self.settings.version.clone(),
            slots: self.settings.slots,
            credit: self.settings.credit,
            max_exclusive: self.settings.max_exclusive,
            handlers: self.settings.handlers.clone(),
            draining: self.draining,
            in_hand: self.hand.list(),
        };
        let body = if self.presence.greeted { Body::Heartbeat(presence) } else { Body::Hello(presence) };
        let id = self.publish(body, None);
        self.presence.open.push_back((id, now.boot));
        if self.presence.open.len() > PRESENCE_OPEN_MAX_COUNT {
            self.presence.open.pop_front();
        }
    }

    pub(super) fn presence_due(&mut self, now: Now) {
        if now.boot >= self.presence.next_at {
            self.send_presence(now);
        }
    }

    /// Whether `id` was a sign of life of this session; if so the session was heard when that one was sent.
    pub(super) fn presence_confirmed(&mut self, id: ReportId) -> bool {
        let Some(sent_at) = self.take_open(id) else { return false };
        self.presence.greeted = true;
        if self.presence.heard.is_none_or(|heard| heard < sent_at) {
            self.presence.heard = Some(sent_at);
            let dead_by = sent_at.plus(self.settings.session_limit());
            self.emit(Effect::KeepAlive { dead_by });
        }
        true
    }

    /// Whether `id` was a sign of life of this session; if so the next one comes sooner.
    pub(super) fn presence_lost(&mut self, now: Now, id: ReportId) -> bool {
        if self.take_open(id).is_none() {
            return false;
        }
        let soon = now.boot.plus(Duration::from_millis(PRESENCE_RETRY_MS));
        self.presence.next_at = self.presence.next_at.min(soon);
        true
    }

    fn take_open(&mut self, id: ReportId) -> Option<BootTime> {
        let at = self.presence.open.iter().position(|(open, _)| *open == id)?;
        self.presence.open.remove(at).map(|(_, sent_at)| sent_at)
    }

    /// Ends the session, or stops what only one agent may run, when the agent has not been heard for too long. Checked before
    /// anything else is done, so that a pause of the whole process is noticed first.
    pub(super) fn watch_silence(&mut self, now: Now) {
        let Some(silence) = self.silence(now) else { return };
        if silence >= self.settings.session_limit() {
            self.end_session(now, SessionEnd::Silence);
        } else if silence >= self.settings.exclusive_limit() {
            self.stop_exclusive();
        }
    }

    /// Stops handlers of exclusive repeatable steps, early enough to be dead when another agent may be given their work.
    pub(super) fn stop_exclusive(&mut self) {
        let exclusive: Vec<AttemptId> = self.running(|work| work.exclusive && work.repeatable);
        for attempt in exclusive {
            self.stop(attempt, StoppedBy::Silence);
        }
    }

    /// Whether a handler may start: never in silence, nor before the session was heard at all.
    pub(super) fn may_start(&self, now: Now) -> bool {
        self.silence(now).is_some_and(|silence| silence < self.settings.exclusive_limit())
    }

    pub(super) fn dead_by(&self) -> Option<BootTime> {
        self.presence.heard.map(|heard| heard.plus(self.settings.session_limit()))
    }

    fn silence(&self, now: Now) -> Option<Duration> {
        self.presence.heard.map(|heard| now.boot.since(heard))
    }

    /// Running attempts that `choose` picks and that nobody has stopped.
    pub(super) fn running(
        &self,
        choose: impl Fn(&switchyard_common::contract::assignment::Assignment) -> bool,
    ) -> Vec<AttemptId> {
        let chosen = self.hand.iter().filter(|(_, held)| match &held.stage {
            Stage::Running(running) => running.stop.is_none() && choose(&running.work),
            Stage::Waiting(_) | Stage::Asking(_) | Stage::Leaving(_) | Stage::Reporting(_) => false,
        });
        chosen.map(|(attempt, _)| *attempt).collect()
    }
}
