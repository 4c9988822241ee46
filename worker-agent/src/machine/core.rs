//! The machine itself: one input in, effects out, and the bookkeeping of published reports.

use std::collections::BTreeMap;

use switchyard_common::contract::assignment::{AgentMessage, AttemptKey};
use switchyard_common::contract::ids::{SessionId, WorkspaceId};

use super::attempt_id::AttemptId;
use super::hand::{Hand, Held, Stage};
use super::limits::OUTCOMES_KEPT_PER_PLACE_COUNT;
use super::message::{Body, Effect, IdSource, Input, Publish, ReportId};
use super::note::{Note, What};
use super::parts::Parts;
use super::presence::PresenceState;
use super::settings::Settings;
use super::time::{BootTime, Now};
use super::tombstone::Tombstones;

/// An agent without its I/O.
pub struct Machine {
    pub(super) settings: Settings,
    pub(super) ids: Box<dyn IdSource>,
    pub(super) session: SessionId,
    /// The newest restore epoch seen (protocol G).
    pub(super) epoch: i64,
    pub(super) hand: Hand,
    pub(super) tombstones: Tombstones,
    pub(super) parts: Parts,
    pub(super) presence: PresenceState,
    /// What the confirm of a report is awaited for.
    pub(super) reports: BTreeMap<ReportId, Purpose>,
    last_report: u64,
    /// The control queue is ours, and with it the agent's id.
    pub(super) connected: bool,
    pub(super) draining: bool,
    /// The process wants to end once nothing is in hand.
    pub(super) exiting: bool,
    drained: bool,
    out: Vec<Effect>,
}

/// What a report is for, where its confirm or loss matters.
#[derive(Debug)]
pub(super) enum Purpose {
    Outcome(AttemptId),
    Part(AttemptId),
    Started(Vec<AttemptId>),
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("agent", &self.settings.agent)
            .field("session", &self.session)
            .field("in_hand", &self.hand.len())
            .field("draining", &self.draining)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// An agent at its start: a new session that has not said hello, nothing in hand.
    #[must_use]
    pub fn new(settings: Settings, mut ids: Box<dyn IdSource>) -> Self {
        let session = ids.session();
        let outcomes_max = usize::from(settings.prefetch()) * OUTCOMES_KEPT_PER_PLACE_COUNT;
        Self {
            settings,
            ids,
            session,
            epoch: 0,
            hand: Hand::default(),
            tombstones: Tombstones::new(outcomes_max),
            parts: Parts::default(),
            presence: PresenceState::default(),
            reports: BTreeMap::new(),
            last_report: 0,
            connected: false,
            draining: false,
            exiting: false,
            drained: false,
            out: Vec::new(),
        }
    }

    /// Takes one input and says what is to be done about it.
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Effect> {
        // First of all: an agent that was paused may have lost its session without noticing (protocol C3).
        self.watch_silence(now);
        match input {
            Input::ConsumeReady => self.consume_ready(now),
            Input::ConsumeLost => self.consume_lost(),
            Input::Delivery { tag, message: AgentMessage::Assignment(work) } => {
                self.assignment(now, tag, *work)
            }
            Input::Delivery { tag, message: AgentMessage::InputPart(part) } => {
                self.input_part(now, tag, part)
            }
            Input::Control(control) => self.control(now, control),
            Input::HandlerEnded { attempt, end, log_lines } => {
                self.handler_ended(now, attempt, end, log_lines)
            }
            Input::Confirmed(id) => self.confirmed(now, id),
            Input::Lost(id) => self.lost(now, id),
            Input::Tick => self.tick(now),
            Input::DrainRequested => {
                self.exiting = true;
                self.drain(now);
            }
            Input::DrainGraceOver => self.drain_grace_over(),
        }
        self.start_ready(now);
        self.say_drained();
        std::mem::take(&mut self.out)
    }

    /// The session that the agent speaks under.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The newest restore epoch that it has seen, which its reports carry (protocol G).
    #[must_use]
    pub const fn epoch(&self) -> i64 {
        self.epoch
    }

    /// When the newest sign of life of this session that is confirmed was sent; none while it was never heard.
    #[must_use]
    pub const fn heard(&self) -> Option<BootTime> {
        self.presence.heard()
    }

    /// Whether deliveries can come.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether it takes no more work.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// Attempts in hand: from delivery to the confirm of the outcome.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        self.hand.len()
    }

    /// Attempts whose handler runs or that ask to start.
    #[must_use]
    pub const fn slots_used(&self) -> u32 {
        self.hand.slots_used()
    }

    /// What the machine was told about itself.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn emit(&mut self, effect: Effect) {
        self.out.push(effect);
    }

    /// Publishes a report; `purpose` says what its confirm is awaited for, if for anything.
    pub(super) fn publish(&mut self, body: Body, purpose: Option<Purpose>) -> ReportId {
        self.last_report += 1;
        let id = ReportId(self.last_report);
        if let Some(purpose) = purpose {
            self.reports.insert(id, purpose);
        }
        self.emit(Effect::Publish(Publish { id, epoch: self.epoch, body }));
        id
    }

    pub(super) fn note(&mut self, what: What) {
        self.emit(Effect::Note(Note { key: None, workspace: None, what }));
    }

    pub(super) fn note_key(&mut self, key: AttemptKey, workspace: Option<WorkspaceId>, what: What) {
        self.emit(Effect::Note(Note { key: Some(key), workspace, what }));
    }

    /// A note about an attempt in hand.
    pub(super) fn note_held(&mut self, attempt: AttemptId, what: What) {
        if let Some(held) = self.hand.get(attempt) {
            let (key, workspace) = (held.claim.key(), held.workspace.clone());
            self.note_key(key, workspace, what);
        }
    }

    fn confirmed(&mut self, now: Now, id: ReportId) {
        if self.presence_confirmed(id) {
            return;
        }
        match self.reports.remove(&id) {
            Some(Purpose::Outcome(attempt)) => self.outcome_confirmed(attempt, id),
            Some(Purpose::Part(attempt)) => self.part_confirmed(now, attempt, id),
            Some(Purpose::Started(_)) | None => {}
        }
    }

    fn lost(&mut self, now: Now, id: ReportId) {
        if self.presence_lost(now, id) {
            return;
        }
        match self.reports.remove(&id) {
            Some(Purpose::Outcome(attempt)) => self.outcome_lost(now, attempt, id),
            Some(Purpose::Part(attempt)) => self.part_lost(now, attempt, id),
            Some(Purpose::Started(attempts)) => self.started_lost(&attempts),
            None => {}
        }
    }

    fn started_lost(&mut self, attempts: &[AttemptId]) {
        for attempt in attempts {
            if let Some(Held { stage: Stage::Running(running), .. }) = self.hand.get_mut(*attempt) {
                running.reported = false;
            }
        }
    }

    fn say_drained(&mut self) {
        if self.exiting && !self.drained && self.hand.len() == 0 {
            self.drained = true;
            self.emit(Effect::Drained);
        }
    }
}
