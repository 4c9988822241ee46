//! May this replica declare agents lost now? Pure: the clock is an argument (protocol C1).
//!
//! Silence proves something only to somebody who can hear. A replica judges itself before it judges an agent: for a full lost-timeout
//! without a gap its own canaries must have come back through the exchange that heartbeats take, and the database must have
//! answered; and the queue of outcomes must have been seen empty just now, since a report that nobody has read yet is not silence.
//! So a lone dead agent is found, and an outage of the broker or the database is not mistaken for one.

use std::collections::VecDeque;
use std::time::Duration;

/// Longest time between two signs of the same source in a stretch without a gap, and longest age of an observation of an empty
/// outcomes queue; less where the lost-timeout is short.
pub const SIGN_GAP_MAX: Duration = Duration::from_secs(3);
/// The gap is at most the lost-timeout divided by this.
const GAPS_PER_LOST_TIMEOUT_COUNT: u32 = 4;
/// Signs are asked for this often within the allowed gap.
const SIGNS_PER_GAP_COUNT: u32 = 3;
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
    drained_at: Option<Duration>,
}

impl Judge {
    /// A judge that has heard nothing yet.
    #[must_use]
    pub fn new(lost_after: Duration) -> Self {
        Self {
            lost_after,
            gap_max: SIGN_GAP_MAX.min(lost_after / GAPS_PER_LOST_TIMEOUT_COUNT),
            open: VecDeque::new(),
            last_canary: 0,
            heard: None,
            answered: None,
            drained_at: None,
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

    /// A canary came back. It speaks for the moment when it was sent: one that took long proves that heartbeats take long too.
    pub fn canary_heard(&mut self, number: u64) {
        let Some(at) = self.open.iter().position(|(open, _)| *open == number) else { return };
        if let Some((_, sent_at)) = self.open.remove(at) {
            self.heard = Some(Stretch::extended(self.heard, sent_at, self.gap_max));
        }
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

    /// The outcomes queue was asked at `asked_at` how many messages wait in it.
    pub fn outcomes_waiting(&mut self, asked_at: Duration, messages: u32) {
        if messages == 0 {
            self.drained_at = Some(asked_at);
        }
    }

    /// Whether nothing waits in the outcomes queue, as far as is known.
    #[must_use]
    pub fn is_drained(&self, now: Duration) -> bool {
        self.drained_at.is_some_and(|at| now.saturating_sub(at) <= self.gap_max)
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
        if !self.is_drained(now) {
            return Err(NotNow::OutcomesWait);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
