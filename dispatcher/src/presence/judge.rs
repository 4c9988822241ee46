//! May this replica declare agents lost now? Pure: the clock is an argument (protocol C1).
//!
//! Silence proves something only to somebody who can hear. A replica judges itself before it judges an agent: for a full lost-timeout
//! without a gap its own canaries must have come back through the exchange that heartbeats take, and the database must have
//! answered; and all outcomes must have been settled at a moment not long ago, since a report that nobody has read yet, or that some
//! replica has in hand, is not silence.
//! So a lone dead agent is found, and an outage of the broker or the database is not mistaken for one.

use std::collections::VecDeque;
use std::time::Duration;

use super::drained::{Drained, EmptyLook, ON_ITS_WAY_MAX, OtherReplica};

/// Longest time between two signs of the same source in a stretch without a gap, and longest age of the moment at which all outcomes
/// were settled where an agent's list is compared with them; less where the lost-timeout is short.
pub const SIGN_GAP_MAX: Duration = Duration::from_secs(3);
/// The gap is at most the lost-timeout divided by this.
const GAPS_PER_LOST_TIMEOUT_COUNT: u32 = 4;
/// Signs are asked for this often within the allowed gap.
const SIGNS_PER_GAP_COUNT: u32 = 6;
/// A loss may be declared while the moment at which all outcomes were settled is at most the lost-timeout divided by this ago: whoever
/// has been silent for the whole of it was silent then.
const DRAINED_PER_LOST_TIMEOUT_COUNT: u32 = 2;
/// Most canaries that are on their way at the same time; older ones are given up.
pub const CANARIES_OPEN_MAX_COUNT: usize = 16;

/// Why this replica may not declare losses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// It does not hear its own canaries.
    Deaf,
    /// The database does not answer.
    NoDatabase,
    /// It hears, and the database answers, but not for a full lost-timeout yet.
    TooSoon,
    /// Outcomes wait that nobody has read.
    OutcomesWait,
    /// The queue of outcomes is empty, but a replica may have some in hand that it has not settled.
    OutcomesInHand,
}

impl NotNow {
    /// The word for it in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deaf => "deaf",
            Self::NoDatabase => "no_database",
            Self::TooSoon => "too_soon",
            Self::OutcomesWait => "outcomes_wait",
            Self::OutcomesInHand => "outcomes_in_hand",
        }
    }
}

/// A stretch of signs without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    since: Duration,
    until: Duration,
}

impl Stretch {
    /// The stretch after a sign that speaks for the moment `at`.
    fn extended(stretch: Option<Self>, at: Duration, gap_max: Duration) -> Self {
        match stretch {
            Some(known) if at <= known.until => known,
            Some(known) if at - known.until <= gap_max => Self { since: known.since, until: at },
            Some(_) | None => Self { since: at, until: at },
        }
    }

    fn is_alive(self, now: Duration, gap_max: Duration) -> bool {
        now.saturating_sub(self.until) <= gap_max
    }

    fn covers(self, now: Duration, window: Duration) -> bool {
        now.checked_sub(window).is_some_and(|begin| self.since <= begin)
    }
}

/// What a replica knows of its own hearing. Times are durations since any fixed moment, from a clock that goes on in suspend.
#[derive(Debug, Clone)]
pub struct Judge {
    lost_after: Duration,
    gap_max: Duration,
    /// Canaries on their way: number and send time.
    open: VecDeque<(u64, Duration)>,
    last_canary: u64,
    heard: Option<Stretch>,
    answered: Option<Stretch>,
    drained: Drained,
}

impl Judge {
    /// A judge that has heard nothing yet.
    #[must_use]
    pub fn new(lost_after: Duration) -> Self {
        let gap_max = SIGN_GAP_MAX.min(lost_after / GAPS_PER_LOST_TIMEOUT_COUNT);
        Self {
            lost_after,
            gap_max,
            open: VecDeque::new(),
            last_canary: 0,
            heard: None,
            answered: None,
            drained: Drained::new(ON_ITS_WAY_MAX.min(gap_max / SIGNS_PER_GAP_COUNT)),
        }
    }

    /// How often canaries are to be sent, and the database and the outcomes queue asked.
    #[must_use]
    pub fn ask_every(&self) -> Duration {
        self.gap_max / SIGNS_PER_GAP_COUNT
    }

    /// The number of the canary that is sent now.
    pub fn canary_sent(&mut self, now: Duration) -> u64 {
        self.last_canary += 1;
        self.open.push_back((self.last_canary, now));
        if self.open.len() > CANARIES_OPEN_MAX_COUNT {
            self.open.pop_front();
        }
        self.last_canary
    }

    /// A canary came back. It speaks for the moment when it was sent, which is given: one that took long proves that heartbeats take long
    /// too. None for one that is not on its way.
    pub fn canary_heard(&mut self, number: u64) -> Option<Duration> {
        let at = self.open.iter().position(|(open, _)| *open == number)?;
        let (_, sent_at) = self.open.remove(at)?;
        self.heard = Some(Stretch::extended(self.heard, sent_at, self.gap_max));
        Some(sent_at)
    }

    /// The presence queue is new, or gone: what was sent to it before may be lost, canaries and heartbeats alike.
    pub fn hearing_interrupted(&mut self) {
        self.open.clear();
        self.heard = None;
    }

    /// The database has answered a question that was asked at `asked_at`.
    pub fn database_answered(&mut self, asked_at: Duration) {
        self.answered = Some(Stretch::extended(self.answered, asked_at, self.gap_max));
    }

    /// The database did not answer, or with an error.
    pub fn database_failed(&mut self) {
        self.answered = None;
    }

    /// The outcomes queue was seen empty.
    pub fn outcomes_looked(&mut self, look: EmptyLook) {
        self.drained.looked(look);
    }

    /// Up to when the replicas have settled what they were handed: this one, and all the others.
    pub fn outcomes_told(&mut self, now: Duration, own: Option<Duration>, others: &[OtherReplica]) {
        self.drained.told(now, own, others);
    }

    /// Whether all outcomes were settled just now, as far as is known.
    #[must_use]
    pub fn is_drained(&self, now: Duration) -> bool {
        self.was_drained(now, self.gap_max)
    }

    fn was_drained(&self, now: Duration, within: Duration) -> bool {
        self.drained.at().is_some_and(|at| now.saturating_sub(at) <= within)
    }

    /// Whether losses may be declared now.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn may_declare(&self, now: Duration) -> Result<(), NotNow> {
        let heard = self.heard.filter(|heard| heard.is_alive(now, self.gap_max)).ok_or(NotNow::Deaf)?;
        let answered = self
            .answered
            .filter(|answered| answered.is_alive(now, self.gap_max))
            .ok_or(NotNow::NoDatabase)?;
        if !heard.covers(now, self.lost_after) || !answered.covers(now, self.lost_after) {
            return Err(NotNow::TooSoon);
        }
        if self.was_drained(now, self.lost_after / DRAINED_PER_LOST_TIMEOUT_COUNT) {
            return Ok(());
        }
        let empty = self.drained.has_unconfirmed_look(now.saturating_sub(self.gap_max));
        Err(if empty { NotNow::OutcomesInHand } else { NotNow::OutcomesWait })
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
